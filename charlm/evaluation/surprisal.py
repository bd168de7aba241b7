"""How much each token of a text surprises a model, and which kinds of token surprise it.

The surprise of a token is -log2 p of it, in bits (Shannon 1948; surprisal in Hale 2001): a token of probability one
eighth has three.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import EOS, UNK, Decoder, Ids, Tokenizer
from charlm.evaluation.adaptive.interpolation import Floats

RARE = 5  # A word is rare that occurs in the training text at most so often.
_APOSTROPHES = (ord("'"), ord("\u2019"))
_CLASSES = ("letters", "digits", "spaces", "punctuation", "rare words", "unknown", "ends")
_LETTERS, _DIGITS, _SPACES, _PUNCTUATION, _RARE, _UNKNOWN, _ENDS = range(len(_CLASSES))
_POSITIONS = (1, 2, 3, 4, 5, 6, 8, 12)  # Each reaches to the next one; in characters, from 1.
_DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # In tokens.

Integers = npt.NDArray[np.int64]
Words = Mapping[str, int]


@dataclass(frozen=True)
class Surprisal:
    """The surprise of a text's tokens, and what it belongs to.

    Attributes:
        loss_nats: Nats per token.
        surprise_bits: Bits per token.
        tokens: How many.
        each: Of each of the tokens to be shown its id, its text (where a character has several tokens, at the last of
            them) and its surprise in bits.
        by_class: By what the token, or its first character that is no space, is. A row has `tokens`, their `share`,
            `surprise_bits` per token, and the `share_of_surprise` that is theirs.
        by_position: By where in its word that character stands, from 1; words are letters, digits, inner apostrophes.
        by_distance: By how many tokens ago the same token stood, with a row for those that are the first.
        settings: Run, text, level, version and so on.
    """

    loss_nats: float
    surprise_bits: float
    tokens: int
    each: list[dict[str, Any]]
    by_class: list[dict[str, Any]]
    by_position: list[dict[str, Any]]
    by_distance: list[dict[str, Any]]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON's types."""
        return asdict(self)


class _Characters(NamedTuple):
    """Of each character of a text: its class, where it begins in bytes, and its place in its word, -1 outside one."""

    kinds: Integers
    starts: Integers
    places: Integers


def summarize(
    ids: Ids,
    log_p: Floats,
    tokenizer: Tokenizer,
    *,
    records: bool,
    words: Words | None,
    rare: int = RARE,
    show: int | None = None,
) -> Surprisal:
    """Return the surprise of a text's tokens, each and by kinds.

    Args:
        ids: The text, (tokens,), not empty.
        log_p: The natural logarithm of what the model gave each, (tokens,).
        tokenizer: The model's.
        records: Whether <EOS> ends a line.
        words: How often each word occurs in the training text; without it no word is rare.
        rare: A word is rare that occurs there at most so often.
        show: How many of the first tokens to tell of one by one; all, if None.
    """
    bits = -log_p / np.log(2)
    pieces = list(_pieces(ids, tokenizer, records))
    text = b"".join(pieces).decode("utf-8", "surrogateescape")
    characters = _characters(text)
    kinds = characters.kinds.copy()
    if words is not None:
        for begin, end in _word_spans(characters.places):
            if words.get(text[begin:end], 0) <= rare:
                kinds[begin:end] = _RARE
    at = _anchors(pieces, characters)
    classes = np.where(at >= 0, np.append(kinds, _ENDS)[at], _ENDS)
    classes = np.where(ids == UNK, _UNKNOWN, np.where(ids == EOS, _ENDS, classes))
    places = np.where((at >= 0) & (ids != UNK), np.append(characters.places, -1)[at], -1) + 1
    return Surprisal(
        -float(log_p.mean()),
        float(bits.mean()),
        len(ids),
        list(_each(ids[:show], bits[:show], tokenizer, records)),
        _by_class(classes, bits),
        _by_bucket("position", places, _POSITIONS, bits),
        _by_bucket("distance", distances(ids), _DISTANCES, bits, rest="first"),
        {},
    )


def count_words(text: str) -> Counter[str]:
    """Return how often each word occurs: letters, digits and marks in a row, with the apostrophes between them.

    >>> sorted(count_words("It's so, so-so.").items())
    [("It's", 1), ('so', 3)]
    """
    return Counter(text[begin:end] for begin, end in _word_spans(_characters(text).places))


