"""What of a text occurs in another: exact, by the array of its sorted suffixes.

The array comes from pydivsufsort (Mori's divsufsort), in C and in place: five bytes stand in memory for each byte of
text, the text itself among them. To look something up is a binary search (Manber and Myers 1993), about log2(bytes)
comparisons; texts are compared as bytes, and UTF-8 orders and finds whole characters as it does their bytes.

    >>> from charlm.data.utf8 import character_bounds
    >>> index = SuffixIndex(b"to be or not to be")
    >>> index.occurs(b"not to"), index.occurs(b"to not")
    (True, False)
    >>> query = b"be not to be"
    >>> index.match_lengths(query, character_bounds(query)).tolist()
    [1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9]
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.errors import CharlmError

Bytes = bytes | bytearray


class SuffixIndex:
    """The sorted suffixes of a text; those alone that begin at a multiple of `width` bytes."""

    def __init__(self, text: bytes, *, width: int = 1) -> None:
        """Sort the suffixes of a text.

        Args:
            text: Bytes: UTF-8, or symbols of more bytes each, the highest first.
            width: Bytes of a symbol.

        Raises:
            CharlmError: pydivsufsort is not installed.
        """
        self.text = text
        self._order = _sorted_suffixes(
            text, width
        ).data  # Its items are Python's numbers, at half the cost.

    def interval(self, pattern: Bytes, low: int = 0, high: int | None = None) -> tuple[int, int]:
        """Return the first, and the one after the last, of the sorted suffixes that begin with a pattern.

        Args:
            pattern: Bytes; all suffixes begin with none.
            low: An interval known to hold those looked for: its first,
            high: and the one after its last; None is all.
        """
        text, length = self.text, len(pattern)
        high = len(self._order) if high is None else high
        low = bisect_left(self._order, pattern, low, high, key=lambda at: text[at : at + length])
        high = bisect_right(self._order, pattern, low, high, key=lambda at: text[at : at + length])
        return low, high

    def occurs(self, pattern: Bytes) -> bool:
        """Return whether a pattern stands anywhere in the text, the empty one always."""
        text, length, order = self.text, len(pattern), self._order
        at = bisect_left(order, pattern, key=lambda at: text[at : at + length])
        return length == 0 or (at < len(order) and text[order[at] : order[at] + length] == pattern)

    def positions(self, low: int, high: int) -> npt.NDArray[np.int64]:
        """Return where the suffixes of an interval begin, in bytes, in the order of the text."""
        return np.sort(np.asarray(self._order[low:high], dtype=np.int64))

    def earliest_start(self, query: Bytes, bounds: Sequence[int], first: int, last: int) -> int:
        """Return the smallest start from `first` on such that the query from there to `last` occurs in the text.

        What occurs has all its endings occur too, so that steps of 1, 2, 4, ... and then halves find it.

        Args:
            query: Any text.
            bounds: Where its units begin, in bytes; then where the last ends.
            first: A unit.
            last: Number of the bound at which to end.
        """
        low, step = first, 1
        while low < last and not self.occurs(query[bounds[low] : bounds[last]]):
            first, low, step = low + 1, min(low + step, last), 2 * step
        return first + bisect_left(
            range(first, low), True, key=lambda at: self.occurs(query[bounds[at] : bounds[last]])
        )

    def match_lengths(self, query: Bytes, bounds: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return of each unit of a query the length of the longest text that ends with it and occurs in this one.

        Known as matching statistics (Chang and Lawler 1994), here by ends.

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
            "looking for copies needs pydivsufsort, which is not installed: pip install 'charlm[eval]'"
        ) from None
    if not text:
        return np.zeros(0, dtype=np.int32)
    order: npt.NDArray[Any] = divsufsort(text)
    order = order.view(
        np.dtype(f"i{order.itemsize}")
    )  # The library's own type is one that no memoryview reads.
    return order if width == 1 else order[order % width == 0]
