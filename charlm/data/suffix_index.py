"""Exact search for substrings of a text, with its suffix array.

The suffix array comes from pydivsufsort (Mori's divsufsort), in C and in place; with the text it
takes five bytes of memory per byte of text. A search is a binary search (Manber and Myers 1993)
with about log2(bytes) comparisons. Texts are compared as bytes, which finds whole characters.

    >>> from charlm.data.utf8 import character_bounds
    >>> index = SuffixIndex(b"to be or not to be")
    >>> index.occurs(b"not to"), index.occurs(b"to not")
    (True, False)
    >>> query = b"be not to be"
    >>> index.match_lengths(query, character_bounds(query)).tolist()
    [1, 2, 3, 2, 3, 4, 5, 6, 7, 8, 9, 10]
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.errors import CharlmError
from charlm.version import install_hint

Bytes = bytes | bytearray


class SuffixIndex:
    """The sorted suffixes of a text; with `width` > 1 those that begin at a multiple of it."""

    def __init__(self, text: bytes, *, width: int = 1) -> None:
        """Sort the suffixes of a text.

        Args:
            text: UTF-8, or symbols of several bytes each, big-endian.
            width: Bytes per symbol.

        Raises:
            CharlmError: pydivsufsort is not installed.
        """
        self.text = text
        # A memoryview returns Python integers, at half the cost of numpy's.
        self._order = _sorted_suffixes(text, width).data

    def interval(self, pattern: Bytes, low: int = 0, high: int | None = None) -> tuple[int, int]:
        """Return the range of sorted suffixes that begin with a pattern.

        Args:
            pattern: Bytes to search for; all suffixes begin with the empty pattern.
            low: Start of a range known to contain the result.
            high: End of that range; None is the end of all suffixes.

        Returns:
            The first suffix of the range, and the one after its last.
        """
        text, length = self.text, len(pattern)
        high = len(self._order) if high is None else high
        low = bisect_left(self._order, pattern, low, high, key=lambda at: text[at : at + length])
        high = bisect_right(self._order, pattern, low, high, key=lambda at: text[at : at + length])
        return low, high

    def occurs(self, pattern: Bytes) -> bool:
        """Return whether the text contains a pattern; it always contains the empty one."""
        text, length, order = self.text, len(pattern), self._order
        at = bisect_left(order, pattern, key=lambda at: text[at : at + length])
        return length == 0 or (at < len(order) and text[order[at] : order[at] + length] == pattern)

    def positions(self, low: int, high: int) -> npt.NDArray[np.int64]:
        """Return the byte offsets of the suffixes of a range, in ascending order."""
        return np.sort(np.asarray(self._order[low:high], dtype=np.int64))

    def earliest_start(self, query: Bytes, bounds: Sequence[int], first: int, last: int) -> int:
        """Return the start of the longest part of the query, up to `last`, that the text contains.

        If the text contains a string, it contains all its endings too, so
        steps of 1, 2, 4, ... and then bisection find the start.

        Args:
            query: Text to search for.
            bounds: Byte offset of each unit of the query, then of its end.
            first: Number of the first unit to try.
            last: Number of the bound at which the part ends.
        """
        low, step = first, 1
        while low < last and not self.occurs(query[bounds[low] : bounds[last]]):
            first, low, step = low + 1, min(low + step, last), 2 * step
        return first + bisect_left(
            range(first, low), True, key=lambda at: self.occurs(query[bounds[at] : bounds[last]])
        )

    def match_lengths(self, query: Bytes, bounds: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return for each unit of a query the longest string of the text that ends with it.

        These are the matching statistics of Chang and Lawler (1994), by ends instead of starts.

        Args:
            query: Any text.
            bounds: As for `earliest_start`.

        Returns:
            Lengths in units, (units,).
        """
        starts, first = [], 0
        for last in range(1, len(bounds)):
            first = self.earliest_start(query, bounds, first, last)
            starts.append(first)
        return np.arange(1, len(bounds)) - np.array(starts, dtype=np.int64)


def _sorted_suffixes(text: bytes, width: int) -> npt.NDArray[Any]:
    try:
        from pydivsufsort import divsufsort  # type: ignore[import-untyped]  # It has no types.
    except ImportError:
        raise CharlmError(
            "the search for copies needs pydivsufsort, which is not installed: "
            f"{install_hint('eval')}"
        ) from None
    if not text:
        return np.zeros(0, dtype=np.int32)
    order: npt.NDArray[Any] = divsufsort(text)
    # A memoryview cannot read the type that the library returns.
    order = order.view(np.dtype(f"i{order.itemsize}"))
    return order if width == 1 else order[order % width == 0]
