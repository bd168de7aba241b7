"""Ids in several files, read as if they were one array."""

import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import Ids
from charlm.storage.memory_maps import BLOCK_BYTES, release_pages


class ShardedIds(np.lib.mixins.NDArrayOperatorsMixin):
    """The ids of several arrays in sequence, (tokens,).

    Indexing reads only the indexed ids. Functions and operators of numpy load all of them.

    >>> ids = ShardedIds([np.array([3, 1]), np.array([4, 1, 5])])
    >>> len(ids), ids[-1].item(), ids[1:4].tolist(), ids[np.array([[0, 4], [2, 1]])].tolist()
    (5, 5, [1, 4, 1], [[3, 5], [4, 1]])
    >>> (ids == 1).tolist()
    [False, True, False, True, False]
    """

    def __init__(self, shards: Sequence[Ids]) -> None:
        """Concatenate arrays of one type without copying them."""
        self.shards = list(shards)
        self.dtype = shards[0].dtype
        lengths = [len(shard) for shard in shards]
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    def __len__(self) -> int:
        """Return the number of ids."""
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        """Return the ids at an index, a slice, or an array of indices or booleans."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return self._slice(start, stop) if step == 1 else np.asarray(self)[index]
        places = np.asarray(index)
        if places.dtype == bool:
            return np.asarray(self)[places]
        return self._take(np.where(places < 0, places + len(self), places))

    def _slice(self, start: int, stop: int) -> npt.NDArray[Any]:
        pieces = [
            shard[max(start - begin, 0) : max(stop - begin, 0)]
            for shard, begin in zip(self.shards, self._starts.tolist(), strict=True)
        ]
        filled = [piece for piece in pieces if len(piece)]
        return filled[0] if len(filled) == 1 else np.concatenate([pieces[0][:0], *filled])

    def _take(self, places: npt.NDArray[np.int64]) -> Any:
        shard_of = np.searchsorted(self._ends, places, side="right")
        ids = np.empty(places.shape, dtype=self.dtype)
        for number in np.unique(shard_of).tolist():
            is_here = shard_of == number
            ids[is_here] = self.shards[number][places[is_here] - self._starts[number]]
        return ids if ids.ndim else ids[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all ids in memory."""
        return np.concatenate(self.shards).astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """Apply a numpy function to all ids in memory."""
        arrays = (np.asarray(value) if value is self else value for value in inputs)
        return getattr(ufunc, method)(*arrays, **options)


def id_blocks(ids: Ids | ShardedIds) -> Iterator[Ids]:
    """Yield the ids block by block, and release the memory of each block of a memory map."""
    for shard in ids.shards if isinstance(ids, ShardedIds) else [ids]:
        for start in range(0, len(shard), BLOCK_BYTES):
            stop = min(start + BLOCK_BYTES, len(shard))
            yield shard[start:stop]
            if isinstance(shard.base, mmap.mmap):
                release_pages(shard.base, start * shard.itemsize, stop * shard.itemsize)
