"""Token ids → windows, in reading order (`stream`) or as padded records (`records`), from any position."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.shards import split_by_file
from charlm.data.tokenizer import EOS, Ids
from charlm.errors import CorpusError

PADDING = -100  # A target that no loss counts: torch's `ignore_index`.
WARM_UP = 256  # Tokens after which a state that began at zero predicts within 0.001 nats of one carried (a test shows it).
_TOKENS_AT_ONCE = (
    4096  # While scoring: their logits over a large vocabulary take a few hundred megabytes.
)
_SHORT_SHARE, _LENGTH_DEVIATION = 0.05, 5 / 70  # Merity et al. 2018: five of seventy tokens.
_BUCKET_BATCHES = 50  # Batches' worth of shuffled records that are sorted by length together.


@dataclass(frozen=True)
class Position:
    """Where reading goes on: a pass over the text, and the window in it."""

    epoch: int = 0
    index: int = 0

    def to_json(self) -> dict[str, int]:
        """Return the position as JSON's types."""
        return asdict(self)


@dataclass(frozen=True)
class Shard:
    """Which columns of every batch are read: those of one process of several, side by side; by default all.

    Attributes:
        rank: Rank of the process, from 0.
        num_shards: Number of processes.
    """

    rank: int = 0
    num_shards: int = 1

    def columns(self, count: int) -> slice:
        """Return the columns of `count` that are this process's; the first processes have one more if need be."""
        size, more = divmod(count, self.num_shards)
        first = self.rank * size + min(self.rank, more)
        return slice(first, first + size + (self.rank < more))


ALL = Shard()


@dataclass(frozen=True)
class Window:
    """What one step sees.

    Attributes:
        inputs: Ids, (time, batch).
        targets: The id that follows each, (time, batch); `PADDING` where none is asked for.
        resets_state: Whether the state starts from zero here, instead of being carried.
        next: Where reading goes on after this window.
        epochs: Passes over the text when this window is done, a fraction.
        global_batch_size: Number of streams or records in the batches of all processes together.
    """

    inputs: Tensor
    targets: Tensor
    resets_state: bool
    next: Position
    epochs: float
    global_batch_size: int

    @property
    def tokens(self) -> int:
        """Number of targets that are asked for."""
        return int((self.targets != PADDING).sum())


@dataclass(frozen=True)
class ScoringWindow(Window):
    """A window of a text that is read once.

    Attributes:
        positions: Position in the ids of each target, (time, batch); -1 where there is none.
    """

    positions: Tensor


AnyWindow = TypeVar("AnyWindow", bound=Window)


def stream_windows(
    ids: Ids,
    *,
    batch_size: int,
    window: int,
    start: Position,
    seed: int = 1,
    vary: bool = False,
    shuffle: bool = False,
    shard: Shard = ALL,
) -> Iterator[Window]:
    """Read a text in `batch_size` contiguous streams side by side, epoch after epoch without end.

    Each target's input is the token before it in the text, of its first <EOS>. What is left of a stream when no whole
    window fits is left out of the epoch, so that steps have few shapes: less than one window a stream.

    Args:
        ids: The text, (tokens,).
        batch_size: Streams.
        window: Tokens of a stream in a window.
        start: Where to begin.
        seed: Of what is drawn anew for each epoch.
        vary: Windows of varying length (Merity et al. 2018, arXiv:1708.02182, section 4.1): about `window`, one in
            twenty half as long, in eighths of a window, so that each shape's kernel is built once.
        shuffle: Each stream begins somewhere in its midst and goes on from its end to its beginning, so that batches
            change from epoch to epoch (Press 2019, arXiv:1903.04167).
        shard: Of the streams, those that are read here.

    Raises:
        CorpusError: The text is too short for a window of that many streams.
    """
    length = len(ids) // batch_size
    per_epoch = length // window
    if per_epoch == 0:
        raise CorpusError(
            f"the training text is too small: {len(ids)} tokens, but one window needs batch_size x window = "
            f"{batch_size} x {window}; lower training.batch_size or training.window"
        )
    mine = shard.columns(batch_size)
    starts = np.arange(batch_size)[mine] * length
    position = start
    while True:
        random = np.random.default_rng([seed, position.epoch])
        # Not a list: of a large text an epoch has millions of windows.
        edges = (
            np.append(0, _varied_ends(length, window, random))
            if vary
            else range(0, length + 1, window)
        )
        turns = random.integers(length, size=batch_size)[mine] if shuffle else 0
        count = len(edges) - 1
        for number in range(min(position.index, count - 1), count):
            first, end = int(edges[number]), int(edges[number + 1])
            at = starts + (turns + np.arange(first, end)[:, None]) % length  # (time, batch)
            targets = ids[at].astype(np.int64)
            inputs = np.where(at > 0, ids[np.maximum(at - 1, 0)].astype(np.int64), EOS)
            position = _next(position, count)
            yield Window(
                torch.from_numpy(inputs),
                torch.from_numpy(targets),
                first == 0,
                position,
                _epochs(position, count),
                batch_size,
            )


