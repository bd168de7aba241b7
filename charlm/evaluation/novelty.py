"""How new a text is: what of it stands in the training text, and what of it repeats itself.

Texts are compared as the model writes them: UTF-8, normalized as its tokenizer normalizes, a line's end after each
record. Words, subwords, characters and bytes are so compared alike. Everything is exact.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import UNK, Ids
from charlm.data.utf8 import character_bounds, count_characters
from charlm.errors import CorpusError

LONGEST_GRAM = 16
_REPEATED = {"characters": 16, "words": 4}  # Units of an n-gram whose repetition is counted.
# A sentence ends after its mark and the quotes and brackets that close it, where a space or the end follows; after a
# full-width mark; and at the end of its line.
_SENTENCE = re.compile(r"""[^\n]*?(?:[.!?]["'”’)\]]*(?=\s|$)|[。！？]|$)""", re.MULTILINE)  # noqa: RUF001  They are meant.


@dataclass(frozen=True)
class Copy:
    """A stretch of a sample that stands in the training text, letter for letter.

    Attributes:
        characters: Its length.
        text: It.
        sample: Number of the record or text that holds it, from 0.
        sample_character: Where it begins there, in characters from 0.
        training_character: Where it first begins in the training text.
        training_line: On which line of it, from 1.
    """

    characters: int
    text: str
    sample: int
    sample_character: int
    training_character: int
    training_line: int


@dataclass(frozen=True)
class Side:
    """What is said of the sample, and of the held-out text beside it.

    Attributes:
        texts: Records, or long texts, that are not empty.
        characters: In them.
        pieces: Records, or sentences of long texts: up to a mark or a line's end.
        novel_share: Share of the pieces that are not in the training text: as a whole record, or anywhere in a text;
            None if there is no piece, but spaces alone.
        distinct_share: Share of the pieces that are not like one before.
        longest_copy: The longest stretch of one text that is in the training text; None if not a character is.
        overlap: For n = 1 to 16, the share of its n-grams that occur in the training text, each place counted, none
            over two texts; None where there are none.
        repeated_share: Share of its n-grams that begin anew what began before, in this text or one before; over the
            first so many units that both sides have.
    """

    texts: int
    characters: int
    pieces: int
    novel_share: float | None
    distinct_share: float | None
    longest_copy: Copy | None
    overlap: list[float | None]
    repeated_share: float | None


@dataclass(frozen=True)
class Novelty:
    """How new a sample is, beside what honest text of its kind is.

    Attributes:
        sample: What a model wrote.
        held_out: Text that it was not trained on, as much of it as there is of the sample; None where there is none.
        settings: What n-grams consist of, the sample's making and so on.
    """

    sample: Side
    held_out: Side | None
    settings: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all as JSON's types."""
        return asdict(self)


@dataclass(frozen=True)
class Words:
    """What n-grams of words are made of: with an n-gram that holds <UNK> nothing is compared.

    Attributes:
        training: Ids of the training text.
        encode: From a text to its ids.
    """

    training: Ids
    encode: Callable[[str], Ids]


@dataclass(frozen=True)
class _Units:
    """A text as a row of units. `run[i]`: how many units in a row, up to unit i, an n-gram may hold."""

    data: bytes
    bounds: list[int]
    run: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.run)


@dataclass(frozen=True)
class _Grams:
    """What n-grams consist of: how a text is cut into units, and the training text's index by such units."""

    unit: str
    index: SuffixIndex
    cut: Callable[[bytes], _Units]


def records_of(written: bytes) -> list[bytes]:
    """Return the records of a text from `written_form`."""
    return [record for record in written.split(b"\n") if record]


