"""A window, and the place at which reading continues after it."""

from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

PADDING = -100  # A target that no loss counts: torch's `ignore_index`.


@dataclass(frozen=True)
class Position:
    """The place at which reading continues.

    Attributes:
        epoch: Number of completed passes over the text.
        index: Number of windows read in this pass.
    """

    epoch: int = 0
    index: int = 0

    def after(self, num_windows: int) -> "Position":
        """Return the position after the next window of an epoch with `num_windows`."""
        index = self.index + 1
        if index >= num_windows:
            return Position(epoch=self.epoch + 1, index=0)
        return Position(epoch=self.epoch, index=index)

    def passes(self, num_windows: int) -> float:
        """Return the number of passes over a text of `num_windows`, with a fraction."""
        return self.epoch + self.index / num_windows


@dataclass(frozen=True)
class Shard:
    """The adjacent columns of every batch that one process reads; by default all columns.

    Attributes:
        rank: Rank of the process, from 0.
        num_shards: Number of processes.
    """

    rank: int = 0
    num_shards: int = 1

    def columns(self, count: int) -> slice:
        """Return this process's part of `count` columns; the first processes may have one more."""
        size, remainder = divmod(count, self.num_shards)
        first = self.rank * size + min(self.rank, remainder)
        return slice(first, first + size + (self.rank < remainder))


ALL = Shard()


@dataclass(frozen=True)
class Window:
    """The batch of one step.

    Attributes:
        inputs: Ids, (time, batch).
        targets: The id that follows each input, (time, batch); `PADDING` where none is predicted.
        resets_state: Whether the state is the initial one here instead of being carried.
        next: Position after this window.
        epochs: Number of passes over the text after this window, with a fraction.
        global_batch_size: Number of streams or records in the batches of all processes together.
        restarts: Columns whose state is the initial one here, although the others carry theirs,
            (batch,); None if there are none.
    """

    inputs: Tensor
    targets: Tensor
    resets_state: bool
    next: Position
    epochs: float
    global_batch_size: int
    restarts: Tensor | None = field(default=None, kw_only=True)

    @property
    def tokens(self) -> int:
        """Number of predicted targets."""
        return int((self.targets != PADDING).sum())


@dataclass(frozen=True)
class ScoringWindow(Window):
    """A window of a text that is read once.

    Attributes:
        positions: Position in the ids of each target, (time, batch); -1 where there is none.
    """

    positions: Tensor


AnyWindow = TypeVar("AnyWindow", bound=Window)
