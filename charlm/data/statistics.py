"""What a text is like: documents, characters, alphabet, lengths, duplicates."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from charlm.data.corpus import Text
from charlm.storage.results import Result

_CODE_POINTS = 0x110000
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Statistics(Result):
    """What was counted in a text, of which some may be held out.

    Attributes:
        documents: How many; of a text of records, the lines that are not empty.
        characters: Of all documents; of a text read as bytes, bytes.
        bytes: UTF-8 bytes.
        alphabet: How often each character occurs, the most frequent first.
        lengths: Characters of a document, at the shares `QUANTILES` of documents in order of length.
        duplicates: Documents that are the same as an earlier one.
    """

    documents: int
    characters: int
    bytes: int
    alphabet: dict[str, int]
    lengths: tuple[int, ...]
    duplicates: int


def compute_statistics(*parts: Text) -> Statistics:
    """Read the parts of a text once and count what is in them."""
    counts = np.zeros(_CODE_POINTS, dtype=np.int64)
    lengths: list[int] = []
    seen: set[bytes] = set()
    length, digest = (
        0,
        blake2b(digest_size=8),
    )  # Of ten million documents two are alike by chance once in 10^5.
    for text in parts:
        for block, ends in text.blocks():  # A document that is cut goes on in the next part.
            points = _points(block, text.raw)
            found = np.bincount(points)
            counts[: len(found)] += found
            length += len(points)
            digest.update(block)
            if ends:
                lengths.append(length)
                seen.add(digest.digest())
                length, digest = 0, blake2b(digest_size=8)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    in_order = np.sort(lengths) if lengths else np.zeros(1, dtype=np.int64)
    return Statistics(
        len(lengths),
        int(counts.sum()),
        sum(text.size for text in parts),
        {chr(point): int(counts[point]) for point in order},
        tuple(int(in_order[round(share * (len(in_order) - 1))]) for share in QUANTILES),
        len(lengths) - len(seen),
    )


def _points(block: bytes, raw: bool) -> npt.NDArray[np.integer]:
    """Return the code points of a block; its bytes where they are no text, or are one each."""
    if raw or block.isascii():
        return np.frombuffer(block, dtype=np.uint8)
    return np.frombuffer(block.decode().encode("utf-32-le"), dtype=np.uint32)
