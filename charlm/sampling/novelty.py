"""Which texts are new: not in the text that the model learnt from, and not written before."""

from collections.abc import Iterable, Sequence

import numpy as np

from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows import record_spans


class NoveltyFilter:
    """Tells what is neither in a corpus nor a repeat. Compares ids: what the model saw, as it saw it."""

    def __init__(self, parts: Iterable[Ids], *, records: bool) -> None:
        """Take the corpus.

        Args:
            parts: The ids of its parts.
            records: Whether a text is compared with whole records, or looked for anywhere in the text.
        """
        self._parts = list(parts)
        self._records = (
            {ids[a : b - 1].tobytes() for ids in self._parts for a, b in record_spans(ids)} if records else None
        )
        self._seen: set[bytes] = set()

    def is_novel(self, ids: Sequence[int]) -> bool:
        """Return whether a text is new, and remember it."""
        if not self._parts:
            return True
        data = np.array([token for token in ids if token != EOS], dtype=self._parts[0].dtype).tobytes()
        known = data in self._seen or (data in self._records if self._records is not None else self._occurs(data))
        self._seen.add(data)
        return not known

    def _occurs(self, data: bytes) -> bool:
        for ids in self._parts:
            text, at, size = ids.tobytes(), -1, ids.dtype.itemsize
            while (at := text.find(data, at + 1)) >= 0:
                if at % size == 0:
                    return True
        return False
