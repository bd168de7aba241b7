r"""Characters and lines of UTF-8 text, counted in its bytes.

The one rule for line ends: CR LF, LF, CR, and what Unicode calls a line end (section 5.8 of the
Unicode Standard): VT, FF, NEL (U+0085), LS (U+2028) and PS (U+2029). Run folders of earlier
versions keep the rule `line_feed`: LF ends a line, and a CR right before it belongs to the line
end. It is also the rule of the tokenizers: no token crosses LF.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import AnyStr, Literal

import numpy as np
import numpy.typing as npt

from charlm.storage.memory_maps import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview
LineEnds = Literal["unicode", "line_feed"]
_LINE_END = r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]"
_LINE_END_BYTES = rb"\r\n|[\n\r\x0b\x0c]|\xc2\x85|\xe2\x80[\xa8\xa9]"


def starts_character(data: Buffer) -> npt.NDArray[np.bool_]:
    """Return for each byte whether a character starts there: all but UTF-8's continuation bytes."""
    starts: npt.NDArray[np.bool_] = (np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80
    return starts


def count_characters(data: Buffer) -> int:
    """Return the number of characters in UTF-8 text.

    >>> count_characters("naïve 日本".encode())
    8
    """
    view = memoryview(data)
    # Block by block, because the mask takes as much memory as the bytes it describes.
    blocks = (view[start : start + BLOCK_BYTES] for start in range(0, len(view), BLOCK_BYTES))
    return sum(int(np.count_nonzero(starts_character(block))) for block in blocks)


def character_bounds(data: Buffer) -> list[int]:
    """Return the byte offset of every character, then that of the end; for an empty text [0].

    Continuation bytes that follow no character belong to the character before them.

    >>> character_bounds("aé!".encode())
    [0, 1, 3, 4]
    """
    starts = np.flatnonzero(starts_character(data))
    bounds = np.unique(np.concatenate([[0], starts, [len(data)]]))
    offsets: list[int] = bounds.astype(np.int64).tolist()
    return offsets


def split_lines(text: AnyStr, line_ends: LineEnds = "line_feed") -> list[AnyStr]:
    r"""Return the lines of a text with their line ends.

    >>> split_lines("a\r\n\nb\rc", "unicode"), split_lines("a\r\n\nb\rc", "line_feed")
    (['a\r\n', '\n', 'b\r', 'c'], ['a\r\n', '\n', 'b\rc'])
    """
    stops: list[int] = [match.end() for match in _find_ends(text, line_ends)]
    if not stops or stops[-1] < len(text):
        stops.append(len(text))
    return [text[start:stop] for start, stop in pairwise([0, *stops]) if start < stop]


def ends_line(text: AnyStr, line_ends: LineEnds) -> bool:
    """Return whether a text ends with a line end."""
    return len(strip_line_end(text, line_ends)) < len(text)


def strip_line_end(line: AnyStr, line_ends: LineEnds = "line_feed") -> AnyStr:
    r"""Return a line without the line end at its end.

    >>> strip_line_end("a \r\n", "unicode"), strip_line_end("a\n\n", "unicode")
    ('a ', 'a\n')
    """
    last = line[-3:]  # No line end is longer.
    for match in _find_ends(last, line_ends):
        if match.end() == len(last):
            return line[: len(line) - match.end() + match.start()]
    if line_ends == "line_feed":
        return line.removesuffix("\r" if isinstance(line, str) else b"\r")
    return line


def as_line_feeds(text: bytes, line_ends: LineEnds) -> bytes:
    """Return a text in which each line end is a line feed."""
    return text if line_ends == "line_feed" else re.sub(_LINE_END_BYTES, b"\n", text)


def _find_ends(text: AnyStr, line_ends: LineEnds) -> Iterator[re.Match[AnyStr]]:
    if isinstance(text, str):
        return re.finditer(_LINE_END if line_ends == "unicode" else "\r?\n", text)
    return re.finditer(_LINE_END_BYTES if line_ends == "unicode" else b"\r?\n", text)


def find_line_ends(
    data: npt.NDArray[np.uint8], line_ends: LineEnds
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first byte of each line end, and the one after it, in no particular order.

    The two bytes of CR LF are two line ends.

    Args:
        data: UTF-8 text, (bytes,).
        line_ends: The rule.
    """
    starts: list[npt.NDArray[np.int64]] = []
    stops: list[npt.NDArray[np.int64]] = []
    for begin in range(0, len(data), BLOCK_BYTES):
        before = max(0, begin - 2)  # The first bytes of a line end of three bytes.
        block = np.asarray(data[before : begin + BLOCK_BYTES])
        for number, width in _ends_in_block(block, line_ends):
            at = number[number >= begin - before] + before
            starts.append(at - (width - 1))
            stops.append(at + 1)
    return np.concatenate(starts), np.concatenate(stops)


def _ends_in_block(
    block: npt.NDArray[np.uint8], line_ends: LineEnds
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """Yield the positions of the last bytes of line ends, with the length of these line ends."""
    if line_ends == "line_feed":
        yield np.flatnonzero(block == 0x0A), 1
        return
    yield np.flatnonzero(block - 0x0A <= 0x0D - 0x0A), 1  # LF, VT, FF, CR; others wrap around.
    next_line = np.flatnonzero(block == 0x85)
    yield next_line[(next_line >= 1) & (block[next_line - 1] == 0xC2)], 2
    separators = np.flatnonzero(block >> 1 == 0xA8 >> 1)
    are_ends = (block[separators - 1] == 0x80) & (block[separators - 2] == 0xE2)
    yield separators[(separators >= 2) & are_ends], 3
