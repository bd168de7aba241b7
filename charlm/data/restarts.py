"""Where the streams of a text restart: at starts of documents, from the initial state.

A text is read in streams whose state is carried from window to window. If no stream ever started a
document from the initial state, a model would not learn how documents begin there, where sampling
and scoring begin. So each stream restarts from time to time: its window ends before a document, the
rest of the window is padding, and its next window begins with the document.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.data.shards import id_blocks
from charlm.data.tokenizer import EOS, Ids

Positions = npt.NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max


class StreamTokens(NamedTuple):
    """What a window reads of each stream.

    Attributes:
        positions: Position in its stream of each token, (time, streams).
        is_read: Whether the token is read; else it is padding, (time, streams).
        restarts: Whether the stream restarts with the window, (streams,).
    """

    positions: Positions
    is_read: npt.NDArray[np.bool_]
    restarts: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StreamPlan:
    """What the windows of an epoch read of each stream.

    A stream is read in segments. A segment continues from window to window, and its last window is
    padded. Without restarts a stream has one segment.

    Attributes:
        edges: Number of tokens that one segment would have before each window, (windows + 1,).
        windows: First window of each segment, (streams, segments + 1); rows are filled with a
            number that no window has.
        positions: Position in the stream of the first token of each segment, (streams,
            segments + 1); rows are filled with the length of the stream.
        num_windows: Number of windows after which less than one window of each stream is unread.
    """

    edges: Positions
    windows: Positions
    positions: Positions
    num_windows: int

    def read_from(self, window: int) -> Iterator[StreamTokens]:
        """Yield what each window reads, from a window of the epoch on."""
        streams = np.arange(len(self.windows))
        segment = (self.windows <= window).sum(axis=1) - 1
        for number in range(window, len(self.edges) - 1):
            segment += self.windows[streams, segment + 1] <= number
            first_window = self.windows[streams, segment]
            first = self.positions[streams, segment] + self.edges[number] - self.edges[first_window]
            at = first + np.arange(self.edges[number + 1] - self.edges[number])[:, None]
            yield StreamTokens(
                positions=at,
                is_read=at < self.positions[streams, segment + 1],
                restarts=(first_window == number) & (number > 0),
            )


def eos_ends(ids: Ids) -> Positions:
    """Return the position after each <EOS>; the ids are read block by block."""
    ends = [np.zeros(0, dtype=np.int64)]
    offset = 0
    for block in id_blocks(ids):
        ends.append(np.flatnonzero(block == EOS) + (1 + offset))
        offset += len(block)
    return np.concatenate(ends)


def plan_streams(
    document_starts: Positions,
    *,
    length: int,
    shifts: Positions,
    edges: Positions,
    restart_windows: int,
    first_restarts: Positions,
) -> StreamPlan:
    """Return what the windows of an epoch read.

    Args:
        document_starts: Positions in the text at which the streams may restart, in order.
        length: Number of tokens of a stream.
        shifts: Offset in each stream of the token that is read first, (streams,).
        edges: Number of tokens before each window and after the last one.
        restart_windows: Least number of whole windows in a segment, except the first one.
        first_restarts: The same for the first segment of each stream, (streams,).
    """
    bounds = np.searchsorted(document_starts, np.arange(len(shifts) + 1) * length)
    segments = []
    for stream, (shift, first_restart) in enumerate(zip(shifts, first_restarts, strict=True)):
        in_stream = document_starts[bounds[stream] : bounds[stream + 1]] - stream * length
        starts = np.sort((in_stream - shift) % length)
        segments.append(_segments(starts, edges, restart_windows, int(first_restart)))
    ends = [
        int(np.searchsorted(edges, edges[windows[-1]] + length - positions[-1], "right")) - 1
        for windows, positions in segments
    ]
    width = 1 + max(len(windows) for windows, _ in segments)
    return StreamPlan(
        edges=edges,
        windows=_filled([windows for windows, _ in segments], width, _NEVER),
        positions=_filled([positions for _, positions in segments], width, length),
        num_windows=min(max(ends), len(edges) - 1),
    )


def _segments(
    starts: Positions, edges: Positions, restart_windows: int, first_restart: int
) -> tuple[list[int], list[int]]:
    """Return the first window and the first position of each segment of a stream."""
    windows = [0]
    positions = [0]
    earliest = first_restart  # The first window that may be padded.
    while earliest < len(edges) - 1:
        shift = int(edges[windows[-1]]) - positions[-1]  # From a position to its place in `edges`.
        number = int(np.searchsorted(starts, edges[earliest] - shift, "right"))
        if number == len(starts):
            break
        padded = int(np.searchsorted(edges, starts[number] + shift)) - 1
        if padded + 1 == len(edges):
            break
        # The last document that starts in the window, because it leaves the least padding.
        number = int(np.searchsorted(starts, edges[padded + 1] - shift, "right")) - 1
        windows.append(padded + 1)
        positions.append(int(starts[number]))
        earliest = padded + 1 + restart_windows
    return windows, positions


def _filled(rows: list[list[int]], width: int, value: int) -> Positions:
    """Return rows of different lengths as one array; the rest of each row is `value`."""
    filled = np.full((len(rows), width), value, dtype=np.int64)
    for row, values in zip(filled, rows, strict=True):
        row[: len(values)] = values
    return filled
