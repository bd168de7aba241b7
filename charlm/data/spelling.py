"""What the tokens of a text leave out, and the nats that it costs to restore it.

A model predicts tokens, and a token may say less than the text: <UNK> does not spell its word,
`lowercase` loses capital letters, and `words: whitespace` loses the kind of spaces. Bits per
character are those of the original text only if they include what is left out. By the chain rule,

    -log p(text) = -log p(tokens) - log p(spelling of each <UNK>) - log p(capitals) - log p(spaces)

Every probability depends only on the vocabulary and on the text before, so the sum is the size of a
code from which the text can be decoded. An <UNK> has the spelling of an earlier <UNK>, or one that
a model of the vocabulary's bytes predicts: the vocabulary has the words of the training text.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import Mode
from charlm.data.corpus import Text
from charlm.data.literals import splitter
from charlm.data.tokenizer import Tokenizer
from charlm.data.tokens import batches
from charlm.data.utf8 import split_lines, strip_line_end
from charlm.data.vocabulary import make_normalizer

Floats = npt.NDArray[np.float64]

_ORDER = 5  # Bytes before a byte that predict it.
_MAX_WORDS = 10_000  # Words of the vocabulary, from the rarest, that the model of bytes learns.
_START, _END = b"\0", 256
_NUM_SYMBOLS = 257
_DISCOUNT, _STRENGTH = 0.5, 1.0
# The characters that separate words: Unicode's White_Space.
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
_SPACES = re.compile(f"({_SPACE}+)")
_LINE_START = ("\n", "\n")
_SENTENCE_MARKS = ".!?:"


@dataclass(frozen=True)
class Restoration:
    """The cost of restoring a text from its tokens.

    Attributes:
        nats_of_lines: Nats of each line that the model reads, (lines,); empty if the tokens leave
            nothing out.
        problem: Why the cost cannot be computed, or None.
    """

    nats_of_lines: Floats = field(default_factory=lambda: np.zeros(0))
    problem: str | None = None

    def __add__(self, other: "Restoration") -> "Restoration":
        """Return the cost of both for the same lines."""
        costs = [each.nats_of_lines for each in (self, other) if len(each.nats_of_lines)]
        return Restoration(sum(costs, np.zeros(1)) if costs else np.zeros(0), self.problem)

    @property
    def nats(self) -> float | None:
        """Nats of the whole text; None if they cannot be computed."""
        return None if self.problem else float(self.nats_of_lines.sum())

    def bits_per(self, units: int, token_nats: float) -> float | None:
        """Return bits per unit of the original text; None if they cannot be computed.

        Args:
            units: Number of characters or bytes of the original text.
            token_nats: Nats of the tokens.
        """
        nats = self.nats
        return None if nats is None else (token_nats + nats) / (math.log(2) * max(units, 1))


class _Line(NamedTuple):
    """A line, or a part of one, and whether the line ends with it."""

    text: str
    ends: bool


class _NoPriceError(Exception):
    """A text has a loss whose price cannot be computed."""


def restoration_of(
    text: Text, tokenizer: Tokenizer, mode: Mode, *, unknown: int | None = None
) -> Restoration:
    """Return the cost of restoring a text from its tokens.

    Args:
        text: Text as it was read.
        tokenizer: Tokenizer of the model.
        mode: How the text is read.
        unknown: Number of its tokens that are <UNK>, if known: without any, nothing may be lost.
    """
    section = tokenizer.section
    changes = section.lowercase or section.normalization != "none" or tokenizer.separates_by_space
    has_unknown = section.level in ("char", "word") and unknown != 0
    if not (changes or has_unknown):
        return Restoration()
    losses = _Losses(tokenizer)
    parts, ends = [], []
    try:
        for line in _lines(text, tokenizer, mode):
            parts.append(losses.nats(line))
            ends.append(line.ends)
    except _NoPriceError as error:
        return Restoration(problem=str(error))
    nats = np.array(parts).reshape(-1, 3) @ np.array([1, losses.capitals, losses.spaces])
    if not nats.any():
        return Restoration()
    starts = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
    return Restoration(np.add.reduceat(nats, starts))


def restoration_of_line_ends(lines: Sequence[str]) -> Restoration:
    r"""Return the cost of restoring line ends and empty lines, which no model of lines reads.

    Args:
        lines: Lines of a text with their ends; those that are not empty are read.

    >>> restoration_of_line_ends(["a\n", "b"]).nats
    0.0
    """
    first, *gaps = _gaps(lines)
    if not first and all(gap == "\n" for gap in gaps[:-1]) and gaps[-1:] in ([], [""], ["\n"]):
        return Restoration()
    ends = _Repeating(ByteModel([b"\n"]))
    first_nats = ends.nats(first.encode())
    nats = np.array([ends.nats(gap.encode()) for gap in gaps])
    nats[:1] += first_nats
    return Restoration(nats)


def _gaps(lines: Sequence[str]) -> list[str]:
    """Return the line ends and empty lines before the first full line, and after each full line."""
    gaps = [""]
    for line in lines:
        content = strip_line_end(line)
        if content:
            gaps.append("")
        gaps[-1] += line[len(content) :]
    return gaps


class ByteModel:
    """Probabilities of spellings: each byte, and the end, after the bytes before it.

    Orders are interpolated by method C of Witten and Bell 1991 ("The zero-frequency problem"): a
    context seen n times before t different symbols has the weight n / (n + t).

    >>> model = ByteModel([b"to", b"toe"])
    >>> model.nats(b"toe") < model.nats(b"eot")
    True
    """

    def __init__(self, words: Iterable[bytes] = ()) -> None:
        """Learn words, each once."""
        self._counts: dict[bytes, dict[int, int]] = {}
        self._totals: dict[bytes, int] = {}
        for word in words:
            self.learn(word)

    def learn(self, word: bytes) -> None:
        """Learn a word."""
        for contexts, symbol in _predictions(word):
            for context in contexts:
                counts = self._counts.get(context)
                if counts is None:
                    self._counts[context], self._totals[context] = {symbol: 1}, 1
                else:
                    counts[symbol] = counts.get(symbol, 0) + 1
                    self._totals[context] += 1

    def nats(self, word: bytes) -> float:
        """Return -log p of a word with its end."""
        return -sum(math.log(self._probability(*prediction)) for prediction in _predictions(word))

    def _probability(self, contexts: list[bytes], symbol: int) -> float:
        p = 1 / _NUM_SYMBOLS
        for context in contexts:
            counts = self._counts.get(context)
            if counts is None:
                break
            p = (counts.get(symbol, 0) + len(counts) * p) / (self._totals[context] + len(counts))
        return p


class _Repeating:
    """Probabilities of byte strings of which many repeat: new ones come from a model of bytes.

    A Pitman-Yor process (Teh 2006, "A hierarchical Bayesian language model based on Pitman-Yor
    processes") with one table for each string: after n strings, t of them different, one of these
    has p = (count - d) / (n + θ), and a new one p = (θ + d t) / (n + θ) p_bytes. The model of bytes
    learns each new string.
    """

    def __init__(self, new: ByteModel) -> None:
        self._new = new
        self._counts: Counter[bytes] = Counter()
        self._total = 0

    def nats(self, string: bytes) -> float:
        """Return -log p of the next string, and learn it."""
        count = self._counts[string]
        new = _STRENGTH + _DISCOUNT * len(self._counts)
        total = self._total + _STRENGTH
        self._counts[string] += 1
        self._total += 1
        if count:
            return -math.log((count - _DISCOUNT) / total)
        nats = self._new.nats(string) - math.log(new / total)
        self._new.learn(string)
        return nats


class _Losses:
    """Prices what the tokens of each line leave out, in the order of the text.

    Attributes:
        capitals: Whether a line had a capital letter that the tokens leave out.
        spaces: Whether a line had spaces that the tokens leave out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        section = tokenizer.section
        self.capitals = False
        self.spaces = False
        self._form = make_normalizer(section.model_copy(update={"lowercase": False}))
        self._lower = make_normalizer(section.model_copy(update={"normalization": "none"}))
        self._normalization = section.normalization
        self._capitals = _Capitals()
        self._spaces = _Spaces() if tokenizer.separates_by_space else None
        self._split = splitter(tokenizer)
        self._spellings = _Repeating(ByteModel(tokenizer.token_bytes[2:][-_MAX_WORDS:]))

    def nats(self, line: _Line) -> tuple[float, float, float]:
        """Return the nats of the spellings, the capital letters and the spaces of a line."""
        text = line.text
        capitals = spaces = 0.0
        if self._form is not None and self._form.normalize_str(text) != text:
            raise _NoPriceError(f"normalization {self._normalization} changes the text")
        if self._lower is not None:
            lower = self._lower.normalize_str(text)
            self.capitals |= lower != text
            capitals = self._capitals.nats(text, lower, ends=line.ends)
            text = lower
        if self._spaces is not None:
            words = [word for word in _SPACES.split(text)[::2] if word]
            self.spaces |= " ".join(words) != text
            spaces = self._spaces.nats(text)
            text = " ".join(words)
        spellings = sum(map(self._spellings.nats, self._split(text.encode()).literals))
        return spellings, capitals, spaces


class _Capitals:
    """Probabilities of capital letters, by the kinds of the two characters before each letter.

    The counts of each context are those of the text before, plus one half (Krichevsky and Trofimov
    1981).
    """

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], list[float]] = {}
        self._before = _LINE_START

    def nats(self, text: str, lower: str, *, ends: bool) -> float:
        """Return -log p of the capital letters of a line, given the line in lower case."""
        if len(text) != len(lower):
            raise _NoPriceError("lowercase changes the length of the text")
        nats = 0.0
        for letter, low in zip(text, lower, strict=True):
            if capital := _capital_of(low):
                counts = self._counts.setdefault(self._before, [0.5, 0.5])
                is_capital = letter == capital
                nats += math.log(sum(counts) / counts[is_capital])
                counts[is_capital] += 1
            if letter not in (low, capital):
                raise _NoPriceError(f"lowercase changes {letter!r}, which has no single capital")
            self._before = (self._before[1], _kind_of(letter))
        if ends:
            self._before = _LINE_START
        return nats