def record_windows(
    ids: Ids, *, batch_size: int, window: int, seed: int, start: Position, shard: Shard = ALL
) -> Iterator[Window]:
    """Read records in batches of about one length, shuffled anew each epoch, without end.

    Each record starts from the zero state with <EOS> as first input and ends with <EOS> as last target. A batch longer
    than `window` is read in several windows with the state carried between them.

    `shard` names the records of each batch that are read here; where a batch has none for it, a column of padding is.

    Raises:
        CorpusError: There is no record.
    """
    spans = record_spans(ids)
    if len(spans) == 0:
        raise CorpusError(
            "the training text is too small: it has no record; each line that is not empty is one"
        )
    position = start
    while True:
        windows = _epoch_windows(
            spans, batch_size, window, np.random.default_rng([seed, position.epoch])
        )
        for batch, first in windows[min(position.index, len(windows) - 1) :]:
            inputs, targets = _padded(ids, spans[batch], first, window, shard.columns(len(batch)))
            position = _next(position, len(windows))
            yield Window(
                inputs, targets, first == 0, position, _epochs(position, len(windows)), len(batch)
            )


def windows_to_score(
    ids: Ids, *, mode: str, direction: str = "forward", streams: int = 1, shard: Shard = ALL
) -> Iterator[ScoringWindow]:
    """Read a text once in the mode and direction of a model, each token predicted once.

    Args:
        ids: Ids of the text, (tokens,).
        mode: `stream`: the state is carried through the whole text; `records`: each record starts
            from the initial state.
        direction: `forward`, `backward` or `both`, as for `in_direction`.
        streams: Number of pieces read side by side in stream mode. One is exact; of several, all
            but the first read `WARM_UP` tokens unscored before their piece.
        shard: Streams, or batches of records, that this process reads.
    """

    def read(ids: Ids) -> Iterator[ScoringWindow]:
        if mode == "records":
            return scoring_record_windows(ids, shard=shard)
        return scoring_windows(ids, streams=streams, warm_up=WARM_UP, shard=shard)

    return in_direction(direction, ids, mode=mode, read=read)


