"""Which texts are new: not in the text that the model learnt from, and not written before."""

from collections.abc import Iterable, Sequence

import numpy as np

from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows import record_spans
from charlm.storage.memory_maps import BLOCK_BYTES


class NoveltyFilter:
    """Tells what is neither in a corpus nor a repeat. Compares ids: what the model saw, as it saw it."""

    def __init__(self, parts: Iterable[Ids], *, records: bool) -> None:
        """Take the corpus.

        Args:
            parts: The ids of its parts.
            records: Whether a text is compared with whole records, or looked for anywhere in the text.
        """
        parts = list(parts)
        self._type = parts[0].dtype if parts else np.dtype(np.int64)
        self._records = (
            {ids[a : b - 1].tobytes() for ids in parts for a, b in record_spans(ids)}
            if records
            else None
        )
        self._texts = [] if records else parts
        self._seen: set[bytes] = set()

    def is_novel(self, ids: Sequence[int]) -> bool:
        """Return whether a text is new, and remember it."""
        # Records are compared without their <EOS>; in a long text it stands between documents like any token.
        kept = ids if self._records is None else [token for token in ids if token != EOS]
        data = np.array(kept, dtype=self._type).tobytes()
        known = data in self._seen or (
            data in self._records if self._records is not None else self._occurs(data)
        )
        self._seen.add(data)
        return not known

    def _occurs(self, data: bytes) -> bool:
        size = len(data) // self._type.itemsize
        # Read from the map in blocks that overlap, so that a large text never stands in memory.
        return any(
            self._in_block(ids[at : at + BLOCK_BYTES + size].tobytes(), data)
            for ids in self._texts
            for at in range(0, len(ids), BLOCK_BYTES)
        )

    def _in_block(self, block: bytes, data: bytes) -> bool:
        at = -1
        while (at := block.find(data, at + 1)) >= 0:
            if at % self._type.itemsize == 0:  # Else it begins in the middle of an id.
                return True
        return False
