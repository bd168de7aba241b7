"""Logits → tokens: the generation loop."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import EOS, UNK
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States
from charlm.sampling.filters import Settings as Settings
from charlm.sampling.filters import apply_filters
from charlm.sampling.saved_state import GenerationState
from charlm.sampling.stepper import Stepper

# Ids, (batch,), and the states before them → logits, (batch, vocabulary), and the states after them.
Step = Callable[[Tensor, States], tuple[Tensor, States]]
_READ_AT_ONCE = 1024  # Tokens of a prompt.
_DRAWN_AT_ONCE = 64  # Random numbers of a sequence.
_BELOW_ONE = 1 - 2.0**-52


class Constraint(Protocol):
    """What may be written, where that depends on the text so far. It holds the state of every sequence of a batch."""

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), with those of forbidden tokens minus infinity."""
        ...

    def advance(self, tokens: list[int | None]) -> None:
        """Learn the next token of each sequence, None for one that has ended."""
        ...


@runtime_checkable
class ReversibleConstraint(Constraint, Protocol):
    """A constraint that can go back to where it was."""

    def mark(self) -> Any:
        """Return what `back` needs to come back to this place."""
        ...

    def back(self, mark: Any) -> None:
        """Go back to a place."""
        ...


@dataclass(frozen=True)
class Mark:
    """Where a sequence stood: what `Writing.back` needs."""

    states: States
    next: Tensor
    tokens: int
    running: bool
    constraints: list[Any]


