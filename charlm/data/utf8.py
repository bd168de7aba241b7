r"""Characters and lines of UTF-8 text, counted in its bytes.

The one rule for line ends: a line feed ends a line, and a carriage return right before the end of
a line belongs to the line end. No other character ends a line.
"""

import re
from typing import AnyStr

import numpy as np
import numpy.typing as npt

from charlm.storage.memory_maps import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview


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


def split_lines(text: AnyStr) -> list[AnyStr]:
    r"""Return the lines of a text with their line ends; only a line feed ends a line.

    >>> split_lines("a\r\n\nb")
    ['a\r\n', '\n', 'b']
    """
    if isinstance(text, str):
        return re.findall(r"[^\n]*\n|[^\n]+", text)
    return re.findall(rb"[^\n]*\n|[^\n]+", text)


def strip_line_end(line: AnyStr) -> AnyStr:
    r"""Return a line without the line feed, or carriage return and line feed, that ends it.

    >>> strip_line_end("a \r\n"), strip_line_end(b"a"), strip_line_end(b"a\n\n")
    ('a ', b'a', b'a\n')
    """
    if isinstance(line, str):
        return line.removesuffix("\n").removesuffix("\r")
    return line.removesuffix(b"\n").removesuffix(b"\r")
