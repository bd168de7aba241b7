"""Ids in several files, read as if they were in one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import Ids


class ShardedIds(np.lib.mixins.NDArrayOperatorsMixin):
    """Ids one after another, (tokens,): what is asked for is read, and nothing else, but by functions of numpy.

    >>> ids = ShardedIds([np.array([3, 1]), np.array([4, 1, 5])])
    >>> len(ids), ids[-1].item(), ids[1:4].tolist(), ids[np.array([[0, 4], [2, 1]])].tolist()
    (5, 5, [1, 4, 1], [[3, 5], [4, 1]])
    >>> (ids == 1).tolist()
    [False, True, False, True, False]
    """

    def __init__(self, parts: Sequence[Ids]) -> None:
        """Put parts of one type in a row."""
        self.parts = list(parts)
        self.dtype = parts[0].dtype
        self._ends = np.cumsum([len(part) for part in parts])
        self._starts = self._ends - [len(part) for part in parts]

    def __len__(self) -> int:
        """Return how many there are."""
        return int(self._ends[-1])

    def __getitem__(self, at: Any) -> Any:
        """Return what stands at an index, a slice, or each of an array of indices."""
        if isinstance(at, slice):
            first, stop, step = at.indices(len(self))
            if step != 1:
                return np.asarray(self)[at]
            here = zip(self.parts, self._starts, strict=True)
            pieces = [part[max(first - begin, 0) : max(stop - begin, 0)] for part, begin in here]
            filled = [piece for piece in pieces if len(piece)]
            return filled[0] if len(filled) == 1 else np.concatenate([pieces[0][:0], *filled])
        places = np.asarray(at)
        if places.dtype == bool:
            return np.asarray(self)[places]
        places = np.where(places < 0, places + len(self), places)
        number = np.searchsorted(self._ends, places, side="right")
        found = np.empty(places.shape, dtype=self.dtype)
        for each in np.unique(number).tolist():
            chosen = number == each
            found[chosen] = self.parts[each][places[chosen] - self._starts[each]]
        return found if found.ndim else found[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all of it, in memory."""
        return np.concatenate(self.parts).astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Compare and compute with all of it, in memory."""
        return getattr(ufunc, method)(
            *(np.asarray(one) if one is self else one for one in inputs), **options
        )


def split_by_file(ids: Ids | ShardedIds) -> list[Ids]:
    """Return ids by the files that they are in."""
    return ids.parts if isinstance(ids, ShardedIds) else [ids]
