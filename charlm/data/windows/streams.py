"""Windows of a text that is read in several streams side by side, from any position."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.replay import Replay
from charlm.data.restarts import StreamPlan, StreamTokens, eos_ends, plan_streams
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows.directions import readings_of
from charlm.data.windows.window import ALL, PADDING, Position, Shard, Window
from charlm.errors import CorpusError, counted

# Merity et al. 2018: 5 % of the windows are half as long; lengths vary by 5 of 70 tokens.
_SHORT_FRACTION = 0.05
_LENGTH_DEVIATION = 5 / 70


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
        yield from _epoch_windows(text, streams, position, shard)
        position = Position(epoch=position.epoch + 1)
        if replay is not None:
            text = _StreamText.of(replay.stream(ids, position.epoch), options)


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
        readings = readings_of(ids, options.direction, mode="stream")
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
        inputs = np.where(is_read, tokens_before(ids, at), EOS)
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


def _epoch_windows(
    text: _StreamText, streams: _Streams, position: Position, shard: Shard
) -> Iterator[Window]:
    """Yield the windows of an epoch from a position on; arguments as for `stream_windows`."""
    batch_size = len(streams.shifts)
    columns = shard.columns(batch_size)
    num_windows = streams.num_windows
    first = min(position.index, num_windows - 1)
    reads = zip(*(plan.read_from(first) for plan in streams.plans), strict=True)
    for number, read in zip(range(first, num_windows), reads, strict=False):
        parts = [streams.of(*one, columns) for one in zip(text.readings, read, strict=True)]
        inputs, targets, restarts = map(partial(torch.cat, dim=-1), zip(*parts, strict=True))
        position = position.after(num_windows)
        yield Window(
            inputs=inputs,
            targets=targets,
            resets_state=number == 0,
            next=position,
            epochs=position.passes(num_windows),
            global_batch_size=batch_size,
            restarts=restarts if restarts.any() else None,
        )


def _stream_length(num_tokens: int, batch_size: int, window: int) -> int:
    """Return the number of tokens of each stream, which must fill a window."""
    length = num_tokens // batch_size
    if length < window:
        lower = "training.batch_size or training.window" if batch_size > 1 else "training.window"
        raise CorpusError(
            f"the training text is too small: it has {counted(num_tokens, 'token')}, and one "
            f"window needs {batch_size * window:,}, training.batch_size x training.window = "
            f"{batch_size} x {window}; give a longer text, or lower {lower}"
        )
    return length


def tokens_before(ids: Ids, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
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
