"""Novelty: whether a text is neither in a corpus nor a repetition."""

from collections.abc import Iterable, Sequence

import numpy as np

from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows import record_spans
from charlm.storage.memory_maps import BLOCK_BYTES


class NoveltyFilter:
    """Recognizes texts that are in a corpus or were seen before, by their ids."""

    def __init__(self, parts: Iterable[Ids], *, records: bool) -> None:
        """Index the corpus.

        Args:
            parts: Ids of each part of the corpus.
            records: Whether a text is compared with whole records; else it is searched for
                anywhere in the corpus.
        """
        parts = list(parts)
        self._type = parts[0].dtype if parts else np.dtype(np.int64)
        self._records = (
            {ids[a : b - 1].tobytes() for ids in parts for a, b in record_spans(ids)}
            if records
            else None
        )
        self._parts = [] if records else parts
        self._seen: set[bytes] = set()

    def is_novel(self, ids: Sequence[int]) -> bool:
        """Return whether a text is new, and remember it."""
        if self._records is not None:  # Records are compared without their <EOS>.
            ids = [token for token in ids if token != EOS]
        data = np.array(ids, dtype=self._type).tobytes()
        is_known = data in self._seen or self._is_in_corpus(data)
        self._seen.add(data)
        return not is_known

    def _is_in_corpus(self, data: bytes) -> bool:
        if self._records is not None:
            return data in self._records
        size = len(data) // self._type.itemsize
        # Overlapping blocks of the memory map, so that a large text is never in memory as a whole.
        return any(
            self._is_in_block(ids[start : start + BLOCK_BYTES + size].tobytes(), data)
            for ids in self._parts
            for start in range(0, len(ids), BLOCK_BYTES)
        )

    def _is_in_block(self, block: bytes, data: bytes) -> bool:
        start = -1
        while (start := block.find(data, start + 1)) >= 0:
            if start % self._type.itemsize == 0:  # Else the match begins within an id.
                return True
        return False