def distances(ids: Ids) -> Integers:
    """Return how many tokens ago the same token stood, (tokens,); 0 for the first of its kind.

    >>> distances(np.array([5, 7, 5, 5, 7])).tolist()
    [0, 0, 2, 1, 3]
    """
    order = np.argsort(ids, kind="stable")
    found: Integers = np.zeros(len(ids), dtype=np.int64)
    same = ids[order[1:]] == ids[order[:-1]]
    found[order[1:][same]] = (order[1:] - order[:-1])[same]
    return found


def _pieces(ids: Ids, tokenizer: Tokenizer, records: bool) -> Iterator[bytes]:
    """Yield the bytes that each token adds to the text; what <UNK> stands for is one unknown character."""
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
    known, inverse = np.unique(points, return_inverse=True)
    kinds = np.array([_kind(chr(point)) for point in known], dtype=np.int64)[inverse]
    is_word = (kinds == _LETTERS) | (kinds == _DIGITS) | (points == ord("_"))
    between = np.zeros_like(is_word)
    between[1:-1] = is_word[:-2] & is_word[2:]
    is_word |= between & np.isin(points, _APOSTROPHES)
    at = np.arange(len(points))
    begins = is_word & ~np.append(False, is_word[:-1])[: len(points)]
    places = np.where(is_word, at - np.maximum.accumulate(np.where(begins, at, 0)), -1)
    sizes = np.where(
        (points >= 0xDC80) & (points <= 0xDCFF),
        1,  # A byte that is no UTF-8.
        1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000),
    )
    return _Characters(kinds, np.cumsum(sizes) - sizes, places)


def _kind(character: str) -> int:
    if character.isspace():
        return _SPACES
    return {"L": _LETTERS, "M": _LETTERS, "N": _DIGITS}.get(
        unicodedata.category(character)[0], _PUNCTUATION
    )


def _word_spans(places: Integers) -> Iterator[tuple[int, int]]:
    """Yield where each word begins and ends."""
    begins = np.flatnonzero(places == 0)
    outside = np.append(np.flatnonzero(places < 0), len(places))
    after_outside = outside[np.searchsorted(outside, begins)]
    yield from zip(begins.tolist(), after_outside.tolist(), strict=True)


def _anchors(pieces: list[bytes], characters: _Characters) -> Integers:
    """Return the character that each token is judged by, (tokens,): its first that is no space; -1 if it has no text.

    A byte within a character is judged by that character.
    """
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    ends = np.cumsum(lengths)
    first = np.searchsorted(characters.starts, ends - lengths, side="right") - 1
    last = np.searchsorted(characters.starts, ends, side="left") - 1
    solid = np.flatnonzero(characters.kinds != _SPACES)
    following = np.append(solid, len(characters.kinds))[np.searchsorted(solid, first)]
    return np.where(lengths == 0, -1, np.where(following <= last, following, first))


def _each(ids: Ids, bits: Floats, tokenizer: Tokenizer, records: bool) -> Iterator[dict[str, Any]]:
    decoder = Decoder(tokenizer)
    for token, surprise in zip(ids.tolist(), bits.tolist(), strict=True):
        text = decoder.feed(token)
        if records and token == EOS:
            text = text.removesuffix("\n") + "\n"
        yield {"token": token, "text": text, "surprise_bits": surprise}


def _by_class(classes: Integers, bits: Floats) -> list[dict[str, Any]]:
    return list(
        _rows(bits, [({"class": name}, classes == number) for number, name in enumerate(_CLASSES)])
    )


def _by_bucket(
    name: str, numbers: Integers, buckets: tuple[int, ...], bits: Floats, *, rest: str | None = None
) -> list[dict[str, Any]]:
    """Return a row for numbers from each bucket to the next, the last open; and one for zeros, called `rest`."""
    chosen: list[tuple[dict[str, Any], npt.NDArray[np.bool_]]] = []
    for begin, after in zip(buckets, (*buckets[1:], None), strict=True):
        to = None if after is None else after - 1
        inside = (numbers >= begin) & (numbers <= (numbers if to is None else to))
        chosen.append(({name: begin, f"{name}_to": to}, inside))
    if rest is not None:
        chosen.append(({name: None, f"{name}_to": None, "note": rest}, numbers == 0))
    return list(_rows(bits, chosen))


def _rows(
    bits: Floats, chosen: list[tuple[dict[str, Any], npt.NDArray[np.bool_]]]
) -> Iterator[dict[str, Any]]:
    """Yield the facts on each choice of tokens that is not empty."""
    for labels, inside in chosen:
        if count := int(np.count_nonzero(inside)):
            total = float(bits[inside].sum())
            yield labels | {
                "tokens": count,
                "share": count / len(bits),
                "surprise_bits": total / count,
                "share_of_surprise": total / max(float(bits.sum()), 1e-300),
            }
