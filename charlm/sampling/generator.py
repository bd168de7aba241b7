"""Generation: from a model's logits to tokens, one token of every sequence per step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.tokenizer import EOS, UNK
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States
from charlm.sampling.filters import apply_filters
from charlm.sampling.options import Filters
from charlm.sampling.saved_state import GenerationState
from charlm.sampling.stepper import Stepper

# Ids, (batch,), and the states before them → logits, (batch, vocabulary), and the states after.
Step = Callable[[Tensor, States], tuple[Tensor, States]]
_PROMPT_WINDOW = 1024  # Tokens of a prompt that are read in one forward pass.
_RANDOM_BLOCK = 64  # Random numbers of a sequence that are drawn at once.
_BELOW_ONE = 1 - 2.0**-52


class Constraint(Protocol):
    """A rule on what may be written, given the text so far; it keeps a state per sequence."""

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), minus infinity for forbidden tokens."""
        ...

    def update(self, tokens: list[int | None]) -> None:
        """Take in the next token of each sequence, None for a sequence that has ended."""
        ...


@runtime_checkable
class ReversibleConstraint(Constraint, Protocol):
    """A constraint whose state can be saved and restored."""

    def save(self) -> Any:
        """Return the state, for `restore`."""
        ...

    def restore(self, saved: Any) -> None:
        """Return to a saved state."""
        ...


@dataclass(frozen=True)
class GeneratorOptions:
    """How a batch of sequences is generated.

    Attributes:
        numbers: Number of each sequence. Sequence number k of a seed gets the same random numbers
            whichever other sequences are in the batch.
        seed: Seed of the random numbers.
        filters: How a token is drawn.
        stops_at_eos: Whether <EOS> ends a sequence.
        scored: Whether the log-probability of each token is kept.
        num_alternatives: Number of most probable tokens whose log-probabilities are kept at each
            position, if it is scored.
    """

    numbers: Sequence[int]
    seed: int
    filters: Filters
    stops_at_eos: bool = False
    scored: bool = False
    num_alternatives: int = 0


@dataclass(frozen=True)
class Snapshot:
    """The state of a generator of one sequence, for `Generator.restore`.

    Attributes:
        states: States of the model.
        last: Last token, which the model has not read yet, (1,).
        num_tokens: Number of new tokens.
        is_running: Whether the sequence goes on.
        constraints: Saved states of the constraints.
    """

    states: States
    last: Tensor
    num_tokens: int
    is_running: bool
    constraints: list[Any]


