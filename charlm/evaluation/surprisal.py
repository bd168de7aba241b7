"""Surprisal of each token of a text, and of each class of tokens.

The surprisal of a token is -log2 p, in bits (Shannon 1948; Hale 2001): a token of probability one
eighth has a surprisal of three bits.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import EOS, UNK, Ids, Tokenizer
from charlm.data.written_form import written_form
from charlm.errors import CharlmError, OptionError, quote
from charlm.evaluation.options import RARE, SHOWN_TOKENS
from charlm.evaluation.probes.reading import read_beginning, texts_of
from charlm.evaluation.static_model import Floats, Integers, of_trained
from charlm.model_texts import training_texts
from charlm.storage.results import Result
from charlm.storage.tables import format_range, format_settings
from charlm.trained_model import TrainedModel, provenance

if TYPE_CHECKING:
    from charlm.data.cards import Part

_APOSTROPHES = (ord("'"), ord("\u2019"))
_CLASSES = ("letters", "digits", "spaces", "punctuation", "rare words", "unknown", "ends")
_LETTERS, _DIGITS, _SPACES, _PUNCTUATION, _RARE, _UNKNOWN, _ENDS = range(len(_CLASSES))
# Lower bounds of the rows of a table; a row ends where the next one begins.
_POSITIONS = (1, 2, 3, 4, 5, 6, 8, 12)  # Characters from the beginning of the word, from 1.
_DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # In tokens.

WordCounts = Mapping[str, int]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Surprisal(Result):
    """Surprisal of the tokens of a text.

    A token is classified by its first character that is not a space.

    Attributes:
        loss_nats: Nats per token.
        surprise_bits: Bits per token.
        tokens: Number of tokens.
        each: For each token to be shown: `token`, its id; `text` (of a character with several
            tokens, at the last of them); and `surprise_bits`.
        by_class: One row per class of tokens, with `tokens`, their `share` of all tokens,
            `surprise_bits` per token, and their `share_of_surprise`.
        by_position: The same by position of the character in its word, from 1. Words are letters,
            digits and the apostrophes between them.
        by_distance: The same by number of tokens since the last occurrence of the same token, with
            one row for first occurrences.
        settings: Run, text, tokenizer level, version and so on.
    """

    loss_nats: float
    surprise_bits: float
    tokens: int
    each: list[dict[str, Any]]
    by_class: list[dict[str, Any]]
    by_position: list[dict[str, Any]]
    by_distance: list[dict[str, Any]]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield a row for each shown token, tables of the classes, and the settings."""
        if self.each:
            yield f"{'bits':>9}  token"
        yield from (
            f"{token['surprise_bits']:>9.3f}  {quote(token['text'])}" for token in self.each
        )
        yield f"\n{'':<26}{'tokens':>10}{'share':>9}{'bits/token':>11}{'share of bits':>14}"
        yield from _table("class of token", self.by_class, "class")
        yield from _table("character in the word", self.by_position, "position")
        yield from _table("tokens since the last occurrence", self.by_distance, "distance")
        yield f"{'all':<26}{self.tokens:>10,}{1:>9.2%}{self.surprise_bits:>11.3f}{1:>14.2%}"
        yield f"loss_nats {self.loss_nats:.4f}, {format_settings(self.settings)}"

    def __str__(self) -> str:
        """Return the lines as one text, with the first of the tokens."""
        return "\n".join(replace(self, each=self.each[:SHOWN_TOKENS]).lines())


class _Characters(NamedTuple):
    """The characters of a text, each attribute (characters,).

    Attributes:
        classes: Class of the character.
        offsets: Byte at which the character starts.
        positions: Position in its word, from 0; -1 outside of words.
    """

    classes: Integers
    offsets: Integers
    positions: Integers


