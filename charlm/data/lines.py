"""How a text is best read, from its lines: as one long text, or each line as a record.

Lines are records if each is complete and their order has no meaning. Both are measured on the
lines in the middle of a sample: whether lines end inside a sentence or at a common width, and
whether the text compresses better in its own order than with its lines shuffled.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import NamedTuple

import numpy as np

from charlm.config.corpus import Mode

_MAX_LINES = 3000
# The marks include those of Chinese, Japanese, Arabic, Urdu and Hindi.
_ENDS_SENTENCE = re.compile(
    r"[.!?\u2026\u3002\uff01\uff1f\u061f\u06d4\u0964][\"'\u201d\u2019\xbb)\]\u300d]*$"
)
_ENDS_INSIDE = re.compile(r"[-,;:({\[\u2013\u2014\u3001\u060c\uff0c\uff1b\uff1a]$")
_DELIMITERS = "\t;|=,"
# Deflate looks back 4,096 bytes: about the fifty lines before.
_WINDOW_BITS = 12
_SHUFFLES = 12

_MIN_RECORDS = 40
_MAX_RECORD_CHARACTERS = 300
_MAX_IRREGULAR = 0.01
_MAX_EQUAL = 0.3
# Shorter lines may have one length by chance, as words of five letters.
_MIN_WIDTH = 30
_MIN_SAME_LENGTH = 0.5
_MIN_BROKEN = 0.4
_MAX_UNFILLED = 0.15
_MAX_OPEN_ENDS = 0.05
# Independent lines have less than 5 deviations; a hundred of them can gain 0.02 by chance.
_MIN_ORDER_GAIN = 0.015
_MIN_ORDER_DEVIATIONS = 5.0
# In fewer lines of at least _MANY_WORDS words, the order of unpunctuated verse is not significant.
_MIN_ORDERED = 300
_MANY_WORDS = 4.0
_MOSTLY = 0.9


class Reading(NamedTuple):
    """How a text is best read.

    Attributes:
        mode: `stream` or `records`.
        reason: Why, in words.
        is_certain: Whether texts of the other kind hardly ever look like this one.
    """

    mode: Mode
    reason: str
    is_certain: bool = True


@dataclass(frozen=True, kw_only=True)
class LineFacts:
    """Measurements of the lines of a text; fractions are of the lines that are not blank.

    Attributes:
        count: Number of lines that are not blank.
        length: Length in characters that 99 % of the lines do not exceed.
        irregular: Fraction of all lines that are blank or indented.
        equal: Fraction that equals an earlier line.
        same_length: Fraction with exactly the length `length`.
        broken: Fraction that ends inside a sentence where the next word did not fit.
        unfilled: Fraction that does not end a sentence although the next word did fit.
        open_ends: Fraction that ends with a comma, semicolon, colon, dash or opening bracket.
        sentences: Fraction that ends with the punctuation of a sentence.
        ascending: Fraction that follows the line before in alphabetical order.
        letters_first: Fraction that begins with a letter.
        words: Mean number of words.
        columns: Fraction with the most frequent numbers of tabs, semicolons and other delimiters,
            if these are not all zero.
        order_gain: Fraction of the compressed size that the order of the lines saves, compared with
            the mean of shuffled orders. What a line begins with in common with the line before is
            left out, so that sorting and grouping save nothing.
        order_deviations: The same in standard deviations of the shuffled orders.
    """

    count: int
    length: int
    irregular: float
    equal: float
    same_length: float
    broken: float
    unfilled: float
    open_ends: float
    sentences: float
    ascending: float
    letters_first: float
    words: float
    columns: float
    order_gain: float
    order_deviations: float

    @property
    def has_width(self) -> bool:
        """Whether longer paragraphs or sequences were broken into lines at a common width."""
        is_filled = self.broken >= _MIN_BROKEN and self.unfilled <= _MAX_UNFILLED
        is_even = self.same_length >= _MIN_SAME_LENGTH
        return self.length >= _MIN_WIDTH and (is_filled or is_even)

    @property
    def has_order(self) -> bool:
        """Whether neighbouring lines resemble each other more than distant ones."""
        is_significant = self.order_deviations >= _MIN_ORDER_DEVIATIONS
        return self.order_gain >= _MIN_ORDER_GAIN and is_significant


def choose_reading(facts: LineFacts) -> Reading:
    """Return how a text is best read.

    The first rule that applies decides. Signs that lines are incomplete come before the order of
    the lines, because a list of records may have an order too, such as that of time.
    """
    if facts.count < _MIN_RECORDS:
        return Reading("stream", "there are few lines")
    if facts.length > _MAX_RECORD_CHARACTERS:
        return Reading("stream", "the lines are long")
    if facts.has_width:
        is_certain = facts.same_length < 1
        return Reading("stream", f"lines are broken after {facts.length} characters", is_certain)
    if facts.irregular > _MAX_IRREGULAR:
        is_certain = facts.irregular > 5 * _MAX_IRREGULAR
        return Reading("stream", "blank or indented lines divide the text", is_certain)
    if facts.equal > _MAX_EQUAL:
        return Reading("stream", "many lines are equal")
    if facts.open_ends > _MAX_OPEN_ENDS:
        is_certain = facts.open_ends > 2 * _MAX_OPEN_ENDS
        return Reading("stream", "lines end inside a sentence or block", is_certain)
    return _by_order(facts)


def _by_order(facts: LineFacts) -> Reading:
    """Return how complete lines are best read."""
    is_sorted = facts.ascending >= _MOSTLY
    if is_sorted and facts.letters_first >= _MOSTLY:
        return Reading("records", "the lines are short and in alphabetical order")
    are_sentences = facts.sentences > 0.5
    if facts.has_order:
        return Reading("stream", "neighbouring lines resemble each other", are_sentences)
    if is_sorted:
        reason = "the lines ascend, and many begin with a number or sign"
        return Reading("stream", reason, is_certain=False)
    begin_with_letters = facts.letters_first > 0.5  # They do not begin with a time or a number.
    # The order of a short text with several words per line is measured too coarsely.
    is_measured = facts.count >= _MIN_ORDERED or facts.words < _MANY_WORDS
    is_title = begin_with_letters and not are_sentences and facts.columns < _MOSTLY
    reason = "the lines are short and their order does not matter"
    return Reading("records", reason, is_title and is_measured)


def measure_lines(lines: Sequence[str]) -> LineFacts:
    """Measure the lines of a text, without their line ends."""
    skipped = max(0, len(lines) - _MAX_LINES) // 2
    chosen = lines[skipped : skipped + _MAX_LINES]
    full = [line.strip() for line in chosen if line.strip()] or [""]
    length = sorted(map(len, full))[len(full) * 99 // 100]
    fills = [_fills(line, following, length) for line, following in pairwise([*full, ""])]
    ends = [bool(_ENDS_SENTENCE.search(line)) for line in full]
    gain, deviations = _order_gain(full)
    return LineFacts(
        count=sum(1 for line in lines if line.strip()),
        length=length,
        irregular=_fraction([not line.strip() or line[0].isspace() for line in chosen]),
        equal=1 - len(set(full)) / len(full),
        same_length=_fraction([len(line) == length for line in full]),
        broken=_fraction([fill and not end for fill, end in zip(fills, ends, strict=True)]),
        unfilled=_fraction([not (fill or end) for fill, end in zip(fills, ends, strict=True)]),
        open_ends=_fraction([bool(_ENDS_INSIDE.search(line)) for line in full]),
        sentences=_fraction(ends),
        ascending=_fraction([a.casefold() <= b.casefold() for a, b in pairwise(full)]),
        letters_first=_fraction([line[:1].isalpha() for line in full]),
        words=sum(len(line.split()) for line in full) / len(full),
        columns=_columns(full),
        order_gain=gain,
        order_deviations=deviations,
    )


def _fraction(values: Sequence[bool]) -> float:
    return sum(values) / max(len(values), 1)


def _fills(line: str, following: str, width: int) -> bool:
    """Return whether the beginning of the following line did not fit into the line.

    A line without a space, as in Chinese or in a protein, can be broken after any character.
    """
    word, space, _ = following.partition(" ")
    needed = 1 + len(word) if space else 1
    # A line that leaves a quarter of the width free was not broken there.
    return len(line) + min(needed, width // 4) > width


def _columns(lines: Sequence[str]) -> float:
    counts = Counter(tuple(map(line.count, _DELIMITERS)) for line in lines)
    numbers, frequency = counts.most_common(1)[0]
    return frequency / len(lines) if any(numbers) else 0.0


def _order_gain(lines: Sequence[str]) -> tuple[float, float]:
    """Return what the order of lines saves, as a fraction and in standard deviations."""
    rests = [_without_common_start(before, line) for before, line in pairwise(["", *lines])]
    random = np.random.default_rng(1)
    orders = [random.permutation(len(rests)).tolist() for _ in range(_SHUFFLES)]
    sizes = [_compressed_size([rests[place] for place in order]) for order in orders]
    saved = float(np.mean(sizes)) - _compressed_size(rests)
    return saved / float(np.mean(sizes)), saved / max(float(np.std(sizes, ddof=1)), 1.0)


def _without_common_start(before: str, line: str) -> str:
    pairs = zip(before, line, strict=False)
    common = takewhile(lambda pair: pair[0] == pair[1], pairs)
    return line[sum(1 for _ in common) :]


def _compressed_size(lines: Sequence[str]) -> int:
    compressor = zlib.compressobj(9, wbits=-_WINDOW_BITS)
    data = "\n".join(lines).encode(errors="surrogatepass")
    return len(compressor.compress(data)) + len(compressor.flush())
