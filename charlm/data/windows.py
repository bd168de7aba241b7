"""Token ids → windows of a text (`stream`) or of padded records (`records`), from any position."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.replay import Records, Replay
from charlm.data.restarts import StreamPlan, StreamTokens, eos_ends, plan_streams
from charlm.data.tokenizer import EOS, Ids
from charlm.errors import CorpusError

PADDING = -100  # A target that no loss counts: torch's `ignore_index`.
# After this many tokens, a state that began at zero predicts within 0.001 nats of one that was
# carried, as a test shows.
WARM_UP = 256
# Tokens per scoring window; with a large vocabulary their logits take a few hundred megabytes.
_SCORING_TOKENS = 4096
# Merity et al. 2018: 5 % of the windows are half as long; lengths vary by 5 of 70 tokens.
_SHORT_FRACTION = 0.05
_LENGTH_DEVIATION = 5 / 70
_BUCKET_BATCHES = 50  # Number of batches whose records are sorted by length together.


@dataclass(frozen=True)
class Position:
    """The place at which reading continues.

    Attributes:
        epoch: Number of completed passes over the text.
        index: Number of windows read in this pass.
    """

    epoch: int = 0
    index: int = 0


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


@dataclass(frozen=True)
class StreamOptions:
    """How a text is read in streams.

    Attributes:
        seed: Seed of the choices that are drawn in each epoch.
        vary: Whether window lengths vary (Merity et al. 2018, arXiv:1708.02182, section 4.1): about
            `window`, one in twenty half as long, in eighths of a window, so that each shape's
            kernel is built once.
        shuffle: Whether each stream begins at a random token and wraps around at its end, so that
            batches differ from epoch to epoch (Press 2019, arXiv:1903.04167).
        restart_windows: Number of windows after which a stream reads the next document from the
            initial state (charlm/data/restarts.py); 0: it never does.
        direction: `forward`, `backward` or `both`, as for `read_in_direction`.
    """

    seed: int = 1
    vary: bool = False
    shuffle: bool = False
    restart_windows: int = 0
    direction: str = "forward"


DEFAULT_OPTIONS = StreamOptions()


def stream_windows(
    ids: Ids,
    *,
    batch_size: int,
    window: int,
    start: Position,
    options: StreamOptions = DEFAULT_OPTIONS,
    replay: Replay | None = None,
    shard: Shard = ALL,
) -> Iterator[Window]:
    """Read a text in `batch_size` contiguous streams side by side, epoch after epoch, forever.

    The input of each target is the token before it in the text; that of the first token is <EOS>.
    The end of each stream that does not fill a window is skipped in every epoch, less than one
    window per stream, so that steps have few shapes.

    Args:
        ids: Ids of the text, (tokens,).
        batch_size: Number of streams.
        window: Tokens per window of each stream.
        start: Position at which reading begins.
        options: Lengths of windows, order of reading, restarts and direction.
        replay: Old text that is mixed into every epoch, or None.
        shard: Streams that this process reads.

    Raises:
        CorpusError: The text is too short for one window of `batch_size` streams.
    """
    position = start
    text = _StreamText.of(ids if replay is None else replay.stream(ids, position.epoch), options)
    length = _stream_length(text.num_tokens, batch_size, window)
    while True:
        random = np.random.default_rng([options.seed, position.epoch])
        streams = _plan_epoch(text, length, batch_size, window, options, random)
        num_windows = streams.num_windows
        first = min(position.index, num_windows - 1)
        reads = zip(*(plan.read_from(first) for plan in streams.plans), strict=True)
        columns = shard.columns(batch_size)
        for number, read in zip(range(first, num_windows), reads, strict=False):
            parts = [streams.of(*one, columns) for one in zip(text.readings, read, strict=True)]
            inputs, targets, restarts = map(partial(torch.cat, dim=-1), zip(*parts, strict=True))
            position = _after(position, num_windows)
            yield Window(
                inputs=inputs,
                targets=targets,
                resets_state=number == 0,
                next=position,
                epochs=_num_epochs(position, num_windows),
                global_batch_size=batch_size,
                restarts=restarts if restarts.any() else None,
            )
        if replay is not None:
            text = _StreamText.of(replay.stream(ids, position.epoch), options)


def record_windows(
    ids: Ids,
    *,
    batch_size: int,
    window: int,
    seed: int,
    start: Position,
    replay: Replay | None = None,
    shard: Shard = ALL,
    targets: Ids | None = None,
) -> Iterator[Window]:
    """Read records in batches of similar length, shuffled in each epoch, forever.

    Each record starts from the initial state with <EOS> as first input and ends with <EOS> as last
    target. A batch longer than `window` is read in several windows with the state carried.

    Args:
        ids: Ids of the records, (tokens,).
        batch_size: Number of records side by side.
        window: Longest window, in tokens.
        seed: Seed of the order of records.
        start: Position at which reading begins.
        replay: Old text that is mixed into every epoch, or None.
        shard: Records of each batch that this process reads; if there are none in a batch, it reads
            a column of padding.
        targets: What is predicted at the position of each id, (tokens,), `PADDING` for nothing. A
            record of a task is read in one window, so that each window predicts something. By
            default the ids themselves.

    Raises:
        CorpusError: There is no record.
    """
    spans = record_spans(ids)
    if len(spans) == 0:
        raise CorpusError(
            "the training text is too small: it has no record; every line or document that is not "
            "empty is one"
        )
    if targets is not None:
        window = int((spans[:, 1] - spans[:, 0]).max())
    nothing = np.zeros(len(spans), dtype=np.int64)
    read = Records(ids, ids if targets is None else targets, spans, unscored=nothing)
    position = start
    while True:
        if replay is not None:
            read = replay.records(ids, spans, position.epoch)
        random = np.random.default_rng([seed, position.epoch])
        windows = _record_windows_of_epoch(read.spans, batch_size, window, random)
        num_windows = len(windows)
        for records, first in windows[min(position.index, num_windows - 1) :]:
            columns = shard.columns(len(records))
            inputs, predicted = _padded(read, records, first, window, columns)
            if replay is not None:
                time = first + np.arange(len(predicted))[:, None]  # (time, 1)
                is_unscored = time < _columns_of(read.unscored[records], columns)
                predicted = predicted.masked_fill(torch.from_numpy(is_unscored), PADDING)
            position = _after(position, num_windows)
            yield Window(
                inputs=inputs,
                targets=predicted,
                resets_state=first == 0,
                next=position,
                epochs=_num_epochs(position, num_windows),
                global_batch_size=len(records),
            )


def windows_to_score(
    ids: Ids,
    *,
    mode: str,
    direction: str = "forward",
    streams: int = 1,
    shard: Shard = ALL,
    targets: Ids | None = None,
) -> Iterator[ScoringWindow]:
    """Read a text once in the mode and direction of a model, each token predicted once.

    Args:
        ids: Ids of the text, (tokens,).
        mode: `stream`: the state is carried through the whole text; `records`: each record starts
            from the initial state.
        direction: `forward`, `backward` or `both`, as for `read_in_direction`.
        streams: Number of pieces read side by side in stream mode. One is exact; of several, all
            but the first read `WARM_UP` tokens unscored before their piece.
        shard: Streams, or batches of records, that this process reads.
        targets: Targets of the records of a task, as for `record_windows`.
    """
    if targets is not None:

        def read_task(ids: Ids, targets: Ids) -> Iterator[ScoringWindow]:
            return scoring_record_windows(ids, shard=shard, targets=targets)

        return read_with_targets(direction, ids, targets, read=read_task)

    def read(ids: Ids) -> Iterator[ScoringWindow]:
        if mode == "records":
            return scoring_record_windows(ids, shard=shard)
        return scoring_windows(ids, streams=streams, warm_up=WARM_UP, shard=shard)

    return read_in_direction(direction, ids, mode=mode, read=read)


def scoring_windows(
    ids: Ids, *, streams: int = 1, window: int | None = None, warm_up: int = 0, shard: Shard = ALL
) -> Iterator[ScoringWindow]:
    """Read a text once, each token predicted once.

    Args:
        ids: Ids of the text, (tokens,).
        streams: Number of pieces read side by side. One is exact, because the state is carried
            through the whole text.
        window: Tokens per window of each stream; by default the logits of all streams fit in
            memory.
        warm_up: Tokens that each stream but the first reads unscored before its piece, so that its
            state is about what it would be. The first stream begins with the text and scores them.
        shard: Streams that this process reads; there may be none.
    """
    window = window or max(1, _SCORING_TOKENS // streams)
    if streams == 1 or len(ids) <= warm_up + streams:
        streams, warm_up = 1, 0
    length = -(-(len(ids) - warm_up) // streams)
    num_streams = -(-(len(ids) - warm_up) // max(length, 1))
    starts = np.arange(num_streams)[shard.columns(num_streams)] * length
    if len(starts) == 0:
        return
    for first in range(0, warm_up + length, window):
        time = np.arange(first, min(first + window, warm_up + length))[:, None]
        at = starts + time  # (time, batch)
        scored = (at < len(ids)) & ((time >= warm_up) | (starts == 0))
        known = np.minimum(at, len(ids) - 1)
        targets = np.where(scored, ids[known].astype(np.int64), PADDING)
        yield ScoringWindow(
            inputs=torch.from_numpy(_tokens_before(ids, at)),
            targets=torch.from_numpy(targets),
            resets_state=first == 0,
            next=Position(),
            epochs=0.0,
            global_batch_size=num_streams,
            positions=torch.from_numpy(np.where(scored, at, -1)),
        )


def scoring_record_windows(
    ids: Ids,
    *,
    batch_size: int = 64,
    window: int | None = None,
    shard: Shard = ALL,
    targets: Ids | None = None,
) -> Iterator[ScoringWindow]:
    """Read every record once from the initial state, records of similar length together.

    Args:
        ids: Ids of the records, (tokens,).
        batch_size: Number of records side by side.
        window: Tokens per window of each record; by default the logits of all records fit in
            memory.
        shard: Batches that this process reads: every `num_shards`-th one.
        targets: As for `record_windows`, with one window per record.
    """
    spans = record_spans(ids)
    nothing = np.zeros(len(spans), dtype=np.int64)
    read = Records(ids, ids if targets is None else targets, spans, unscored=nothing)
    order = np.argsort(spans[:, 1] - spans[:, 0], kind="stable")
    for begin in range(shard.rank * batch_size, len(order), shard.num_shards * batch_size):
        records = order[begin : begin + batch_size]
        batch = spans[records]
        longest = int((batch[:, 1] - batch[:, 0]).max())
        size = window or max(1, _SCORING_TOKENS // len(batch))
        size = size if targets is None else longest
        for first in range(0, longest, size):
            inputs, predicted = _padded(read, records, first, size)
            at = batch[:, 0] + np.arange(first, min(first + size, longest))[:, None]
            yield ScoringWindow(
                inputs=inputs,
                targets=predicted,
                resets_state=first == 0,
                next=Position(),
                epochs=0.0,
                global_batch_size=len(batch),
                positions=torch.from_numpy(np.where(at < batch[:, 1], at, -1)),
            )


def read_in_direction(
    direction: str, ids: Ids, *, mode: str, read: Callable[[Ids], Iterator[AnyWindow]]
) -> Iterator[AnyWindow]:
    """Read a text in the direction of a model.

    Args:
        direction: `forward`, `backward`, or `both`: the backward window is then beside the forward
            one in the batch.
        ids: Ids of the text, (tokens,).
        mode: `stream`: the text is reversed as a whole; `records`: every record in its place.
        read: Function that makes windows of ids in the order of reading.
    """
    if direction == "forward":
        return read(ids)
    backward = read(reverse(ids, mode=mode))
    return backward if direction == "backward" else map(_side_by_side, read(ids), backward)


def read_with_targets(
    direction: str, ids: Ids, targets: Ids, *, read: Callable[[Ids, Ids], Iterator[AnyWindow]]
) -> Iterator[AnyWindow]:
    """Read the records of a task in the direction of a model.

    Args:
        direction: `forward` or `both`: the backward window is then beside the forward one in the
            batch. It has no targets, because each is predicted from both directions together.
        ids: Ids of the records, (tokens,).
        targets: What is predicted at the position of each id, (tokens,).
        read: Function that makes windows of ids and targets.
    """
    if direction == "forward":
        return read(ids, targets)
    backward = read(reverse(ids, mode="records"), np.full_like(targets, PADDING))
    return map(_side_by_side, read(ids, targets), backward)


def reverse(ids: Ids, *, mode: str) -> Ids:
    """Return the reversed ids of a text, or of each record; the closing <EOS> stays the last."""
    if mode == "records":
        spans = record_spans(ids)
        lengths = spans[:, 1] - spans[:, 0]
        first = np.repeat(spans[:, 0], lengths)
        end = np.repeat(spans[:, 1], lengths)
        at = np.arange(len(first))
        return np.asarray(ids[np.where(at == end - 1, at, first + end - 2 - at)])
    ids = np.asarray(ids)
    if len(ids) and ids[-1] == EOS:
        return np.concatenate([ids[-2::-1], ids[-1:]])
    return ids[::-1]


def record_spans(ids: Ids) -> npt.NDArray[np.int64]:
    """Return the first position of each record and the one after its <EOS>, (records, 2)."""
    stops = eos_ends(ids)
    starts = np.concatenate([[0], stops])[: len(stops)]
    return np.stack([starts, stops], axis=1).astype(np.int64)


def _side_by_side(forward: AnyWindow, backward: AnyWindow) -> AnyWindow:
    inputs = torch.cat([forward.inputs, backward.inputs], dim=1)
    targets = torch.cat([forward.targets, backward.targets], dim=1)
    return replace(forward, inputs=inputs, targets=targets)


def _in_direction(direction: str, ids: Ids) -> list[Ids]:
    """Return the text, the reversed text, or both, as a model of this direction reads them."""
    if direction == "forward":
        return [ids]
    backward = reverse(ids, mode="stream")
    return [backward] if direction == "backward" else [ids, backward]


class _StreamText(NamedTuple):
    """A text as the directions of a model read it.

    Attributes:
        num_tokens: Number of tokens.
        readings: Ids in the order of reading of each direction.
        document_starts: Positions in each of them at which streams may restart.
    """

    num_tokens: int
    readings: list[Ids]
    document_starts: list[npt.NDArray[np.int64]]

    @classmethod
    def of(cls, ids: Ids, options: StreamOptions) -> "_StreamText":
        """Return a text that is read with these options."""
        readings = _in_direction(options.direction, ids)
        nowhere = np.zeros(0, dtype=np.int64)
        starts = [eos_ends(ids) if options.restart_windows else nowhere for ids in readings]
        return cls(len(ids), readings, starts)


@dataclass(frozen=True)
class _Streams:
    """The streams of an epoch.

    Attributes:
        length: Number of tokens of a stream.
        shifts: Offset in each stream of the token that is read first, (streams,).
        plans: What the windows read, for each direction.
    """

    length: int
    shifts: npt.NDArray[np.int64]
    plans: list[StreamPlan]

    @property
    def num_windows(self) -> int:
        """Number of windows of the epoch."""
        return max(plan.num_windows for plan in self.plans)

    def of(self, ids: Ids, tokens: StreamTokens, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs and targets, (time, batch), and restarts, (batch,), of some streams."""
        starts = np.arange(len(self.shifts)) * self.length
        at = starts + (self.shifts + tokens.positions) % self.length
        at, is_read = at[:, columns], tokens.is_read[:, columns]
        inputs = np.where(is_read, _tokens_before(ids, at), EOS)
        targets = np.where(is_read, ids[at].astype(np.int64), PADDING)
        restarts = tokens.restarts[columns]
        return torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(restarts)