def scoring_windows(
    ids: Ids, *, streams: int = 1, window: int | None = None, warm_up: int = 0, shard: Shard = ALL
) -> Iterator[ScoringWindow]:
    """Read a text once, each token predicted once.

    Args:
        ids: The text, (tokens,).
        streams: Pieces read side by side; with one, and that is exact, the state is carried through the whole text.
        window: Tokens of a stream in a window; by default such that all streams' logits fit in memory.
        warm_up: Tokens that each stream but the first reads unscored before its piece, so that its state there is
            about what it would be. The first stream scores them: it begins where the text does.
        shard: Of the streams, those that are read here; there may be none.
    """
    window = window or max(1, _TOKENS_AT_ONCE // streams)
    if streams == 1 or len(ids) <= warm_up + streams:
        streams, warm_up = 1, 0
    length = -(-(len(ids) - warm_up) // streams)
    count = -(-(len(ids) - warm_up) // max(length, 1))
    starts = np.arange(count)[shard.columns(count)] * length
    if len(starts) == 0:
        return
    for first in range(0, warm_up + length, window):
        time = np.arange(first, min(first + window, warm_up + length))[:, None]
        at = starts + time  # (time, batch)
        scored = (at < len(ids)) & ((time >= warm_up) | (starts == 0))
        inputs = np.where(at > 0, ids[np.clip(at - 1, 0, len(ids) - 1)].astype(np.int64), EOS)
        targets = np.where(scored, ids[np.minimum(at, len(ids) - 1)].astype(np.int64), PADDING)
        yield ScoringWindow(
            torch.from_numpy(inputs),
            torch.from_numpy(targets),
            resets_state=first == 0,
            next=Position(),
            epochs=0.0,
            global_batch_size=count,
            positions=torch.from_numpy(np.where(scored, at, -1)),
        )


def scoring_record_windows(
    ids: Ids, *, batch_size: int = 64, window: int | None = None, shard: Shard = ALL
) -> Iterator[ScoringWindow]:
    """Read every record once, each from the zero state, those of like length together.

    Args:
        ids: Records, (tokens,).
        batch_size: Records side by side.
        window: Tokens of a record in a window; by default such that all records' logits fit in memory.
        shard: Of the batches, those that are read here: every so many-th.
    """
    spans = record_spans(ids)
    order = np.argsort(spans[:, 1] - spans[:, 0], kind="stable")
    for begin in range(shard.rank * batch_size, len(order), shard.num_shards * batch_size):
        batch = spans[order[begin : begin + batch_size]]
        size = window or max(1, _TOKENS_AT_ONCE // len(batch))
        longest = int((batch[:, 1] - batch[:, 0]).max())
        for first in range(0, longest, size):
            inputs, targets = _padded(ids, batch, first, size)
            at = batch[:, 0] + np.arange(first, min(first + size, longest))[:, None]
            yield ScoringWindow(
                inputs,
                targets,
                resets_state=first == 0,
                next=Position(),
                epochs=0.0,
                global_batch_size=len(batch),
                positions=torch.from_numpy(np.where(at < batch[:, 1], at, -1)),
            )


def in_direction(
    direction: str, ids: Ids, *, mode: str, read: Callable[[Ids], Iterator[AnyWindow]]
) -> Iterator[AnyWindow]:
    """Read a text forward, backward, or both: each forward window then has the backward one beside it in the batch.

    Args:
        direction: `forward`, `backward` or `both`.
        ids: The text.
        mode: `stream`: the text is reversed as a whole; `records`: each record in its place.
        read: What makes windows of ids, given in the order of reading.
    """
    if direction == "forward":
        return read(ids)
    backward = read(reverse(ids, mode=mode))
    return backward if direction == "backward" else map(_side_by_side, read(ids), backward)


def reverse(ids: Ids, *, mode: str) -> Ids:
    """Return a text's ids from its end to its beginning, the closing <EOS> of the text or of each record left last."""
    if mode == "records":
        spans = record_spans(ids)
        lengths = spans[:, 1] - spans[:, 0]
        first, end = (np.repeat(edge, lengths) for edge in (spans[:, 0], spans[:, 1]))
        at = np.arange(len(first))
        return np.asarray(ids[np.where(at == end - 1, at, first + end - 2 - at)])
    ids = np.asarray(ids)
    if len(ids) and ids[-1] == EOS:
        return np.concatenate([ids[-2::-1], ids[-1:]])
    return ids[::-1]


def _side_by_side(forward: AnyWindow, backward: AnyWindow) -> AnyWindow:
    inputs, targets = (
        torch.cat([getattr(forward, name), getattr(backward, name)], dim=1)
        for name in ("inputs", "targets")
    )
    return replace(forward, inputs=inputs, targets=targets)


def record_spans(ids: Ids) -> npt.NDArray[np.int64]:
    """Return where each record begins, and where it ends after its <EOS>, (records, 2)."""
    parts = split_by_file(ids)
    starts = np.cumsum([0, *map(len, parts)])
    ends = np.concatenate(
        [
            np.flatnonzero(part == EOS) + 1 + start
            for part, start in zip(parts, starts, strict=False)
        ]
    )
    return (
        np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
        if len(ends)
        else np.zeros((0, 2), np.int64)
    )


def _varied_ends(length: int, window: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return where each window of an epoch ends; the first has the whole length, so that there always is one."""
    eighth = max(1, window // 8)
    count = -(-length // eighth)  # More than enough.
    means = np.where(random.random(count) < _SHORT_SHARE, window / 2, window)
    lengths = (
        np.rint(random.normal(means, window * _LENGTH_DEVIATION) / eighth).astype(np.int64) * eighth
    )
    ends = np.cumsum([window, *np.clip(lengths, eighth, 2 * window)])
    return ends[ends <= length]


def _next(position: Position, per_epoch: int) -> Position:
    done = position.index + 1
    return Position(position.epoch + 1, 0) if done >= per_epoch else Position(position.epoch, done)


def _epochs(position: Position, per_epoch: int) -> float:
    return position.epoch + position.index / per_epoch


def _epoch_windows(
    spans: npt.NDArray[np.int64], batch_size: int, window: int, random: np.random.Generator
) -> list[tuple[npt.NDArray[np.int64], int]]:
    """Return the records and the first token of every window of an epoch, in the order of reading.

    Records are shuffled, sorted by length within buckets, cut into batches, and the batches shuffled: little padding,
    and no two epochs alike.
    """
    lengths = spans[:, 1] - spans[:, 0]
    shuffled = random.permutation(len(spans))
    bucket = batch_size * _BUCKET_BATCHES
    batches: list[npt.NDArray[np.int64]] = []
    for at in range(0, len(shuffled), bucket):
        chosen = shuffled[at : at + bucket]
        chosen = chosen[np.argsort(lengths[chosen], kind="stable")]
        batches += [
            chosen[begin : begin + batch_size] for begin in range(0, len(chosen), batch_size)
        ]
    order: list[int] = random.permutation(len(batches)).tolist()
    return [
        (batches[number], first)
        for number in order
        for first in range(0, lengths[batches[number]].max(), window)
    ]


def _padded(
    ids: Any, spans: npt.NDArray[np.int64], first: int, window: int, columns: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (time, batch), of some records' tokens from number `first`, padded as all would be."""
    lengths = spans[:, 1] - spans[:, 0]
    number = np.arange(first, min(first + window, lengths.max()))[:, None]  # (time, 1)
    spans, lengths = spans[columns], lengths[columns]
    if len(spans) == 0:
        spans, lengths = np.zeros((1, 2), np.int64), np.zeros(1, np.int64)
    present = number < lengths
    at = np.minimum(spans[:, 0] + number, np.maximum(spans[:, 1] - 1, 0))
    targets = np.where(present, ids[at].astype(np.int64), PADDING)
    inputs = np.where((number > 0) & present, ids[np.maximum(at - 1, 0)].astype(np.int64), EOS)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
