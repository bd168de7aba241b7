"""Texts as sequences of units, characters or words, and the n-grams of these units."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import UNK, Ids
from charlm.data.utf8 import character_bounds
from charlm.evaluation.static_model import Integers


@dataclass(frozen=True)
class Units:
    """A text as a sequence of units.

    Attributes:
        data: Bytes of all units.
        bounds: Byte offset of every unit, then that of the end.
        known_lengths: Number of units, up to each unit, without <UNK>: the longest n-gram that may
            end there, (units,).
    """

    data: bytes
    bounds: list[int]
    known_lengths: Integers

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.known_lengths)

    def matches(self, index: SuffixIndex) -> Integers:
        """Return the length of the longest match with a text that ends at each unit, (units,)."""
        return index.match_lengths(self.data, self.bounds)


@dataclass(frozen=True)
class UnitKind:
    """A kind of units.

    Attributes:
        name: `characters` or `words`.
        index: Index of the training text in these units.
        split: Function that splits a text into units.
        repeated_ngram: Length of the n-grams that repetition counts.
    """

    name: str
    index: SuffixIndex
    split: Callable[[bytes], Units]
    repeated_ngram: int


@dataclass(frozen=True)
class WordIds:
    """Words as the units of n-grams; n-grams with <UNK> do not count.

    Attributes:
        training: Ids of the training text, (tokens,).
        encode: Function from a text to its ids.
    """

    training: Ids
    encode: Callable[[str], Ids]


def character_units(index: SuffixIndex) -> UnitKind:
    """Return characters as units, given the index of the training text."""
    return UnitKind("characters", index, split_characters, repeated_ngram=16)


def word_units(ids: WordIds) -> UnitKind:
    """Return words as units."""
    # The highest byte comes first, so that the order of the bytes is that of the ids.
    dtype = ids.training.dtype.newbyteorder(">")

    def split(text: bytes) -> Units:
        encoded = ids.encode(text.decode(errors="replace"))
        positions = np.arange(len(encoded))
        last_unknown = np.maximum.accumulate(np.where(encoded == UNK, positions, -1))
        data = encoded.astype(dtype).tobytes()
        bounds = [*range(0, len(data) + 1, dtype.itemsize)]
        return Units(data, bounds, positions - last_unknown)

    index = SuffixIndex(ids.training.astype(dtype).tobytes(), width=dtype.itemsize)
    return UnitKind("words", index, split, repeated_ngram=4)


def split_characters(text: bytes) -> Units:
    """Return a text as characters."""
    bounds = character_bounds(text)
    return Units(text, bounds, np.arange(1, len(bounds)))


def overlap(
    texts: Sequence[Units], match_lengths: Sequence[Integers], lengths: Iterable[int]
) -> list[float | None]:
    """Return the fraction of n-grams that are in the training text, for each length of n-grams.

    Args:
        texts: Texts whose n-grams count.
        match_lengths: For each text, the length of the longest match that ends at each unit.
        lengths: Lengths of the n-grams.
    """
    present = np.concatenate([text.known_lengths for text in texts])
    known = np.minimum(np.concatenate(match_lengths), present)
    return [
        fraction(int((known >= length).sum()), int((present >= length).sum())) for length in lengths
    ]


def repeated_share(texts: Sequence[Units], length: int, num_units: int) -> float | None:
    """Return the fraction of n-grams among the first units of all texts that occur before.

    Args:
        texts: Texts whose n-grams count.
        length: Length of the n-grams.
        num_units: Number of units, of all texts together, that are read.
    """
    seen: set[bytes] = set()
    total = 0
    for text in texts:
        for last in np.flatnonzero(text.known_lengths[:num_units] >= length).tolist():
            seen.add(text.data[text.bounds[last + 1 - length] : text.bounds[last + 1]])
            total += 1
        num_units = max(0, num_units - len(text))
    return fraction(total - len(seen), total)


def fraction(part: int, total: int) -> float | None:
    """Return part / total; None if the total is zero."""
    return part / total if total else None