def measure_surprisal(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    rare: int = RARE,
    show: int | None = None,
    limit: int | None = None,
) -> Surprisal:
    """Measure the surprisal of each token of a text, and of each class of tokens.

    Args:
        trained: The model.
        text: String to score.
        paths: Files, folders or names of corpora to score, instead of `text`.
        split: Part of the run's own corpus to score, if neither of the two is given.
        rare: Words that occur at most this often in the training text are rare.
        show: Number of tokens, from the first, to return one by one; None returns all.
        limit: Number of tokens, from the first, to score; None scores all.

    Raises:
        CharlmError: The text cannot be read or has no token, or the model reads in both directions.
        OptionError: `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise OptionError("limit", "must be at least 1", value=limit)
    ids, name, _ = read_beginning(trained, text, paths, split, limit)
    word_counts = _count_training_words(trained)
    surprisal = summarize(
        ids,
        of_trained(trained).log_probabilities(ids),
        trained.tokenizer,
        records=trained.writes_records,
        word_counts=word_counts,
        rare=rare,
        show=show,
    )
    if word_counts is None:
        rare_words = "unknown: no training text"
    else:
        rare_words = f"at most {rare} times in the training text"
    settings = {"precision": "fp32", "text": name, "rare_words": rare_words}
    return replace(surprisal, settings=provenance(trained) | settings)


def summarize(
    ids: Ids,
    log_p: Floats,
    tokenizer: Tokenizer,
    *,
    records: bool,
    word_counts: WordCounts | None,
    rare: int = RARE,
    show: int | None = None,
) -> Surprisal:
    """Return the surprisal of a text's tokens, one by one and by class.

    Args:
        ids: The text, (tokens,), not empty.
        log_p: Natural logarithm of each token's probability, (tokens,).
        tokenizer: Tokenizer of the model.
        records: Whether <EOS> ends a line.
        word_counts: Number of occurrences of each word in the training text; None means that no
            word is rare.
        rare: Words that occur at most this often in the training text are rare.
        show: Number of tokens, from the first, to return one by one; None returns all.
    """
    bits = -log_p / np.log(2)
    classes, positions = _classify(ids, tokenizer, records, word_counts, rare)
    return Surprisal(
        loss_nats=-float(log_p.mean()),
        surprise_bits=float(bits.mean()),
        tokens=len(ids),
        each=list(_each(ids[:show], bits[:show], tokenizer, records)),
        by_class=_by_class(classes, bits),
        by_position=_by_range("position", positions, _POSITIONS, bits),
        by_distance=_by_range("distance", distances(ids), _DISTANCES, bits, zeros="first"),
        settings={},
    )


def count_words(text: str) -> Counter[str]:
    """Return the number of occurrences of each word.

    A word consists of letters, digits, marks and _, and of the apostrophes between them.

    >>> sorted(count_words("It's so, so-so.").items())
    [("It's", 1), ('so', 3)]
    """
    return Counter(text[start:end] for start, end in _word_spans(_characters(text).positions))


def distances(ids: Ids) -> Integers:
    """Return the number of tokens since the last occurrence of the same token, 0 if there is none.

    >>> distances(np.array([5, 7, 5, 5, 7])).tolist()
    [0, 0, 2, 1, 3]
    """
    order = np.argsort(ids, kind="stable")
    result: Integers = np.zeros(len(ids), dtype=np.int64)
    is_repeated = ids[order[1:]] == ids[order[:-1]]
    result[order[1:][is_repeated]] = (order[1:] - order[:-1])[is_repeated]
    return result


def _count_training_words(trained: TrainedModel) -> WordCounts | None:
    """Return the word counts of the training text; None if the text is not available any more."""
    try:
        text = training_texts(trained)["train"]
    except CharlmError:
        return None
    written = written_form(text, trained.tokenizer, records=trained.writes_records)
    return count_words(written.decode("utf-8", "surrogateescape"))


def _classify(
    ids: Ids, tokenizer: Tokenizer, records: bool, word_counts: WordCounts | None, rare: int
) -> tuple[Integers, Integers]:
    """Return the class of each token and its position in a word, from 1, 0 outside of words."""
    pieces = list(_pieces(ids, tokenizer, records))
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    characters = _characters(text)
    character_classes = characters.classes.copy()
    if word_counts is not None:
        for start, end in _word_spans(characters.positions):
            if word_counts.get(text[start:end], 0) <= rare:
                character_classes[start:end] = _RARE
    anchors = _anchors(pieces, characters)
    classes = np.where(anchors >= 0, np.append(character_classes, _ENDS)[anchors], _ENDS)
    classes = np.where(ids == UNK, _UNKNOWN, np.where(ids == EOS, _ENDS, classes))
    is_known = (anchors >= 0) & (ids != UNK)
    positions = np.where(is_known, np.append(characters.positions, -1)[anchors], -1) + 1
    return classes, positions


def _pieces(ids: Ids, tokenizer: Tokenizer, records: bool) -> Iterator[bytes]:
    """Yield the bytes that each token adds to the text; <UNK> adds one replacement character."""
    texts = tokenizer.token_texts(
        eos=b"\n" if records else None, unknown="\N{REPLACEMENT CHARACTER}".encode()
    )
    starts_line = True
    for token in ids.tolist():
        # The first word of a line has no space before it.
        drops_space = starts_line and tokenizer.separates_by_space
        yield texts[token].removeprefix(b" ") if drops_space else texts[token]
        starts_line = token == EOS


def _characters(text: str) -> _Characters:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    distinct, inverse = np.unique(points, return_inverse=True)
    classes = np.array([_class_of(chr(point)) for point in distinct], dtype=np.int64)[inverse]
    sizes = np.where(
        (points >= 0xDC80) & (points <= 0xDCFF),
        1,  # A byte that is not UTF-8, decoded with surrogateescape.
        1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000),
    )
    return _Characters(classes, np.cumsum(sizes) - sizes, _positions_in_words(points, classes))


def _positions_in_words(points: npt.NDArray[np.uint32], classes: Integers) -> Integers:
    """Return the position of each character in its word, from 0; -1 outside of words."""
    is_word = (classes == _LETTERS) | (classes == _DIGITS) | (points == ord("_"))
    is_between = np.zeros_like(is_word)
    is_between[1:-1] = is_word[:-2] & is_word[2:]
    is_word |= is_between & np.isin(points, _APOSTROPHES)
    indices = np.arange(len(points))
    is_start = is_word & ~np.append(False, is_word[:-1])[: len(points)]
    starts = np.maximum.accumulate(np.where(is_start, indices, 0))
    return np.where(is_word, indices - starts, -1)


def _class_of(character: str) -> int:
    if character.isspace():
        return _SPACES
    category = unicodedata.category(character)[0]
    return {"L": _LETTERS, "M": _LETTERS, "N": _DIGITS}.get(category, _PUNCTUATION)


def _word_spans(positions: Integers) -> Iterator[tuple[int, int]]:
    """Yield the first character of each word and the character after its last."""
    starts = np.flatnonzero(positions == 0)
    outside = np.append(np.flatnonzero(positions < 0), len(positions))
    ends = outside[np.searchsorted(outside, starts)]
    yield from zip(starts.tolist(), ends.tolist(), strict=True)


def _anchors(pieces: list[bytes], characters: _Characters) -> Integers:
    """Return the character that decides the class of each token, (tokens,); -1 without text.

    It is the first character that is not a space. A byte within a character belongs to it.
    """
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ends = np.cumsum(lengths)
    first = np.searchsorted(characters.offsets, ends - lengths, side="right") - 1
    last = np.searchsorted(characters.offsets, ends, side="left") - 1
    solid = np.flatnonzero(characters.classes != _SPACES)
    next_solid = np.append(solid, len(characters.classes))[np.searchsorted(solid, first)]
    return np.where(lengths == 0, -1, np.where(next_solid <= last, next_solid, first))


def _each(ids: Ids, bits: Floats, tokenizer: Tokenizer, records: bool) -> Iterator[dict[str, Any]]:
    texts = texts_of(ids, tokenizer, records=records)
    for token, text, surprisal in zip(ids.tolist(), texts, bits.tolist(), strict=True):
        yield {"token": token, "text": text, "surprise_bits": surprisal}


def _by_class(classes: Integers, bits: Floats) -> list[dict[str, Any]]:
    groups = [({"class": name}, classes == number) for number, name in enumerate(_CLASSES)]
    return list(_rows(bits, groups))


def _by_range(
    name: str,
    numbers: Integers,
    bounds: tuple[int, ...],
    bits: Floats,
    *,
    zeros: str | None = None,
) -> list[dict[str, Any]]:
    """Return a row for the tokens between two bounds, and one for zeros if they have a name.

    Args:
        name: Name of the column with the lower bound.
        numbers: The number of each token, (tokens,).
        bounds: Lower bounds of the rows; the last row has no upper bound.
        bits: Surprisal of each token, (tokens,).
        zeros: Note in the row of the tokens whose number is 0, or None for no such row.
    """
    groups: list[tuple[dict[str, Any], Mask]] = []
    for low, next_low in zip(bounds, (*bounds[1:], None), strict=True):
        high = None if next_low is None else next_low - 1
        is_inside = (numbers >= low) & (numbers <= (numbers if high is None else high))
        groups.append(({name: low, f"{name}_to": high}, is_inside))
    if zeros is not None:
        groups.append(({name: None, f"{name}_to": None, "note": zeros}, numbers == 0))
    return list(_rows(bits, groups))


def _rows(bits: Floats, groups: list[tuple[dict[str, Any], Mask]]) -> Iterator[dict[str, Any]]:
    """Yield one row per group of tokens that is not empty, given its labels and its tokens."""
    for labels, is_inside in groups:
        if count := int(np.count_nonzero(is_inside)):
            total = float(bits[is_inside].sum())
            yield labels | {
                "tokens": count,
                "share": count / len(bits),
                "surprise_bits": total / count,
                "share_of_surprise": total / max(float(bits.sum()), 1e-300),
            }


def _table(title: str, rows: Sequence[dict[str, Any]], column: str) -> Iterator[str]:
    yield title
    for row in rows:
        if column == "class":
            label = row["class"]
        elif row[column] is None:
            label = "first occurrence"
        else:
            label = format_range(row[column], row[f"{column}_to"])
        share = f"{row['tokens']:>10,}{row['share']:>9.2%}"
        bits = f"{row['surprise_bits']:>11.3f}{row['share_of_surprise']:>14.2%}"
        yield f"  {label:<24}{share}{bits}"
