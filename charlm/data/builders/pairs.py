"""Pairs for tasks: names of numbers, written dates, scripts of names, kinds of characters."""

import sys
import tokenize
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from itertools import accumulate, chain, islice

from charlm.data.builders.choices import RandomChoices, check_range, split_words
from charlm.data.builders.python_texts import python_source, unicode_names

_UNITS = split_words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
)
_TENS = split_words("twenty thirty forty fifty sixty seventy eighty ninety")


def number_words(numbers: int = 20_000, seed: int = 1, digits: int = 6) -> Iterator[str]:
    """Generate numbers and their names in English, as pairs for the task `complete`.

    The number of digits is drawn first, so that short numbers are as frequent as long ones, as far
    as there are enough of them.

    Args:
        numbers: Number of pairs, all different: at most half of all numbers.
        seed: Seed of the numbers.
        digits: Largest number of digits, 1 to 9.

    Yields:
        A number and its name with a tab between them, as in
        "1,234<TAB>one thousand two hundred thirty-four".

    Raises:
        CorpusError: A parameter is out of range.
    """
    check_range("digits", digits, 1, 9, builder="number-words")
    check_range("numbers", numbers, 1, 10**digits // 2, builder="number-words")
    check_range("seed", seed, 0, sys.maxsize, builder="number-words")
    choices = RandomChoices(seed)
    seen: set[int] = set()
    while len(seen) < numbers:
        number = choices.below(10 ** (1 + choices.below(digits)))
        if number not in seen:
            seen.add(number)
            yield f"{number:,}\t{number_in_words(number)}"


def number_in_words(number: int) -> str:
    """Return the English name of a number from 0 to 999,999,999.

    >>> number_in_words(1234)
    'one thousand two hundred thirty-four'
    """
    for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if number >= size:
            count, rest = divmod(number, size)
            counted = f"{number_in_words(count)} {name}"
            return f"{counted} {number_in_words(rest)}" if rest else counted
    if number < 20:
        return _UNITS[number]
    ten, unit = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_UNITS[unit]}" if unit else "")


_MONTHS = split_words(
    """January February March April May June July August September October November December"""
)
_WEEKDAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_ORDINALS = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
# How a date is written; see `written_date`.
_DATE_FORMATS = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{month} {day}{ordinal}, {year}",
    "the {day}{ordinal} of {month} {year}",
    "{weekday}, {day} {month} {year}",
    "{weekday}, {month} {day}{ordinal}, {year}",
    "{weekday:.3} {day} {month:.3} {year}",
    "{day:02d}-{month:.3}-{year}",
    "{day}.{number}.{year}",
    "{year}/{number:02d}/{day:02d}",
)
_FIRST_DAY, _LAST_DAY = date(1000, 1, 1), date(2999, 12, 31)


