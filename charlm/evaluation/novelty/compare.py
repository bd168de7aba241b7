"""A sample and held-out text, each compared with the training text."""

import re
from collections.abc import Sequence

from charlm.data.suffix_index import SuffixIndex
from charlm.data.utf8 import count_characters
from charlm.errors import CorpusError
from charlm.evaluation.novelty.results import Copy, Novelty, Side
from charlm.evaluation.novelty.units import (
    UnitKind,
    Units,
    WordIds,
    character_units,
    fraction,
    overlap,
    repeated_share,
    split_characters,
    word_units,
)
from charlm.evaluation.static_model import Integers

_MAX_NGRAM = 16
# A sentence ends after its mark and the closing quotes and brackets after it, if a space or the end
# follows; after a full-width mark; and at the end of its line.
_SENTENCE = re.compile(r"""[^\n]*?(?:[.!?]["'”’)\]]*(?=\s|$)|[。！？]|$)""", re.MULTILINE)  # noqa: RUF001  # Full-width marks.


def compare_with_training(
    sample: Sequence[bytes],
    held_out: Sequence[bytes],
    training: bytes,
    *,
    records: bool,
    words: WordIds | None = None,
) -> Novelty:
    """Compare a sample with the training text of the model that wrote it.

    Args:
        sample: Records or texts, in UTF-8 as the model writes them.
        held_out: About as much text that the model was not trained on; may be empty.
        training: Training text in written form.
        records: Whether sample and training text are records, which are also compared as wholes.
        words: Words, if n-grams consist of words; None means that they consist of characters.

    Raises:
        CorpusError: The sample has no character.
        CharlmError: pydivsufsort is not installed.
    """
    sides = [[text for text in texts if text] for texts in (sample, held_out)]
    if not sides[0]:
        raise CorpusError(
            "the sample has no character; give a text that is not empty, or let more be written"
        )
    # The index of words, the larger one while it is built, comes before the other takes memory.
    kind_of_words = None if words is None else word_units(words)
    index = SuffixIndex(training)
    kind = kind_of_words or character_units(index)
    units = [[kind.split(text) for text in texts] for texts in sides]
    repeated_within = min(sum(map(len, of_side)) for of_side in units if of_side)
    figures = [
        _measure_side(texts, of_side, index, kind, records=records, repeated_within=repeated_within)
        for texts, of_side in zip(sides, units, strict=True)
        if texts
    ]
    return Novelty(
        sample=figures[0],
        held_out=figures[1] if len(figures) > 1 else None,
        settings={
            "pieces": "records" if records else "sentences",
            "ngrams_of": kind.name,
            "repeated_ngram": kind.repeated_ngram,
            "repeated_within": repeated_within,
        },
    )


def split_sentences(text: bytes) -> list[bytes]:
    """Return the sentences of a text without the spaces around them."""
    decoded = text.decode(errors="surrogateescape")
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(decoded)]
    return [sentence.encode(errors="surrogateescape") for sentence in sentences if sentence]


def _measure_side(
    texts: list[bytes],
    units: list[Units],
    index: SuffixIndex,
    kind: UnitKind,
    *,
    records: bool,
    repeated_within: int,
) -> Side:
    """Return the figures of texts.

    Args:
        texts: Records or long texts, at least one, none empty.
        units: The same texts in units.
        index: Index of the training text in characters.
        kind: Kind of the units.
        records: Whether the texts are records.
        repeated_within: Number of units in which repetition is counted.
    """
    spelled = [split_characters(text) for text in texts]
    copied = [text.matches(index) for text in spelled]
    matches = copied if kind.index is index else [text.matches(kind.index) for text in units]
    pieces = texts if records else [piece for text in texts for piece in split_sentences(text)]
    is_known = [_is_record(piece, index) if records else index.occurs(piece) for piece in pieces]
    return Side(
        texts=len(texts),
        characters=sum(map(len, spelled)),
        pieces=len(pieces),
        novel_share=fraction(is_known.count(False), len(pieces)),
        distinct_share=fraction(len(set(pieces)), len(pieces)),
        longest_copy=_longest_copy(index, spelled, copied),
        overlap=overlap(units, matches, range(1, _MAX_NGRAM + 1)),
        repeated_share=repeated_share(units, kind.repeated_ngram, repeated_within),
    )


def _is_record(text: bytes, index: SuffixIndex) -> bool:
    """Return whether a text is a record of the training text, which ends as each record does."""
    end = index.text[-1:]
    record = text + end
    return index.text.startswith(record) or index.occurs(end + record)


def _longest_copy(
    index: SuffixIndex, texts: Sequence[Units], copied: Sequence[Integers]
) -> Copy | None:
    """Return the longest passage of a text that is in the training text.

    Args:
        index: Index of the training text in characters.
        texts: Texts in characters, none empty.
        copied: For each text, the length of the longest copy that ends at each character.
    """
    number = max(range(len(texts)), key=lambda number: int(copied[number].max()))
    text, end = texts[number], int(copied[number].argmax())
    length = int(copied[number][end])
    if not length:
        return None
    start = end + 1 - length
    passage = text.data[text.bounds[start] : text.bounds[end + 1]]
    before = index.text[: int(index.positions(*index.interval(passage))[0])]
    return Copy(
        characters=length,
        text=passage.decode(errors="replace"),
        sample=number,
        sample_character=start,
        training_character=count_characters(before),
        training_line=before.count(b"\n") + 1,
    )