def held_out_like(sample: Sequence[bytes], written: bytes, *, records: bool) -> list[bytes]:
    """Return as much of a held-out text as there is of the sample, or all.

    Args:
        sample: Records or texts.
        written: The held-out text, from `written_form`.
        records: Whether they are records: as many are then taken, evenly over all; else as many characters, from the
            beginning.
    """
    if not records:
        bounds = character_bounds(written)
        return [
            written[
                : bounds[
                    min(sum(len(character_bounds(text)) - 1 for text in sample), len(bounds) - 1)
                ]
            ]
        ]
    found, size = records_of(written), sum(1 for record in sample if record)
    return (
        [found[number * len(found) // size] for number in range(size)]
        if size < len(found)
        else found
    )


def measure_novelty(
    sample: Sequence[bytes],
    held_out: Sequence[bytes],
    training: bytes,
    *,
    records: bool,
    words: Words | None = None,
) -> Novelty:
    """Compare a sample with the text that its writer learnt from.

    Args:
        sample: Records or texts, each UTF-8 as the model writes it.
        held_out: As much text that the model was not trained on; may be none.
        training: The training text, from `written_form`.
        records: Whether sample and training text are records: each is then compared as a whole too.
        words: With it n-grams are of words; without, of characters.

    Raises:
        CorpusError: The sample has no character.
        CharlmError: pydivsufsort is not installed.
    """
    sides = [[text for text in texts if text] for texts in (sample, held_out)]
    if not sides[0]:
        raise CorpusError(
            "the sample has no character; give a text that is not empty, or have more written"
        )
    by_word = (
        _of_words(words) if words else None
    )  # The larger for a while: before there is another.
    index = SuffixIndex(training)
    grams = by_word or _Grams("characters", index, _characters)
    most = min(sum(len(grams.cut(text)) for text in texts) for texts in sides if texts)
    found = [_side(texts, index, grams, records, most) for texts in sides if texts]
    settings = {
        "pieces": "records" if records else "sentences",
        "ngrams_of": grams.unit,
        "repeated_ngram": _REPEATED[grams.unit],
        "repeated_within": most,
    }
    return Novelty(found[0], found[1] if len(found) > 1 else None, settings)


def _side(texts: list[bytes], index: SuffixIndex, grams: _Grams, records: bool, most: int) -> Side:
    letters = [_characters(text) for text in texts]
    copied = [index.match_lengths(text.data, text.bounds) for text in letters]
    units, lengths = letters, copied
    if grams.index is not index:
        units = [grams.cut(text) for text in texts]
        lengths = [grams.index.match_lengths(text.data, text.bounds) for text in units]
    pieces = texts if records else [piece for text in texts for piece in sentences(text)]
    known = [_stands_alone(piece, index) if records else index.occurs(piece) for piece in pieces]
    return Side(
        len(texts),
        sum(map(len, letters)),
        len(pieces),
        _share(known.count(False), len(pieces)),
        _share(len(set(pieces)), len(pieces)),
        _longest_copy(index, letters, copied),
        [_overlap(units, lengths, size) for size in range(1, LONGEST_GRAM + 1)],
        _repeated_share(units, _REPEATED[grams.unit], most),
    )


def sentences(text: bytes) -> list[bytes]:
    """Return the sentences of a text, without the spaces around them: up to a mark, or to the end of a line."""
    found = _SENTENCE.findall(_decoded(text))
    return [_encoded(sentence.strip()) for sentence in found if sentence.strip()]


def _overlap(
    texts: Sequence[_Units], lengths: Sequence[npt.NDArray[np.int64]], size: int
) -> float | None:
    """Return the share of n-grams, each place counted, that occur where `lengths` was measured."""
    whole = sum(int((text.run >= size).sum()) for text in texts)
    found = sum(
        int((np.minimum(copied, text.run) >= size).sum())
        for text, copied in zip(texts, lengths, strict=True)
    )
    return _share(found, whole)


def _repeated_share(texts: Sequence[_Units], size: int, most: int) -> float | None:
    """Return the share of n-grams in the first `most` units that occur before, over all texts."""
    seen: set[bytes] = set()
    whole = repeated = 0
    for text in texts:
        for last in np.flatnonzero(text.run[:most] >= size).tolist():
            gram = text.data[text.bounds[last + 1 - size] : text.bounds[last + 1]]
            whole, repeated = whole + 1, repeated + (gram in seen)
            seen.add(gram)
        most = max(0, most - len(text))
    return _share(repeated, whole)


def _longest_copy(
    index: SuffixIndex, texts: Sequence[_Units], copied: Sequence[npt.NDArray[np.int64]]
) -> Copy | None:
    number = max(range(len(texts)), key=lambda text: int(copied[text].max(initial=0)))
    text, end = texts[number], int(copied[number].argmax())
    characters = int(copied[number][end])
    if not characters:
        return None
    start = end + 1 - characters
    found = text.data[text.bounds[start] : text.bounds[end + 1]]
    before = index.text[: int(index.positions(*index.interval(found))[0])]
    return Copy(
        characters,
        found.decode(errors="replace"),
        number,
        start,
        count_characters(before),
        before.count(b"\n") + 1,
    )


def _stands_alone(record: bytes, index: SuffixIndex) -> bool:
    """Return whether a record is one of the training text, which ends each with a line's end."""
    line = record + b"\n"
    return index.text.startswith(line) or index.occurs(b"\n" + line)


def _characters(text: bytes) -> _Units:
    bounds = character_bounds(text)
    return _Units(text, bounds, np.arange(1, len(bounds)))


def _of_words(words: Words) -> _Grams:
    kind = words.training.dtype.newbyteorder(
        ">"
    )  # The highest byte first, so that bytes sort as ids do.

    def cut(text: bytes) -> _Units:
        ids = words.encode(text.decode(errors="replace"))
        unknown = np.flatnonzero(ids == UNK)
        places = np.arange(len(ids))
        before = np.concatenate([[-1], unknown])[np.searchsorted(unknown, places, side="right")]
        data = ids.astype(kind).tobytes()
        return _Units(data, [*range(0, len(data) + 1, kind.itemsize)], places - before)

    return _Grams(
        "words", SuffixIndex(words.training.astype(kind).tobytes(), width=kind.itemsize), cut
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