class Generator:
    """A batch of sequences that a model generates side by side; <UNK> is never drawn.

    Attributes:
        context: Tokens before the first new one: those of the saved state, then the prompt.
        tokens: New tokens of each sequence.
        alternatives: Log-probabilities of the chosen token and of the most probable ones, by id,
            for each new token of each sequence; empty if none are kept.
        running: Which sequences go on, (batch,).
        options: How the sequences are generated.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        options: GeneratorOptions,
        *,
        constraints: Sequence[Constraint] = (),
        state: GenerationState | None = None,
        step: Step | None = None,
    ) -> None:
        """Read the prompt without its last token.

        Args:
            model: Model in evaluation mode.
            prompt: Ids that every sequence begins with, or with which it continues from `state`. A
                text begins after an <EOS> that is not part of it.
            options: How the sequences are generated; with a state there is only one sequence.
            constraints: Rules on what may be written; they apply in this order, before all filters.
            state: State that the text continues from.
            step: Function that advances the batch by a token; by default a `Stepper` of the model.
        """
        device = next(model.parameters()).device
        batch = len(options.numbers)
        earlier = [] if state is None else state.ids
        num_drawn = state.num_drawn if state is not None and state.seed == options.seed else 0
        unread = [*(earlier[-1:] or [EOS]), *prompt]
        self.context = [*earlier, *prompt]
        self.tokens: list[list[int]] = [[] for _ in options.numbers]
        self.alternatives: list[list[dict[int, float]]] = [[] for _ in options.numbers]
        self.running: npt.NDArray[np.bool_] = np.ones(batch, dtype=bool)
        self.options = options
        self._step = Stepper(model) if step is None else step
        self._constraints = constraints
        self._scores: list[Tensor] = []
        self._random = _RandomNumbers(options.seed, options.numbers, num_drawn, device)
        self._states = read_once(model, unread[:-1], None if state is None else state.states, batch)
        self._last = torch.tensor(unread[-1:], device=device).expand(batch)
        self._history = _History(
            self.context if options.filters.reads_history else [], batch, device
        )

    @torch.inference_mode()
    def step(self) -> list[int | None]:
        """Return the next token of each sequence, None for a sequence that has ended.

        Raises:
            CharlmError: The constraints forbid every token of a sequence, or the model's
                probabilities are not finite.
        """
        filters = self.options.filters
        logits, self._states = self._step(self._last, self._states)
        chosen = choose(
            self._allowed(logits),
            self._random.draw(),
            filters,
            self._history.ids,
            num_earlier=len(self.context),
        )
        ids: list[int] = chosen.tolist()
        if max(ids) >= logits.shape[-1]:  # The search fails if probabilities are not numbers.
            raise CharlmError(
                f"after {len(self.tokens[0])} tokens the model's probabilities are not finite: "
                "the training has diverged; train the model again"
            )
        if self.options.scored:
            log_probabilities = logits.double().log_softmax(dim=-1)
            self._scores.append(log_probabilities.gather(-1, chosen[:, None])[:, 0])
            if self.options.num_alternatives:
                found = alternatives(log_probabilities, chosen, self.options.num_alternatives)
                for kept, row, runs in zip(self.alternatives, found, self.running, strict=True):
                    if runs:
                        kept.append(row)
        if filters.reads_history:
            self._history.append(chosen)
        self._last = chosen
        return self._record(ids)

    def save(self) -> Snapshot:
        """Return the state of the only sequence; its constraints must be reversible."""
        return Snapshot(
            states=self._states,
            last=self._last,
            num_tokens=len(self.tokens[0]),
            is_running=bool(self.running[0]),
            constraints=[
                constraint.save()
                for constraint in self._constraints
                if isinstance(constraint, ReversibleConstraint)
            ],
        )

    def restore(self, saved: Snapshot) -> None:
        """Remove what the only sequence has written since `save`, but not reuse random numbers.

        A later `generation_state` is still correct: it counts random numbers, not tokens.
        """
        self._history.drop(len(self.tokens[0]) - saved.num_tokens)
        del self.tokens[0][saved.num_tokens :]
        del self._scores[saved.num_tokens :]
        del self.alternatives[0][saved.num_tokens :]
        self._states = saved.states
        self._last = saved.last
        self.running[0] = saved.is_running
        for constraint, state in zip(self._constraints, saved.constraints, strict=True):
            if isinstance(constraint, ReversibleConstraint):
                constraint.restore(state)

    def stop(self, row: int) -> None:
        """End a sequence after its last token."""
        self.running[row] = False

    def log_probabilities(self) -> list[list[float]]:
        """Return the log-probability of each new token, in nats.

        They are the model's own, at temperature 1, before all filters and constraints.
        """
        if not self._scores:
            return [[] for _ in self.tokens]
        rows = torch.stack(self._scores, dim=1).tolist()
        return [row[: len(ids)] for row, ids in zip(rows, self.tokens, strict=True)]

    def generation_state(self, num_shown: int = 0) -> GenerationState:
        """Return the state of the only sequence, of whose text `num_shown` characters are shown."""
        ids = [*self.context, *self.tokens[0]]
        return GenerationState(
            ids=ids,
            states=self._states,
            seed=self.options.seed,
            number=self.options.numbers[0],
            num_drawn=self._random.num_drawn,
            num_shown=num_shown,
            ended=self.options.stops_at_eos and ids[-1:] == [EOS],
        )

    def _allowed(self, logits: Tensor) -> Tensor:
        logits = without_unknown(logits)
        for constraint in self._constraints:
            logits = constraint.mask(logits)
        if self._constraints:
            is_empty = logits.amax(dim=-1) == -torch.inf
            if (is_empty.cpu().numpy() & self.running).any():
                raise CharlmError(
                    f"after {len(self.tokens[0])} tokens the banned texts and constraints leave "
                    "no token to write; relax them"
                )
            # Only sequences that have ended: the token drawn for them is ignored.
            logits[is_empty, EOS] = 0.0
        return logits

    def _record(self, ids: list[int]) -> list[int | None]:
        tokens = [token if runs else None for token, runs in zip(ids, self.running, strict=True)]
        for column, token in zip(self.tokens, tokens, strict=True):
            if token is not None:
                column.append(token)
        for constraint in self._constraints:
            constraint.update(tokens)
        if self.options.stops_at_eos:
            self.running &= np.array(ids) != EOS
        return tokens


class _RandomNumbers:
    """The random numbers of a batch of sequences.

    Attributes:
        num_drawn: How many random numbers each sequence has used.
    """

    def __init__(
        self, seed: int, numbers: Sequence[int], num_drawn: int, device: torch.device
    ) -> None:
        self.num_drawn = num_drawn
        # The bit generator and seeds of `numpy.random.default_rng([seed, number])`.
        self._generators = [
            np.random.Generator(np.random.PCG64([seed, number]).advance(num_drawn))
            for number in numbers
        ]
        self._device = device
        self._block: Iterator[Tensor] = iter(())

    def draw(self) -> Tensor:
        """Return the next random number of each sequence, in [0, 1), float64, (batch,)."""
        self.num_drawn += 1
        uniform = next(self._block, None)
        if uniform is None:
            block = np.stack([generator.random(_RANDOM_BLOCK) for generator in self._generators])
            self._block = iter(torch.from_numpy(block).to(self._device).unbind(dim=1))
            uniform = next(self._block)
        return uniform


class _History:
    """The ids of every sequence so far, in a buffer that doubles."""

    def __init__(self, ids: Sequence[int], batch: int, device: torch.device) -> None:
        self._length = len(ids)
        self._buffer = torch.zeros(batch, max(64, 2 * len(ids)), dtype=torch.int64, device=device)
        self._buffer[:, : len(ids)] = torch.tensor(ids, dtype=torch.int64)

    @property
    def ids(self) -> Tensor:
        """Ids so far, (batch, tokens)."""
        return self._buffer[:, : self._length]

    def append(self, chosen: Tensor) -> None:
        """Add the next token of each sequence, (batch,)."""
        if self._length == self._buffer.shape[1]:
            self._buffer = torch.cat([self._buffer, torch.zeros_like(self._buffer)], dim=1)
        self._buffer[:, self._length] = chosen
        self._length += 1

    def drop(self, tokens: int) -> None:
        """Remove the last tokens; without effect on a history that is not kept."""
        self._length = max(0, self._length - tokens)


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    options: GeneratorOptions,
    *,
    length: int,
    constraints: Sequence[Constraint] = (),
    step: Step | None = None,
) -> Iterator[list[int | None]]:
    """Yield the next token of each sequence, None for a sequence that has ended.

    Args:
        model: Model in evaluation mode.
        prompt: Ids that every sequence begins with; the model reads <EOS> before them.
        options: How the sequences are generated.
        length: Maximum number of new tokens per sequence.
        constraints: Rules on what may be written.
        step: Function that advances the batch by a token; by default a `Stepper` of the model.
    """
    generator = Generator(model, prompt, options, constraints=constraints, step=step)
    for _ in range(length):
        if not generator.running.any():
            return
        yield generator.step()


def draw(
    logits: Tensor, uniform: Tensor, filters: Filters, history: Tensor | None = None
) -> Tensor:
    """Draw a token of each row by inverting the cumulative distribution; never <UNK>.

    Args:
        logits: Logits, (batch, vocabulary).
        uniform: Random number of each row in [0, 1), float64, (batch,).
        filters: Filters to apply.
        history: Ids of the text so far, (batch, tokens).

    Returns:
        Ids, (batch,).
    """
    if history is None:
        history = torch.empty((len(logits), 0), dtype=torch.int64, device=logits.device)
    return choose(without_unknown(logits), uniform, filters, history)


def choose(
    logits: Tensor,
    uniform: Tensor,
    filters: Filters,
    history: Tensor,
    *,
    num_earlier: int = 0,
) -> Tensor:
    """Draw from float64 logits without <UNK>; arguments as for `draw` and `apply_filters`."""
    logits = apply_filters(logits, history, filters, num_earlier)
    if filters.temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # The sum is 1 up to rounding; the target stays below it, so that no token of probability zero
    # is ever reached.
    target = uniform[:, None] * (cumulative[:, -1:] * _BELOW_ONE)
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def alternatives(log_probabilities: Tensor, chosen: Tensor, count: int) -> list[dict[int, float]]:
    """Return the log-probabilities of the chosen token and of the most probable ones, by id.

    Args:
        log_probabilities: Natural logarithms, (tokens, vocabulary).
        chosen: Ids, (tokens,).
        count: Number of most probable tokens.
    """
    top = log_probabilities.topk(min(count, log_probabilities.shape[-1]), dim=-1)
    ids = torch.cat([top.indices, chosen[:, None]], dim=-1)
    values = log_probabilities.gather(-1, ids)
    return [
        dict(zip(row, scores, strict=True))
        for row, scores in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def without_unknown(logits: Tensor) -> Tensor:
    """Return a copy in float64 from which <UNK> is never drawn."""
    logits = logits.to(torch.float64, copy=True)
    logits.select(-1, UNK).fill_(-torch.inf)
    return logits


@torch.inference_mode()
def read_once(
    model: LanguageModel, ids: Sequence[int], states: States | None, batch: int
) -> States:
    """Read ids that all sequences begin with.

    Args:
        model: Model in evaluation mode.
        ids: Ids to read.
        states: States before them, of a batch of one; None for the initial states.
        batch: Number of sequences.

    Returns:
        States after them, of the batch.
    """
    device = next(model.parameters()).device
    states = model.initial_states(1) if states is None else states
    for begin in range(0, len(ids), _PROMPT_WINDOW):
        window = torch.tensor(ids[begin : begin + _PROMPT_WINDOW], device=device)[:, None]
        _, states = model.encoder(window, states)
    return tuple(
        tuple(part.expand(batch, *part.shape[1:]).contiguous() for part in state)
        for state in states
    )
