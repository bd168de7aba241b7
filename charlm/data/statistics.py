"""Statistics of a text: documents, characters, alphabet, lengths, duplicates."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from charlm.data.corpus import DIGEST_BYTES, Text
from charlm.data.tokenizer import NUM_CODE_POINTS
from charlm.storage.results import Result

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Statistics(Result):
    """Statistics of a text with all its parts.

    Attributes:
        documents: Number of documents; in records mode, of records that are not empty.
        characters: Number of characters; of bytes for a text read as bytes.
        bytes: Number of UTF-8 bytes.
        alphabet: Number of occurrences of each character, the most frequent first.
        lengths: Quantiles `QUANTILES` of the documents' lengths in characters.
        duplicates: Number of documents that equal an earlier document.
    """

    documents: int
    characters: int
    bytes: int
    alphabet: dict[str, int]
    lengths: tuple[int, ...]
    duplicates: int


def compute_statistics(*parts: Text) -> Statistics:
    """Read the parts of a text once and compute their statistics."""
    counts = np.zeros(NUM_CODE_POINTS, dtype=np.int64)
    lengths: list[int] = []
    seen: set[bytes] = set()
    length, digest = 0, blake2b(digest_size=DIGEST_BYTES)
    for text in parts:
        for block, ends in text.blocks():  # A cut document continues in the next part.
            points = _code_points(block, text.raw)
            block_counts = np.bincount(points)
            counts[: len(block_counts)] += block_counts
            length += len(points)
            digest.update(block)
            if ends:
                lengths.append(length)
                seen.add(digest.digest())
                length, digest = 0, blake2b(digest_size=DIGEST_BYTES)
    most_frequent = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return Statistics(
        documents=len(lengths),
        characters=int(counts.sum()),
        bytes=sum(text.size for text in parts),
        alphabet={chr(point): int(counts[point]) for point in most_frequent},
        lengths=_quantiles(lengths),
        duplicates=len(lengths) - len(seen),
    )


def _quantiles(lengths: list[int]) -> tuple[int, ...]:
    in_order = np.sort(lengths) if lengths else np.zeros(1, dtype=np.int64)
    return tuple(int(in_order[round(q * (len(in_order) - 1))]) for q in QUANTILES)


def _code_points(block: bytes, raw: bool) -> npt.NDArray[np.integer]:
    """Return the code points of a block, or its bytes if it is read as bytes."""
    if raw or block.isascii():
        return np.frombuffer(block, dtype=np.uint8)
    return np.frombuffer(block.decode().encode("utf-32-le"), dtype=np.uint32)