def _plan_epoch(
    text: _StreamText,
    length: int,
    batch_size: int,
    window: int,
    options: StreamOptions,
    random: np.random.Generator,
) -> _Streams:
    """Draw what varies from epoch to epoch; arguments as for `stream_windows`."""
    edges = _window_edges(length, window, options, random)
    shifts = np.zeros(batch_size, dtype=np.int64)
    if options.shuffle:
        shifts = random.integers(length, size=batch_size)
    # Spread over the first windows, so that the streams do not all restart together.
    first_restarts = random.integers(options.restart_windows + 1, size=batch_size)
    plans = [
        plan_streams(
            found,
            length=length,
            shifts=shifts,
            edges=edges,
            restart_windows=options.restart_windows,
            first_restarts=first_restarts,
        )
        for found in text.document_starts
    ]
    return _Streams(length, shifts, plans)


def _stream_length(num_tokens: int, batch_size: int, window: int) -> int:
    """Return the number of tokens of each stream, which must fill a window."""
    length = num_tokens // batch_size
    if length < window:
        lower = "training.batch_size or training.window" if batch_size > 1 else "training.window"
        raise CorpusError(
            f"the training text is too small: it has {num_tokens:,} tokens, and one window needs "
            f"{batch_size * window:,}, training.batch_size x training.window = {batch_size} x "
            f"{window}; give a longer text, or lower {lower}"
        )
    return length


