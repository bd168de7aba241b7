"""Novelty of a text: how much of it is in the training text, and how much of it repeats itself.

Texts are compared as the model writes them: in UTF-8, normalized like the tokenizer normalizes,
with a line end after each record. Models of words, subwords, characters and bytes are thus compared
alike. All figures are exact.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.data.corpus import read_text
from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import EOS, UNK, Ids
from charlm.data.utf8 import character_bounds, count_characters
from charlm.data.written_form import written_form
from charlm.errors import CorpusError, OptionError, quote, refuse_beside
from charlm.sampling.options import Filters, SampleOptions, StopCondition
from charlm.sampling.sample import sample as write_samples
from charlm.storage.results import Result
from charlm.storage.tables import format_settings
from charlm.trained_model import (
    TrainedModel,
    encode,
    provenance,
    require_language_model,
    training_texts,
)

MAX_NGRAM = 16
_SHOWN_CHARACTERS = 72  # Of a copy.
_CLEAR_DIFFERENCE = 0.05  # Of two fractions of new records or sentences.
_COUNT, _FRACTION = ",", ".2%"
_DEFAULT_RECORDS = 1000
_DEFAULT_TOKENS = 20_000
_MAX_RECORD_TOKENS = 500
_REPEATED_NGRAM = {"characters": 16, "words": 4}  # Length of the n-grams that repetition counts.
# A sentence ends after its mark and the closing quotes and brackets after it, if a space or the end
# follows; after a full-width mark; and at the end of its line.
_SENTENCE = re.compile(r"""[^\n]*?(?:[.!?]["'”’)\]]*(?=\s|$)|[。！？]|$)""", re.MULTILINE)  # noqa: RUF001  # Full-width marks.

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copy(Result):
    """A passage of a sample that is in the training text, character by character.

    Attributes:
        characters: Length of the passage.
        text: The passage.
        sample: Number of the record or text that has it, from 0.
        sample_character: Position of its first character there, from 0.
        training_character: Position of its first occurrence in the training text, from 0.
        training_line: Line of that occurrence, from 1.
    """

    characters: int
    text: str
    sample: int
    sample_character: int
    training_character: int
    training_line: int


@dataclass(frozen=True)
class Side(Result):
    """Figures of the sample, or of the held-out text beside it.

    Attributes:
        texts: Number of records, or of long texts, that are not empty.
        characters: Number of characters in them.
        pieces: Number of records, or of sentences of long texts. A sentence ends at a mark or at
            the end of a line.
        novel_share: Fraction of the pieces that are not in the training text: as a whole record,
            or anywhere in a long text. None without pieces.
        distinct_share: Fraction of the pieces that do not repeat an earlier piece.
        longest_copy: Longest passage of one text that is in the training text, or None.
        overlap: For n = 1 to 16, fraction of the n-grams that are in the training text, counted at
            every position, never across two texts. None where there are no n-grams.
        repeated_share: Fraction of the n-grams that repeat an earlier one, in the same text or one
            before it, over as many units as both sides have.
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
class Novelty(Result):
    """Novelty of a sample, beside that of held-out text of the same kind.

    Attributes:
        sample: Figures of the text that a model wrote.
        held_out: Figures of text that the model was not trained on, about as much as the sample;
            None if there is none.
        settings: Unit of the n-grams, origin of the sample, run and so on.
    """

    sample: Side
    held_out: Side | None
    settings: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield the finding, rows for both sides, the longest copy and the settings."""
        sides = [self.sample, self.held_out]
        settings = self.settings
        unit = settings["ngrams_of"]
        yield _finding(self)
        yield _row("", ["sample", "held out"])
        yield _row("characters", _cells(sides, _COUNT, lambda side: side.characters))
        yield _row(settings["pieces"], _cells(sides, _COUNT, lambda side: side.pieces))
        yield _row(
            "  not in the training text", _cells(sides, _FRACTION, lambda side: side.novel_share)
        )
        yield _row(
            "  not like one before", _cells(sides, _FRACTION, lambda side: side.distinct_share)
        )
        yield _row("longest copy, characters", _cells(sides, _COUNT, _copied_characters))
        yield _row(f"in the training text, of {unit}", [])
        for number in range(len(self.sample.overlap)):
            overlap = [None if side is None else side.overlap[number] for side in sides]
            yield _row(f"  {number + 1}-grams", [_format(value, _FRACTION) for value in overlap])
        repeated = _cells(sides, _FRACTION, lambda side: side.repeated_share)
        yield _row(f"{settings['repeated_ngram']}-grams of {unit} written before", repeated)
        if copy := self.sample.longest_copy:
            is_long = len(copy.text) > _SHOWN_CHARACTERS
            text = f"{copy.text[:_SHOWN_CHARACTERS]}..." if is_long else copy.text
            place = f"character {copy.training_character:,} (line {copy.training_line:,})"
            yield f"the longest copy is {quote(text)}, from {place} of the training text"
        yield format_settings(settings)


@dataclass(frozen=True)
class WordIds:
    """Words as the units of n-grams; n-grams with <UNK> do not count.

    Attributes:
        training: Ids of the training text, (tokens,).
        encode: Function from a text to its ids.
    """

    training: Ids
    encode: Callable[[str], Ids]


@dataclass(frozen=True)
class _Units:
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
        return len(self.known_lengths)


@dataclass(frozen=True)
class _NgramKind:
    """The kind of units that n-grams consist of.

    Attributes:
        unit: Name of the units.
        index: Index of the training text in these units.
        split: Function that splits a text into units.
    """

    unit: str
    index: SuffixIndex
    split: Callable[[bytes], _Units]


class _Sample(NamedTuple):
    """Texts to measure: records or texts as the model writes them, and facts about their origin."""

    texts: list[bytes]
    settings: dict[str, Any]


def measure_novelty(
    trained: TrainedModel,
    samples: Sequence[str] | None = None,
    *,
    path: str | Path | None = None,
    size: int | None = None,
    temperature: float = 1.0,
    seed: int = 1,
) -> Novelty:
    """Measure how much of sampled texts is in the training text, beside how much of held-out text.

    Args:
        trained: The model.
        samples: Texts that the model wrote.
        path: File of them, instead of `samples`: records as in the corpus of the run, or else one
            text. If neither is given, the model writes texts now.
        size: Number of records, or of tokens of one text, that the model writes.
        temperature: Temperature of these texts.
        seed: Seed of these texts.

    Raises:
        CharlmError: There is no text to measure, the corpus of the run has changed, the model was
            trained on pairs, or pydivsufsort is not installed.
    """
    require_language_model(trained)
    records = trained.writes_records
    parts = training_texts(trained)
    written = {
        part: written_form(parts[part], trained.tokenizer, records=records)
        for part in parts
        if part != "test"
    }
    if samples is None and path is None:
        sample = _write(trained, size, temperature, seed)
    else:
        sample = _given_sample(trained, samples, path)
    held_out = held_out_like(sample.texts, written.pop("valid", b""), records=records)
    novelty = compare_with_training(
        sample.texts, held_out, written["train"], records=records, words=_word_ids(trained)
    )
    settings = sample.settings | {"held_out": "valid" if novelty.held_out else None}
    return replace(novelty, settings=provenance(trained) | settings | novelty.settings)


def split_records(written: bytes) -> list[bytes]:
    """Return the records of a text in written form, which ends as each of its records does."""
    return [record for record in written.split(written[-1:] or b"\n") if record]


def held_out_like(sample: Sequence[bytes], written: bytes, *, records: bool) -> list[bytes]:
    """Return about as much held-out text as the sample has, or all of it.

    Args:
        sample: Records or texts.
        written: Held-out text in written form.
        records: Whether they are records: then the same number of records is taken, evenly spaced;
            otherwise the same number of characters, from the beginning.
    """
    if not records:
        bounds = character_bounds(written)
        length = sum(len(character_bounds(text)) - 1 for text in sample)
        return [written[: bounds[min(length, len(bounds) - 1)]]]
    held_out = split_records(written)
    count = sum(1 for record in sample if record)
    if count >= len(held_out):
        return held_out
    return [held_out[number * len(held_out) // count] for number in range(count)]


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
    word_kind = None if words is None else _words(words)
    index = SuffixIndex(training)
    kind = word_kind or _NgramKind("characters", index, _split_characters)
    repeated_within = min(sum(len(kind.split(text)) for text in texts) for texts in sides if texts)
    results = [
        _measure_side(texts, index, kind, records, repeated_within) for texts in sides if texts
    ]
    return Novelty(
        sample=results[0],
        held_out=results[1] if len(results) > 1 else None,
        settings={
            "pieces": "records" if records else "sentences",
            "ngrams_of": kind.unit,
            "repeated_ngram": _REPEATED_NGRAM[kind.unit],
            "repeated_within": repeated_within,
        },
    )


def _given_sample(
    trained: TrainedModel, samples: Sequence[str] | None, path: str | Path | None
) -> _Sample:
    """Return texts, or those of a file."""
    if samples is not None:
        refuse_beside("samples", path=path)
        given = [samples] if isinstance(samples, str) else samples
        return _Sample([text.encode() for text in given], {"sample": "given"})
    records = trained.writes_records
    text = read_text([str(path)], trained.config)
    written = written_form(text, trained.tokenizer, records=records)
    return _Sample(split_records(written) if records else [written], {"sample": str(path)})


def _write(trained: TrainedModel, size: int | None, temperature: float, seed: int) -> _Sample:
    """Let the model write texts."""
    if size is not None and size < 1:
        raise OptionError("size", "must be at least 1", value=size)
    if trained.writes_records:
        unit, size = "records", size or _DEFAULT_RECORDS
        count, length = size, _MAX_RECORD_TOKENS
    else:
        unit, size = "tokens", size or _DEFAULT_TOKENS
        count, length = 1, size
    options = SampleOptions(
        stop=StopCondition(length=length),
        filters=Filters(temperature=temperature),
        count=count,
        seed=seed,
    )
    texts = [sample.text.encode() for sample in write_samples(trained, options)]
    origin = {"sample": f"{size} {unit} written now", "temperature": temperature, "seed": seed}
    return _Sample(texts, origin)


def _word_ids(trained: TrainedModel) -> WordIds | None:
    """Return the words of a model of words; None for other models."""
    if trained.config.tokenizer.level != "word":
        return None
    ids = encode(trained, training_texts(trained)["train"]).ids
    if not trained.tokenizer.separates_by_space:
        ids = ids[ids != EOS]
    return WordIds(ids, trained.tokenizer.encode)


def split_sentences(text: bytes) -> list[bytes]:
    """Return the sentences of a text without the spaces around them."""
    decoded = text.decode(errors="surrogateescape")
    sentences = [sentence.strip() for sentence in _SENTENCE.findall(decoded)]
    return [sentence.encode(errors="surrogateescape") for sentence in sentences if sentence]


def _measure_side(
    texts: list[bytes], index: SuffixIndex, kind: _NgramKind, records: bool, repeated_within: int
) -> Side:
    """Return the figures of texts, given the index of the training text in characters."""
    characters = [_split_characters(text) for text in texts]
    copied = [index.match_lengths(text.data, text.bounds) for text in characters]
    units, matches = characters, copied
    if kind.index is not index:
        units = [kind.split(text) for text in texts]
        matches = [kind.index.match_lengths(text.data, text.bounds) for text in units]
    pieces = texts if records else [piece for text in texts for piece in split_sentences(text)]
    is_known = [_is_record(piece, index) if records else index.occurs(piece) for piece in pieces]
    return Side(
        texts=len(texts),
        characters=sum(map(len, characters)),
        pieces=len(pieces),
        novel_share=_fraction(is_known.count(False), len(pieces)),
        distinct_share=_fraction(len(set(pieces)), len(pieces)),
        longest_copy=_longest_copy(index, characters, copied),
        overlap=[_overlap(units, matches, length) for length in range(1, MAX_NGRAM + 1)],
        repeated_share=_repeated_share(units, _REPEATED_NGRAM[kind.unit], repeated_within),
    )


def _overlap(
    texts: Sequence[_Units], match_lengths: Sequence[Integers], length: int
) -> float | None:
    """Return the fraction of n-grams that are in the training text.

    Args:
        texts: Texts whose n-grams count.
        match_lengths: For each text, the length of the longest match that ends at each unit.
        length: Length of the n-grams.
    """
    total = sum(int((text.known_lengths >= length).sum()) for text in texts)
    known = sum(
        int((np.minimum(matches, text.known_lengths) >= length).sum())
        for text, matches in zip(texts, match_lengths, strict=True)
    )
    return _fraction(known, total)


def _repeated_share(texts: Sequence[_Units], length: int, num_units: int) -> float | None:
    """Return the fraction of n-grams among the first units of all texts that occur before."""
    seen: set[bytes] = set()
    total = repeated = 0
    for text in texts:
        for last in np.flatnonzero(text.known_lengths[:num_units] >= length).tolist():
            ngram = text.data[text.bounds[last + 1 - length] : text.bounds[last + 1]]
            total += 1
            repeated += ngram in seen
            seen.add(ngram)
        num_units = max(0, num_units - len(text))
    return _fraction(repeated, total)


def _longest_copy(
    index: SuffixIndex, texts: Sequence[_Units], copied: Sequence[Integers]
) -> Copy | None:
    """Return the longest passage of a text that is in the training text.

    Args:
        index: Index of the training text in characters.
        texts: Texts in characters.
        copied: For each text, the length of the longest copy that ends at each character.
    """
    number = max(range(len(texts)), key=lambda number: int(copied[number].max(initial=0)))
    text, end = texts[number], int(copied[number].argmax())
    characters = int(copied[number][end])
    if not characters:
        return None
    start = end + 1 - characters
    passage = text.data[text.bounds[start] : text.bounds[end + 1]]
    before = index.text[: int(index.positions(*index.interval(passage))[0])]
    return Copy(
        characters=characters,
        text=passage.decode(errors="replace"),
        sample=number,
        sample_character=start,
        training_character=count_characters(before),
        training_line=before.count(b"\n") + 1,
    )


def _is_record(text: bytes, index: SuffixIndex) -> bool:
    """Return whether a text is a record of the training text, which ends as each record does."""
    end = index.text[-1:]
    record = text + end
    return index.text.startswith(record) or index.occurs(end + record)


def _split_characters(text: bytes) -> _Units:
    bounds = character_bounds(text)
    return _Units(text, bounds, np.arange(1, len(bounds)))


def _words(words: WordIds) -> _NgramKind:
    # The highest byte comes first, so that the order of the bytes is that of the ids.
    dtype = words.training.dtype.newbyteorder(">")

    def split(text: bytes) -> _Units:
        ids = words.encode(text.decode(errors="replace"))
        unknown = np.flatnonzero(ids == UNK)
        positions = np.arange(len(ids))
        last_unknown = np.concatenate([[-1], unknown])[
            np.searchsorted(unknown, positions, side="right")
        ]
        data = ids.astype(dtype).tobytes()
        bounds = [*range(0, len(data) + 1, dtype.itemsize)]
        return _Units(data, bounds, positions - last_unknown)

    index = SuffixIndex(words.training.astype(dtype).tobytes(), width=dtype.itemsize)
    return _NgramKind("words", index, split)


def _fraction(part: int, total: int) -> float | None:
    return part / total if total else None


def _finding(result: Novelty) -> str:
    """Return in one sentence how much of the sample is copied."""
    sample, held_out = result.sample, result.held_out
    pieces = result.settings["pieces"]
    found = (
        f"{_format(sample.novel_share, '.1%')} of its {pieces} are new, and its longest copy has "
    )
    found += f"{_copied_characters(sample):,} characters"
    if held_out is None:
        return f"In the sample, {found}; there is no held-out text to compare it with."
    is_copied = (sample.novel_share or 0) < (held_out.novel_share or 0) - _CLEAR_DIFFERENCE
    has_long_copy = _copied_characters(sample) > 2 * _copied_characters(held_out)
    more = "has clearly more" if is_copied or has_long_copy else "does not have clearly more"
    return (
        f"The sample {more} in common with the training text than held-out text: {found} (held "
        f"out: {_format(held_out.novel_share, '.1%')} and {_copied_characters(held_out):,})."
    )


def _cells(
    sides: Sequence[Side | None], style: str, figure: Callable[[Side], float | None]
) -> list[str]:
    """Return a figure of each side; a dash for a side that does not exist."""
    return [_format(None if side is None else figure(side), style) for side in sides]


def _format(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:<36}" + "".join(f"{cell:>12}" for cell in cells)


def _copied_characters(side: Side) -> int:
    return side.longest_copy.characters if side.longest_copy else 0
