"""How much of a text is also in another text, by the contents and not by the names of the texts."""

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import Mode
from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import record_spans

# A text of which at least this fraction is in another text counts as the same text.
SAME_TEXT = 0.5
_WINDOW = 64  # Different texts seldom share this number of adjacent tokens.
_BLOCK = 1 << 22  # Tokens of the other text that are hashed together.
# Odd constants of 64 bits, so that no token is lost in the product (Knuth, volume 3, section 6.4).
_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)


def shared_fraction(ids: Ids, other: Ids, *, mode: Mode) -> float:
    """Return the fraction of a text that is also in another text by the same tokenizer.

    In records mode a record counts if it is a record of the other text. Otherwise the text is cut
    into windows of 64 tokens, fewer in a shorter text, which may be anywhere in the other text.
    """
    if mode == "records":
        known = set(_records(other))
        records = _records(ids)
        return sum(record in known for record in records) / max(len(records), 1)
    window = min(_WINDOW, 1 << max(len(ids).bit_length() - 1, 0))
    hashes = _window_hashes(ids, window)[::window]
    is_found = np.zeros(len(hashes), dtype=bool)
    for start in range(0, len(other), _BLOCK):
        block = other[start : start + _BLOCK + window - 1]
        is_found |= np.isin(hashes, _window_hashes(block, window))
    return float(is_found.mean()) if len(hashes) else 0.0


def _records(ids: Ids) -> list[bytes]:
    return [np.asarray(ids[start:end]).tobytes() for start, end in record_spans(ids)]


def _window_hashes(ids: Ids, window: int) -> npt.NDArray[np.uint64]:
    """Return a hash of the tokens from each position on, `window` of them, a power of two."""
    hashes = (np.asarray(ids).astype(np.uint64) + np.uint64(1)) * np.uint64(_FACTORS[0])
    size = 1
    while size < window:
        left, right = hashes[:-size], hashes[size:]
        hashes = (left ^ (left >> np.uint64(31))) * np.uint64(_FACTORS[1]) + right
        size *= 2
    return hashes