def written_dates(dates: int = 20_000, seed: int = 1) -> Iterator[str]:
    """Generate dates in ten English formats with their ISO forms, as pairs for `translate`.

    Args:
        dates: Number of pairs, whose dates, in the years 1000 to 2999, are all different: at most
            half of all dates.
        seed: Seed of the dates and formats.

    Yields:
        A date and its ISO form with a tab between them, as in
        "the 3rd of May 2021<TAB>2021-05-03".

    Raises:
        CorpusError: A parameter is out of range.
    """
    num_days = (_LAST_DAY - _FIRST_DAY).days + 1
    check_range("dates", dates, 1, num_days // 2, builder="written-dates")
    check_range("seed", seed, 0, sys.maxsize, builder="written-dates")
    choices = RandomChoices(seed)
    seen: set[int] = set()
    while len(seen) < dates:
        number = choices.below(num_days)
        if number not in seen:
            seen.add(number)
            day = _FIRST_DAY + timedelta(days=number)
            yield f"{written_date(day, choices.one(_DATE_FORMATS))}\t{day.isoformat()}"


def written_date(day: date, form: str) -> str:
    """Return a date in a format, whatever the language of the system.

    >>> written_date(date(2021, 5, 3), "{weekday}, {day}{ordinal} {month:.3} {year}")
    'Monday, 3rd May 2021'
    """
    return form.format(
        day=day.day,
        ordinal=_ORDINALS.get(day.day, "th"),
        month=_MONTHS[day.month - 1],
        number=day.month,
        year=day.year,
        weekday=_WEEKDAYS[day.weekday()],
    )


# Scripts with at least a hundred names, most of which begin with the script.
_SCRIPTS = frozenset(
    split_words(
        """ARABIC BALINESE BAMUM BRAHMI BRAILLE CANADIAN CHEROKEE COPTIC CUNEIFORM CYRILLIC
        DEVANAGARI DUPLOYAN ETHIOPIC GEORGIAN GREEK HANGUL HEBREW HENTAIGANA KANGXI KATAKANA KHMER
        LATIN LINEAR MALAYALAM MENDE MEROITIC MIAO MONGOLIAN MYANMAR PAHAWH SINHALA TAI TAMIL
        TIBETAN VAI YI"""
    )
)


def script_names() -> Iterator[str]:
    """List the names of the Unicode characters with their scripts, as pairs for `classify`.

    Yields:
        The names of `unicode_names`, each with a tab and the first word in lower case if this is a
        script, else `none`.
    """
    for name in unicode_names():
        first = name.split()[0]
        yield f"{name}\t{first.lower() if first in _SCRIPTS else 'none'}"


# Kind of a character by the type of its token; other tokens are code or spaces.
_KIND_OF = {
    "STRING": '"',
    "FSTRING_START": '"',
    "FSTRING_MIDDLE": '"',
    "FSTRING_END": '"',
    "COMMENT": "#",
    "NAME": "a",
    "NUMBER": "0",
    "OP": "+",
}
_MIN_PIECE = 300  # Characters from which a piece of a file ends with a line.
_MAX_PIECE = 1000


def code_kinds(pieces: int = 4000, most_per_file: int = 8) -> Iterator[str]:
    """Collect pieces of the standard library's source code, as pairs for the task `tag`.

    Args:
        pieces: Number of pieces, no two alike. Those of one file follow each other.
        most_per_file: Largest number of pieces of a file, so that no file has many.

    Yields:
        Some lines of a file, a tab, and one character for the kind of each character: `"` string,
        `#` comment, `a` name, `0` number, `+` operator, `_` space. A piece begins and ends outside
        strings.

    Raises:
        CorpusError: The installation has no source files of the standard library.
    """
    files = (islice(_code_pieces(source), most_per_file) for source in python_source())
    yield from islice(_without_copies(chain.from_iterable(files)), pieces)


def _without_copies(texts: Iterable[str]) -> Iterator[str]:
    """Yield texts without those that came before."""
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _code_pieces(source: str) -> Iterator[str]:
    """Yield the pieces of a file with the kinds of their characters."""
    kinds = None if "\t" in source else character_kinds(source)
    if kinds is None:
        return
    start = end = 0
    for line in source.splitlines(keepends=True):
        end += len(line)
        is_in_string = kinds[end - 1] == '"'
        if end - start >= _MIN_PIECE and not is_in_string:
            piece = source[start:end].strip("\n")
            first = source.index(piece, start)
            if len(piece) <= _MAX_PIECE:
                yield f"{piece}\t{kinds[first : first + len(piece)]}"
            start = end


def character_kinds(source: str) -> str | None:
    """Return the kind of each character of Python source; None if it cannot be read as tokens.

    >>> character_kinds("x = 10  # ten")
    'a_+_00__#####'
    """
    lines = source.splitlines(keepends=True)
    offsets = [0, *accumulate(map(len, lines))]
    kinds = ["_"] * len(source)
    try:
        for token in tokenize.generate_tokens(iter(lines).__next__):
            kind = _KIND_OF.get(tokenize.tok_name[token.type])
            if kind is not None:
                places = (token.start, token.end)
                start, stop = (offsets[row - 1] + column for row, column in places)
                kinds[start:stop] = kind * (stop - start)
    except (tokenize.TokenError, SyntaxError, IndexError):
        return None
    return "".join(kinds)
