"""Generation: from a model's logits to tokens, one token of every sequence per step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import and_
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States
from charlm.sampling.batch import Batch, Scores
from charlm.sampling.drawing import History, RandomNumbers
from charlm.sampling.options import Filters
from charlm.sampling.prompt_reader import expand, read_once
from charlm.sampling.saved_state import GenerationState

Value = TypeVar("Value")


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
        position: States of the model, and the last token, which the model has not read yet.
        num_tokens: Number of new tokens.
        is_running: Whether the sequence goes on.
        constraints: Saved states of the constraints.
    """

    position: tuple[States, Tensor]
    num_tokens: int
    is_running: bool
    constraints: list[Any]


class Generator:
    """Sequences that a model generates side by side; <UNK> is never drawn.

    A generator is a member of a `Batch`: its own, which `step` advances, or one that it shares.

    Attributes:
        context: Tokens before the first new one: those of the saved state, then the prompt.
        unread: Tokens that the model reads before the first new one; the last one with the first
            step.
        tokens: New tokens of each sequence.
        last_tokens: Tokens of the last step, None for a sequence that had ended.
        log_probabilities: Log-probability of each new token of each sequence in nats, if they are
            scored: the model's own, at temperature 1, before all filters and constraints.
        alternatives: Log-probabilities of the chosen token and of the most probable ones, by id,
            for each new token of each sequence; empty if none are kept.
        running: Whether each sequence goes on.
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
        batch: Batch | None = None,
    ) -> None:
        """Read the prompt without its last token, unless the batch is shared: see `start`.

        Args:
            model: Model in evaluation mode.
            prompt: Ids that every sequence begins with, or with which it continues from `state`. A
                text begins after an <EOS> that is not part of it.
            options: How the sequences are generated; with a state there is only one sequence.
            constraints: Rules on what may be written; they apply in this order, before all filters.
            state: State that the text continues from.
            batch: Batch that is shared with others; None for an own one.
        """
        earlier = [] if state is None else state.ids
        self.context = [*earlier, *prompt]
        self.unread = [*(earlier[-1:] or [EOS]), *prompt]
        self.tokens: list[list[int]] = [[] for _ in options.numbers]
        self.last_tokens: list[int | None] = []
        self.log_probabilities: list[list[float]] = [[] for _ in options.numbers]
        self.alternatives: list[list[dict[int, float]]] = [[] for _ in options.numbers]
        self.running = [True] * len(options.numbers)
        self.options = options
        self._device = next(model.parameters()).device
        self._constraints = constraints
        num_drawn = state.num_drawn if state is not None and state.seed == options.seed else 0
        self._random = RandomNumbers(options.seed, options.numbers, num_drawn)
        self._history = History(
            self.context if options.filters.reads_history else [], self.num_rows, self._device
        )
        self._batch = Batch(model) if batch is None else batch
        if batch is None:
            self.start(read_once(model, self.unread[:-1], None if state is None else state.states))

    def start(self, states: States) -> None:
        """Join the batch with the states after `unread` without its last token, of a batch of one.

        A generator with an own batch has done it.
        """
        last = torch.tensor(self.unread[-1:], device=self._device).expand(self.num_rows)
        self._batch.join(self, expand(states, self.num_rows), last)

    def step(self) -> list[int | None]:
        """Advance the batch; return the next token of each sequence, None for an ended one.

        Raises:
            CharlmError: The constraints forbid every token of a sequence, or the model's
                probabilities are not finite.
        """
        for member, error in self._batch.step():
            if member is self:
                raise error
        return self.last_tokens

    @property
    def num_rows(self) -> int:
        """Number of sequences."""
        return len(self.options.numbers)

    @property
    def num_alternatives(self) -> int | None:
        """Number of alternatives to keep with each token; None if tokens are not scored."""
        return self.options.num_alternatives if self.options.scored else None

    @property
    def filters(self) -> Filters:
        """How a token is drawn."""
        return self.options.filters

    @property
    def is_constrained(self) -> bool:
        """Whether there are constraints."""
        return bool(self._constraints)

    @property
    def num_earlier(self) -> int:
        """Number of ids of the history that are not new text."""
        return len(self.context)

    @property
    def history(self) -> Tensor:
        """Ids so far, (rows, tokens), if a filter reads them."""
        return self._history.ids

    def allow(self, logits: Tensor) -> Tensor:
        """Apply the constraints to float64 logits, (rows, vocabulary).

        Raises:
            CharlmError: They forbid every token of a sequence that has not ended.
        """
        for constraint in self._constraints:
            logits = constraint.mask(logits)
        is_empty = logits.amax(dim=-1) == -torch.inf
        if any(map(and_, is_empty.tolist(), self.running)):
            raise CharlmError(
                f"after {len(self.tokens[0])} tokens the banned texts and constraints leave no "
                "token to write; relax them"
            )
        # Only sequences that have ended: the token drawn for them is ignored.
        logits[is_empty, EOS] = 0.0
        return logits

    def draw_random(self) -> list[float]:
        """Return the next random number of each sequence, in [0, 1)."""
        return self._random.draw()

    def take(self, ids: list[int], scores: Scores) -> None:
        """Take in the next token of each sequence, and how probable it was."""
        running = self.running
        tokens: list[int | None] = [*ids]
        if not all(running):
            tokens = [token if runs else None for token, runs in zip(ids, running, strict=True)]
        _append(self.tokens, ids, running)
        if scores.log_probabilities:
            _append(self.log_probabilities, scores.log_probabilities, running)
        if scores.alternatives:
            _append(self.alternatives, scores.alternatives, running)
        if self.options.filters.reads_history:
            self._history.append(torch.tensor(ids, device=self._device))
        for constraint in self._constraints:
            constraint.update(tokens)
        if self.options.stops_at_eos and EOS in ids:
            self.running = [runs and id != EOS for id, runs in zip(ids, running, strict=True)]
        self.last_tokens = tokens

    def save(self) -> Snapshot:
        """Return the state of the only sequence; its constraints must be reversible."""
        return Snapshot(
            position=self._batch.position(self),
            num_tokens=len(self.tokens[0]),
            is_running=self.running[0],
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
        self.truncate(saved.num_tokens)
        self.running[0] = saved.is_running
        for constraint, state in zip(self._constraints, saved.constraints, strict=True):
            if isinstance(constraint, ReversibleConstraint):
                constraint.restore(state)
        self._batch.move(self, saved.position)

    def truncate(self, num_tokens: int) -> None:
        """Remove the last tokens of the only sequence from the results."""
        for values in (self.tokens, self.log_probabilities, self.alternatives):
            del values[0][num_tokens:]

    def stop(self, row: int) -> None:
        """End a sequence after its last token."""
        self.running[row] = False

    def generation_state(self, num_shown: int = 0) -> GenerationState:
        """Return the state of the only sequence, of whose text `num_shown` characters are shown."""
        ids = [*self.context, *self.tokens[0]]
        states, _ = self._batch.position(self)
        return GenerationState(
            ids=ids,
            states=states,
            seed=self.options.seed,
            number=self.options.numbers[0],
            num_drawn=self._random.num_drawn,
            num_shown=num_shown,
            ended=self.options.stops_at_eos and ids[-1:] == [EOS],
        )


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    options: GeneratorOptions,
    *,
    length: int,
) -> Iterator[list[int | None]]:
    """Yield the next token of each sequence, None for a sequence that has ended.

    Args:
        model: Model in evaluation mode.
        prompt: Ids that every sequence begins with; the model reads <EOS> before them.
        options: How the sequences are generated.
        length: Maximum number of new tokens per sequence.
    """
    generator = Generator(model, prompt, options)
    for _ in range(length):
        if not any(generator.running):
            return
        yield generator.step()


def _append(columns: list[list[Value]], values: Sequence[Value], running: list[bool]) -> None:
    """Append to the column of each sequence that goes on."""
    for column, value, runs in zip(columns, values, running, strict=True):
        if runs:
            column.append(value)