class _Spaces:
    """Probabilities of the spaces before, between and after the words of a line."""

    def __init__(self) -> None:
        self._first = _Repeating(ByteModel([b""]))
        self._between = _Repeating(ByteModel([b" "]))
        self._last = _Repeating(ByteModel([b""]))

    def nats(self, line: str) -> float:
        """Return -log p of the spaces of a line, given its words."""
        words_and_spaces = _SPACES.split(line)
        words = words_and_spaces[::2]
        spaces = [space.encode() for space in words_and_spaces[1::2]]
        first = spaces.pop(0) if spaces and not words[0] else b""
        last = spaces.pop() if spaces and not words[-1] else b""
        between = sum(map(self._between.nats, spaces))
        return self._first.nats(first) + between + self._last.nats(last)


def _predictions(word: bytes) -> Iterator[tuple[list[bytes], int]]:
    """Yield the contexts of each byte and of the end, the shortest first, and that byte."""
    text = _START + word
    for end, symbol in enumerate([*word, _END], start=1):
        yield [text[start:end] for start in range(end, max(-1, end - _ORDER - 1), -1)], symbol


@cache
def _capital_of(letter: str) -> str:
    """Return the capital of a letter in lower case; an empty text if it does not have one."""
    capital = letter.upper()
    is_pair = len(capital) == 1 and capital != letter and capital.lower() == letter
    return capital if is_pair else ""


@cache
def _kind_of(character: str) -> str:
    """Return a character that stands for a kind of characters."""
    if character == "\n" or character.isspace():
        return "\n" if character == "\n" else " "
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return "." if character in _SENTENCE_MARKS else ","


def _lines(text: Text, tokenizer: Tokenizer, mode: Mode) -> Iterator[_Line]:
    """Yield the lines of a text, a long one in parts, which no token crosses."""
    ends_line = mode == "records" or tokenizer.separates_by_space
    for pieces, ends in batches(text, tokenizer, mode):
        for piece, end in zip(pieces, ends, strict=True):
            lines = split_lines(piece.decode()) or [""]
            yield from (_Line(line, line.endswith("\n")) for line in lines[:-1])
            last = lines[-1]
            yield _Line(last, last.endswith("\n") or (end and ends_line))