class Generator:
    """Sequences that a model writes side by side.

    Sequence number k of a seed draws the same random numbers whichever others are written beside it. <UNK> is never
    drawn: it stands for what the model cannot write.

    Attributes:
        ids: Tokens that were there before the first one written: what a place had, then the prompt.
        written: Tokens of each sequence.
        running: Which sequences go on, (batch,).
        scored: Whether log-probabilities are kept.
        seed: Of the random numbers.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        *,
        numbers: Sequence[int],
        settings: Settings,
        seed: int,
        stops_at_eos: bool,
        constraints: Sequence[Constraint] = (),
        place: GenerationState | None = None,
        scored: bool = False,
        step: Step | None = None,
    ) -> None:
        """Read the prompt, but for its last token.

        Args:
            model: In evaluation mode.
            prompt: Ids that every sequence begins with, or goes on with from `place`. A text begins with <EOS>, which
                is not part of it.
            numbers: Numbers of the sequences.
            settings: How a token is drawn.
            seed: Of the random numbers.
            stops_at_eos: Whether <EOS> ends a sequence.
            constraints: What may be written; their masks come before all filters, in this order.
            place: Where a text that goes on stands; then one number alone.
            scored: Keep the log-probability of each token.
            step: What advances the batch by a token; by default a `Stepper` of the model.
        """
        device = next(model.parameters()).device
        batch = len(numbers)
        self._step = step or Stepper(model)
        self._numbers, self.seed = numbers, seed
        self._settings, self._stops_at_eos, self._constraints = settings, stops_at_eos, constraints
        self.ids = [*(place.ids if place else []), *prompt]
        self.written: list[list[int]] = [[] for _ in numbers]
        self.running = np.ones(batch, dtype=bool)
        self.scored = scored
        self._scores: list[Tensor] = []
        self._drawn = place.drawn if place and place.seed == seed else 0
        self._randoms = [_generator(seed, number, self._drawn) for number in numbers]
        self._uniform: Iterator[Tensor] = iter(())
        unread = [*(place.ids[-1:] if place and place.ids else [EOS]), *prompt]
        self._states = read_once(model, unread[:-1], place.states if place else None, batch)
        self._next = torch.tensor(unread[-1:], device=device).expand(batch)
        self._history = _History(self.ids, batch, device) if settings.reads_history else None

    @torch.inference_mode()
    def advance(self) -> list[int | None]:
        """Write the next token of each sequence and return it, None for one that has ended.

        Raises:
            CharlmError: Bans and constraints leave a sequence nothing to write, or the model's numbers overflow.
        """
        logits, self._states = self._step(self._next, self._states)
        history = (
            self._next.new_empty((len(logits), 0)) if self._history is None else self._history.ids
        )
        chosen = choose(self._allowed(logits), self._random_numbers(), self._settings, history)
        tokens: list[int] = chosen.tolist()
        if max(tokens) >= logits.shape[-1]:  # So it is where probabilities are no numbers.
            raise CharlmError(
                f"after {len(self.written[0])} tokens the model's probabilities are no finite numbers: its training "
                "has diverged; train it again"
            )
        if self.scored:
            self._scores.append(
                logits.double().log_softmax(dim=-1).gather(-1, chosen[:, None])[:, 0]
            )
        if self._history is not None:
            self._history.add(chosen)
        self._next = chosen
        return self._tell(tokens)

    def mark(self) -> Mark:
        """Return where the only sequence stands; its constraints must be reversible, and its states not overwritten."""
        marks = [one.mark() for one in self._constraints if isinstance(one, ReversibleConstraint)]
        return Mark(self._states, self._next, len(self.written[0]), bool(self.running[0]), marks)

    def back(self, mark: Mark) -> None:
        """Take back what the only sequence has written since `mark`, but go on in its random numbers.

        A `GenerationState` after it still tells the whole truth: it counts the random numbers, not the tokens.
        """
        taken_back = len(self.written[0]) - mark.tokens
        del self.written[0][mark.tokens :], self._scores[mark.tokens :]
        self._states, self._next, self.running[0] = mark.states, mark.next, mark.running
        if self._history is not None:
            self._history.drop(taken_back)
        for constraint, known in zip(self._constraints, mark.constraints, strict=True):
            if isinstance(constraint, ReversibleConstraint):
                constraint.back(known)

    def stop(self, row: int) -> None:
        """End a sequence after what it has written."""
        self.running[row] = False

    def log_probabilities(self) -> list[list[float]]:
        """Return the log-probability of each token written, in nats: the model's own, before any filter or mask."""
        columns = (
            torch.stack(self._scores, dim=1).tolist()
            if self._scores
            else [[] for _ in self.written]
        )
        return [column[: len(ids)] for column, ids in zip(columns, self.written, strict=True)]

    def place(self, told: int = 0) -> GenerationState:
        """Return where the only sequence stands."""
        ids = [*self.ids, *self.written[0]]
        ended = self._stops_at_eos and ids[-1:] == [EOS]
        return GenerationState(
            ids, self._states, self.seed, self._numbers[0], self._drawn, told, ended
        )

    def _allowed(self, logits: Tensor) -> Tensor:
        logits = without_unknown(logits)
        for constraint in self._constraints:
            logits = constraint.mask(logits)
        if self._constraints:
            empty = logits.amax(dim=-1) == -torch.inf
            if (empty.cpu().numpy() & self.running).any():
                raise CharlmError(
                    f"after {len(self.written[0])} tokens the bans and constraints leave nothing to write; ask for less"
                )
            logits[empty, EOS] = (
                0.0  # Of a sequence that has ended: what is drawn there is not looked at.
            )
        return logits

    def _random_numbers(self) -> Tensor:
        """Return the next random number of each sequence, in [0, 1), float64, (batch,)."""
        self._drawn += 1
        found = next(self._uniform, None)
        if found is None:
            block = np.stack([random.random(_DRAWN_AT_ONCE) for random in self._randoms])
            self._uniform = iter(torch.from_numpy(block).to(self._next.device).unbind(dim=1))
            found = next(self._uniform)
        return found

    def _tell(self, tokens: list[int]) -> list[int | None]:
        told = [token if alive else None for token, alive in zip(tokens, self.running, strict=True)]
        for column, token in zip(self.written, told, strict=True):
            if token is not None:
                column.append(token)
        for constraint in self._constraints:
            constraint.advance(told)
        if self._stops_at_eos:
            self.running &= np.array(tokens) != EOS
        return told


