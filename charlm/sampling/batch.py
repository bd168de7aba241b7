"""A batch of sequences that a model writes side by side, and that sequences join and leave.

The model reads the last token of all sequences in one step. The members of a batch, each one or
several sequences, have their own options: rows with equal filters are drawn in one call.

With torch's usual products, sums of floating-point numbers differ in their last bits between
batches of different sizes. A token then differs where two tokens are nearly equally probable, or
where a random number is next to the border of two tokens. With packed products
(charlm/model/fast/packed.py) a row is the same in any company. docs/lab/serving-2026-11-26.md has
how often texts differ.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, DivergenceError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States
from charlm.sampling.drawing import alternatives, draw, without_unknown
from charlm.sampling.options import Filters
from charlm.sampling.stepper import Stepper
from charlm.sampling.threads import num_weights, threads_for_step

# Ids, (batch,), and the states before them → logits, (batch, vocabulary), and the states after.
Step = Callable[[Tensor, States], tuple[Tensor, States]]


class Member(Protocol):
    """Sequences of a batch with the same options; each is a row of the batch.

    Attributes:
        num_rows: Number of sequences.
        num_alternatives: Number of most probable tokens to keep with each token; None if the tokens
            are not scored.
        filters: How a token is drawn.
        is_constrained: Whether `allow` may change anything.
        num_earlier: Number of ids of the history that are not new text.
        history: Ids so far, (rows, tokens), if a filter reads them.
    """

    @property
    def num_rows(self) -> int: ...  # noqa: D102

    @property
    def num_alternatives(self) -> int | None: ...  # noqa: D102

    @property
    def filters(self) -> Filters: ...  # noqa: D102

    @property
    def is_constrained(self) -> bool: ...  # noqa: D102

    @property
    def num_earlier(self) -> int: ...  # noqa: D102

    @property
    def history(self) -> Tensor: ...  # noqa: D102

    def allow(self, logits: Tensor) -> Tensor:
        """Return the logits, (rows, vocabulary), minus infinity for forbidden tokens.

        Raises:
            CharlmError: The constraints forbid every token of a sequence.
        """
        ...

    def draw_random(self) -> list[float]:
        """Return the next random number of each sequence."""
        ...

    def take(self, ids: list[int], scores: "Scores") -> None:
        """Take in the next token of each sequence, and how probable it was."""
        ...


class Scores(NamedTuple):
    """How probable the tokens of a step were, for each row.

    Attributes:
        log_probabilities: Log-probability of each token in nats: the model's own, at temperature 1,
            before filters and constraints. Empty if they are not scored.
        alternatives: Log-probabilities of the most probable tokens and of the token itself, by id.
            Empty if none are kept.
    """

    log_probabilities: list[float]
    alternatives: list[dict[int, float]]

    def of(self, rows: slice, num_alternatives: int | None) -> "Scores":
        """Return the scores of the rows of a member."""
        if num_alternatives is None:
            return _UNSCORED
        alternatives = self.alternatives[rows] if num_alternatives else []
        return Scores(self.log_probabilities[rows], alternatives)


_UNSCORED = Scores([], [])


class Batch:
    """Sequences that a model writes side by side, a token of each per step; see `Member`."""

    def __init__(self, model: LanguageModel, step: Step | None = None) -> None:
        """Begin without sequences.

        Args:
            model: Model in evaluation mode.
            step: Function that advances the batch by a token; by default a `Stepper` of the model.
        """
        self._device = next(model.parameters()).device
        self._step = Stepper(model) if step is None else step
        self._num_weights = num_weights(model)
        self._members: list[Member] = []
        self._rows: dict[int, slice] = {}  # Keys are the identities of the members.
        self._states: States = ()
        self._last = torch.zeros(0, dtype=torch.int64, device=self._device)
        self._groups: _Groups | None = None

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self._last)

    @torch.inference_mode()
    def join(self, member: Member, states: States, last: Tensor) -> None:
        """Add sequences.

        Args:
            member: The sequences.
            states: State of each layer after all of their tokens but the last, of a batch of
                `member.num_rows`.
            last: Last token of each sequence, which the model has not read yet, (rows,).
        """
        if self._members:
            states = _concatenate([self._states, states])
            last = torch.cat([self._last, last])
        self._arrange([*self._members, member], states, last)

    @torch.inference_mode()
    def leave(self, members: Collection[Member]) -> None:
        """Remove sequences; the others stay as they are."""
        gone = {id(member) for member in members}
        stay = [member for member in self._members if id(member) not in gone]
        rows = [row for member in stay for row in _numbers(self._rows[id(member)])]
        index = torch.tensor(rows, dtype=torch.int64, device=self._device)
        states = tuple(tuple(part[index] for part in state) for state in self._states)
        self._arrange(stay, states, self._last[index])

    def position(self, member: Member) -> tuple[States, Tensor]:
        """Return states and last tokens of a member, for `move`."""
        if len(self._members) == 1:  # A step replaces the tensors; nothing changes them in place.
            return self._states, self._last
        rows = self._rows[id(member)]
        states = tuple(tuple(part[rows].clone() for part in state) for state in self._states)
        return states, self._last[rows].clone()

    @torch.inference_mode()
    def move(self, member: Member, position: tuple[States, Tensor]) -> None:
        """Return a member to an earlier position; its history is that of the position already."""
        states, last = position
        if len(self._members) > 1:
            rows = self._rows[id(member)]
            before, after = slice(0, rows.start), slice(rows.stop, None)
            parts = [_select(self._states, before), states, _select(self._states, after)]
            states = _concatenate(parts)
            last = torch.cat([self._last[before], last, self._last[after]])
        self._arrange(self._members, states, last)

    @torch.inference_mode()
    def step(self) -> list[tuple[Member, CharlmError]]:
        """Give each sequence its next token; return the members that cannot have one.

        They have to leave: the constraints forbid every token of one of their sequences, or the
        model's probabilities are not finite.
        """
        with threads_for_step(len(self) * self._num_weights):
            return self._give_tokens()

    def _give_tokens(self) -> list[tuple[Member, CharlmError]]:
        logits, self._states = self._step(self._last, self._states)
        groups = self._grouped()
        allowed = without_unknown(logits)
        failed = self._constrain(allowed, groups)
        random = [number for member in self._members for number in member.draw_random()]
        uniform = torch.tensor(random, dtype=torch.float64, device=self._device)
        chosen = self._choose(allowed, uniform, groups)
        ids: list[int] = chosen.tolist()
        self._find_diverged(ids, logits.shape[-1], failed)
        if failed:  # The search for a token ends behind the last one where there are no numbers.
            chosen = chosen.clamp(max=logits.shape[-1] - 1)
        self._last = chosen
        scores = _score(logits, chosen, groups)
        self._give(ids, scores, failed)
        return list(failed.values())

    def _arrange(self, members: list[Member], states: States, last: Tensor) -> None:
        self._members = members
        self._states = states
        self._last = last
        self._groups = None
        self._rows = {}
        first = 0
        for member in members:
            self._rows[id(member)] = slice(first, first + member.num_rows)
            first += member.num_rows

    def _grouped(self) -> "_Groups":
        if self._groups is None:
            self._groups = _Groups(
                constrained=[member for member in self._members if member.is_constrained],
                drawn=self._group(_drawing_key, self._members),
                scored=self._group(
                    lambda member: member.num_alternatives,
                    [member for member in self._members if member.num_alternatives is not None],
                ),
            )
        return self._groups

    def _group(
        self, key: Callable[[Member], Hashable], members: Sequence[Member]
    ) -> list["_Group"]:
        by_key: dict[Hashable, list[Member]] = {}
        for member in members:
            by_key.setdefault(key(member), []).append(member)
        return [self._with_rows(group) for group in by_key.values()]

    def _with_rows(self, members: list[Member]) -> "_Group":
        rows = [row for member in members for row in _numbers(self._rows[id(member)])]
        index = None
        if len(rows) < len(self):
            index = torch.tensor(rows, dtype=torch.int64, device=self._device)
        return _Group(members, rows, index)

    def _constrain(self, allowed: Tensor, groups: "_Groups") -> "_Failed":
        """Apply the constraints of each member in place; return the members that fail."""
        failed: _Failed = {}
        for member in groups.constrained:
            rows = self._rows[id(member)]
            try:
                allowed[rows] = member.allow(allowed[rows])
            except CharlmError as error:
                failed[id(member)] = member, error
                allowed[rows, EOS] = 0.0  # The token that is drawn is ignored.
        return failed

    def _choose(self, allowed: Tensor, uniform: Tensor, groups: "_Groups") -> Tensor:
        chosen = torch.empty_like(self._last)
        for group in groups.drawn:
            first = group.members[0]
            history = self._last[:, None]
            if first.filters.reads_history:
                history = torch.cat([member.history for member in group.members])
            drawn = draw(
                group.select(allowed),
                group.select(uniform),
                first.filters,
                history,
                num_earlier=first.num_earlier,
            )
            if group.index is None:
                return drawn
            chosen[group.index] = drawn
        return chosen

    def _give(self, ids: list[int], scores: Scores, failed: "_Failed") -> None:
        for member in self._members:
            if id(member) not in failed:
                rows = self._rows[id(member)]
                member.take(ids[rows], scores.of(rows, member.num_alternatives))

    def _find_diverged(self, ids: list[int], vocabulary_size: int, failed: "_Failed") -> None:
        """Add the members whose probabilities are not finite; the search for a token fails then."""
        if max(ids) < vocabulary_size:
            return
        for member in self._members:
            if max(ids[self._rows[id(member)]]) >= vocabulary_size:
                failed[id(member)] = (
                    member,
                    DivergenceError(
                        "the model's probabilities are not finite: the training has diverged",
                        "train the model again with a lower training.learning_rate",
                    ),
                )


# Members that cannot have a token, and why, by the identity of the member.
_Failed = dict[int, tuple[Member, CharlmError]]


@dataclass(frozen=True)
class _Group:
    """Members that are treated together.

    Attributes:
        members: The members.
        rows: Their rows.
        index: Their rows as a tensor; None for all rows of the batch in their order.
    """

    members: list[Member]
    rows: list[int]
    index: Tensor | None

    def select(self, tensor: Tensor) -> Tensor:
        """Return the rows of the group."""
        return tensor if self.index is None else tensor[self.index]


@dataclass(frozen=True)
class _Groups:
    """How the members of a batch are treated in a step, until one joins, leaves or moves.

    Attributes:
        constrained: Members with constraints.
        drawn: Members whose tokens are drawn together.
        scored: Members whose tokens are scored together.
    """

    constrained: list[Member]
    drawn: list[_Group]
    scored: list[_Group]


def _drawing_key(member: Member) -> Hashable:
    """Return what rows that are drawn together have in common.

    All histories grow by one token per step, so that equal lengths stay equal.
    """
    if not member.filters.reads_history:
        return member.filters
    return member.filters, member.history.shape[-1], member.num_earlier


def _score(logits: Tensor, chosen: Tensor, groups: _Groups) -> Scores:
    """Return the scores of all rows; those of rows that are not scored have no meaning."""
    scores = Scores([0.0] * len(chosen), [{}] * len(chosen))
    for group in groups.scored:
        ids = group.select(chosen)
        log_p = group.select(logits).double().log_softmax(dim=-1)
        values = log_p.gather(-1, ids[:, None])[:, 0].tolist()
        count = group.members[0].num_alternatives
        found = alternatives(log_p, ids, count) if count else []
        if group.index is None:
            return Scores(values, found)
        for row, value in zip(group.rows, values, strict=True):
            scores.log_probabilities[row] = value
        for row, by_id in zip(group.rows, found, strict=bool(found)):
            scores.alternatives[row] = by_id
    return scores


def _numbers(rows: slice) -> range:
    return range(rows.start, rows.stop)


def _select(states: States, rows: slice) -> States:
    return tuple(tuple(part[rows] for part in state) for state in states)


def _concatenate(several: Sequence[States]) -> States:
    """Return the states of several batches as those of one."""
    return tuple(
        tuple(torch.cat(parts) for parts in zip(*layers, strict=True))
        for layers in zip(*several, strict=True)
    )