def _tokens_before(ids: Ids, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the id before each position, (time, batch); <EOS> before the first."""
    before = ids[np.clip(at - 1, 0, len(ids) - 1)].astype(np.int64)
    return np.where(at > 0, before, EOS)


def _window_edges(
    length: int, window: int, options: StreamOptions, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the number of tokens before each window of an epoch and after the last one.

    A restart delays a stream by less than one window.
    """
    restart_windows = options.restart_windows
    delay = length // restart_windows + 2 * window if restart_windows else 0
    if options.vary:
        return np.append(0, _varied_ends(length, length + delay, window, random))
    return np.arange(0, length + delay + 1, window)


def _varied_ends(
    length: int, limit: int, window: int, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the ends of windows of varying length, up to a limit.

    The first length is `window`, so that a stream of `length` tokens has a window.
    """
    eighth = max(1, window // 8)
    count = -(-length // eighth)  # At least as many as there are windows.
    means = np.where(random.random(count) < _SHORT_FRACTION, window / 2, window)
    drawn = random.normal(means, window * _LENGTH_DEVIATION)
    lengths = np.rint(drawn / eighth).astype(np.int64) * eighth
    ends = np.cumsum([window, *np.clip(lengths, eighth, 2 * window)])
    return ends[ends <= limit]


def _after(position: Position, num_windows: int) -> Position:
    """Return the position after the next window of an epoch with `num_windows`."""
    index = position.index + 1
    if index >= num_windows:
        return Position(epoch=position.epoch + 1, index=0)
    return Position(epoch=position.epoch, index=index)


def _num_epochs(position: Position, num_windows: int) -> float:
    return position.epoch + position.index / num_windows


def _record_windows_of_epoch(
    spans: npt.NDArray[np.int64], batch_size: int, window: int, random: np.random.Generator
) -> list[tuple[npt.NDArray[np.int64], int]]:
    """Return the numbers of the records and the first token of every window of an epoch.

    Records are shuffled, sorted by length within buckets, cut into batches, and the batches are
    shuffled: there is little padding, and no two epochs are the same.
    """
    lengths = spans[:, 1] - spans[:, 0]
    shuffled = random.permutation(len(spans))
    bucket_size = batch_size * _BUCKET_BATCHES
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(shuffled), bucket_size):
        bucket = shuffled[start : start + bucket_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[at : at + batch_size] for at in range(0, len(bucket), batch_size)]
    order: list[int] = random.permutation(len(batches)).tolist()
    return [
        (batches[number], first)
        for number in order
        for first in range(0, lengths[batches[number]].max(), window)
    ]


def _columns_of(unscored: npt.NDArray[np.int64], columns: slice) -> npt.NDArray[np.int64]:
    """Return the values of some columns; one value for a process without a record."""
    own = unscored[columns]
    return own if len(own) else np.zeros(1, dtype=np.int64)


def _padded(
    read: Records,
    numbers: npt.NDArray[np.int64],
    first: int,
    window: int,
    columns: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (time, batch), of a window of records.

    Args:
        read: All records.
        numbers: Numbers of the records of the batch, (batch,).
        first: Position in the records at which the window begins.
        window: Longest window, in tokens.
        columns: Records of the batch to return; they are padded as the whole batch would be.
    """
    spans = read.spans[numbers]
    longest = (spans[:, 1] - spans[:, 0]).max()
    time = np.arange(first, min(first + window, longest))[:, None]  # (time, 1)
    spans = spans[columns]
    if len(spans) == 0:
        spans = np.zeros((1, 2), np.int64)
    is_present = time < spans[:, 1] - spans[:, 0]
    at = np.minimum(spans[:, 0] + time, np.maximum(spans[:, 1] - 1, 0))
    targets = np.where(is_present, read.targets[at].astype(np.int64), PADDING)
    before = read.ids[np.maximum(at - 1, 0)].astype(np.int64)
    inputs = np.where((time > 0) & is_present, before, EOS)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