class _History:
    """The text so far of every sequence, in a buffer that doubles."""

    def __init__(self, ids: Sequence[int], batch: int, device: torch.device) -> None:
        self._length = len(ids)
        self._buffer = torch.zeros(batch, max(64, 2 * len(ids)), dtype=torch.int64, device=device)
        self._buffer[:, : len(ids)] = torch.tensor(ids, dtype=torch.int64)

    @property
    def ids(self) -> Tensor:
        """(batch, tokens)."""
        return self._buffer[:, : self._length]

    def add(self, chosen: Tensor) -> None:
        """Take the next token of each sequence, (batch,)."""
        if self._length == self._buffer.shape[1]:
            self._buffer = torch.cat([self._buffer, torch.zeros_like(self._buffer)], dim=1)
        self._buffer[:, self._length] = chosen
        self._length += 1

    def drop(self, tokens: int) -> None:
        """Take back so many tokens."""
        self._length -= tokens


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    numbers: Sequence[int],
    length: int,
    settings: Settings,
    seed: int,
    stops_at_eos: bool,
    constraints: Sequence[Constraint] = (),
    step: Step | None = None,
) -> Iterator[list[int | None]]:
    """Write sequences side by side, yielding the next token of each, None for one that has ended.

    Args:
        model: In evaluation mode.
        prompt: Ids that every sequence begins with; the model reads <EOS> before them.
        numbers: Numbers of the sequences.
        length: Most tokens of each, the prompt not counted.
        settings: How a token is drawn.
        seed: Of the random numbers.
        stops_at_eos: Whether <EOS> ends a sequence.
        constraints: What may be written.
        step: What advances the batch by a token; by default a `Stepper` of the model.
    """
    writing = Generator(
        model,
        prompt,
        numbers=numbers,
        settings=settings,
        seed=seed,
        stops_at_eos=stops_at_eos,
        constraints=constraints,
        step=step,
    )
    for _ in range(length):
        if not writing.running.any():
            return
        yield writing.advance()


def draw(
    logits: Tensor, uniform: Tensor, settings: Settings, history: Tensor | None = None
) -> Tensor:
    """Draw a token of each row by inverting the cumulative distribution; never <UNK>.

    Args:
        logits: (batch, vocabulary).
        uniform: A number in [0, 1) a row, float64, (batch,).
        settings: Filters.
        history: Ids of the text so far, (batch, tokens).

    Returns:
        Ids, (batch,).
    """
    if history is None:
        history = torch.empty((len(logits), 0), dtype=torch.int64, device=logits.device)
    return choose(without_unknown(logits), uniform, settings, history)


def choose(logits: Tensor, uniform: Tensor, settings: Settings, history: Tensor) -> Tensor:
    """Draw from float64 logits of what may be written; arguments as for `draw`."""
    logits = apply_filters(logits, history, settings)
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # The sum is 1 but for rounding; below it, so that no token of probability zero is ever reached.
    target = uniform[:, None] * (cumulative[:, -1:] * _BELOW_ONE)
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def without_unknown(logits: Tensor) -> Tensor:
    """Return a copy in float64 in which <UNK> cannot be drawn."""
    logits = logits.to(torch.float64, copy=True)
    logits.select(-1, UNK).fill_(-torch.inf)
    return logits


@torch.inference_mode()
def read_once(
    model: LanguageModel, ids: Sequence[int], states: States | None, batch: int
) -> States:
    """Read what every sequence begins with, once; return the states of the batch after it."""
    device = next(model.parameters()).device
    states = model.initial_states(1) if states is None else states
    for begin in range(0, len(ids), _READ_AT_ONCE):
        window = torch.tensor(ids[begin : begin + _READ_AT_ONCE], device=device)[:, None]
        _, states = model.encoder(window, states)
    return tuple(
        tuple(part.expand(batch, *part.shape[1:]).contiguous() for part in state)
        for state in states
    )


def _generator(seed: int, number: int, drawn: int) -> np.random.Generator:
    """Return the random numbers of a sequence, after so many that it has used."""
    bits = np.random.PCG64([seed, number])  # What `default_rng` takes.
    return np.random.Generator(bits.advance(drawn))
