"""Corpora that any Python installation can build without a download.

Three are collected from the installation itself: the documentation, the source code and the names
of the Unicode characters. They depend on the version of Python, and on nothing else. Two are
generated, so that the memory of a network can be measured: sentences of a small grammar, and
strings of bits with their parity. The others are pairs for tasks.
"""

import ast
import hashlib
import random
import re
import sys
import sysconfig
import tokenize
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from charlm.errors import CorpusError

Item = TypeVar("Item")

# Folders of the standard library with installed packages, tests or compiled files.
_EXCLUDED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload"}
)
_MIN_DOCUMENT_CHARACTERS = 80  # A shorter docstring is a label rather than prose.

# Names that are composed by a rule: those of Hangul syllables, and the numbered names of three sets
# of more than 500 signs each. (Names that end in their own code point, such as those of CJK
# ideographs, are found without a pattern.) Smaller numbered sets, such as Braille patterns, are
# kept. 30,229 names remain with Unicode 14.0, the version of Python 3.11.
_GENERATED_NAME = re.compile(
    r"""HANGUL\ SYLLABLE\ .*
      | TANGUT\ COMPONENT-\d+
      | ANATOLIAN\ HIEROGLYPH\ A\d+[A-Z]?
      | EGYPTIAN\ HIEROGLYPH\ [A-Z]+\d+[A-Z]*""",
    re.VERBOSE,
)


def python_docs() -> Iterator[str]:
    """Collect English technical prose: Python's help topics and the standard library's docstrings.

    Yields:
        Distinct documents of at least 80 characters without form feeds, about 2 MB in total. They
        are shuffled by a hash of the text, so that every contiguous part represents the whole.

    Raises:
        CorpusError: The installation has no source files of the standard library.
    """
    documents = {
        _without_form_feeds(text).strip() for text in (*_help_topics(), *_library_docstrings())
    }
    yield from _shuffled(
        text for text in documents if len(text) >= _MIN_DOCUMENT_CHARACTERS and _is_unicode(text)
    )


def python_source() -> Iterator[str]:
    """Collect the source files of the standard library without its tests.

    Yields:
        Distinct non-empty files without form feeds, about 12 MB in total with Python 3.11. They are
        shuffled by a hash of the file's name, so that every contiguous part represents the whole.

    Raises:
        CorpusError: The installation has no source files of the standard library.
    """
    root = _standard_library()
    names = (path.relative_to(root).as_posix() for path in _library_files(root))
    seen: set[str] = set()
    for name in _shuffled(names):
        source = _without_form_feeds(_read_source(root / name))
        # Hundreds of packages have an empty or the same `__init__.py`.
        if source.strip() and source not in seen:
            seen.add(source)
            yield source


def unicode_names() -> Iterator[str]:
    """List the names of the Unicode characters, except those composed by a rule or from a number.

    Yields:
        More than 30,000 distinct names, such as "LATIN SMALL LETTER A WITH GRAVE", in the order of
        the code points.
    """
    for code_point in range(sys.maxunicode + 1):
        name = unicodedata.name(chr(code_point), "")
        is_generated = name.endswith(f"-{code_point:04X}") or _GENERATED_NAME.fullmatch(name)
        if name and not is_generated:
            yield name


def _help_topics() -> Iterable[str]:
    """Return the topics of Python's `help`; some installations have none."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return ()
    return topics.values()


def _library_docstrings() -> Iterator[str]:
    """Yield every docstring of the standard library without its indentation."""
    for path in _library_files(_standard_library()):
        for node in ast.walk(_parse(_read_source(path))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node, clean=True) or ""


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _library_files(root: Path) -> list[Path]:
    """Return the source files of the standard library, sorted.

    Args:
        root: Folder of the standard library.

    Raises:
        CorpusError: There are none.
    """
    files = [
        path for path in sorted(root.rglob("*.py")) if _is_library_source(path.relative_to(root))
    ]
    if not files:
        raise CorpusError(
            f"{root}: no source files of the standard library; use a complete Python installation"
        )
    return files


def _is_library_source(name: Path) -> bool:
    # Files written by the build of Python contain paths of the machine that built it.
    is_written_by_build = name.name.startswith("_sysconfigdata") or name.parts[0].startswith(
        "config-"
    )
    return not is_written_by_build and _EXCLUDED_FOLDERS.isdisjoint(name.parts)


def _read_source(path: Path) -> str:
    """Return a source file in its declared encoding; an empty text if it cannot be read."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""


def _parse(source: str) -> ast.Module:
    """Return the syntax tree of a source file; an empty module if it has a syntax error."""
    with warnings.catch_warnings():
        # Our users cannot act on warnings about the standard library's source.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return ast.Module(body=[], type_ignores=[])


def _without_form_feeds(text: str) -> str:
    # The card separates documents by form feeds.
    return text.replace("\f", "")


def _is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8; a docstring may have a lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shuffled(texts: Iterable[str]) -> list[str]:
    # Sorting by a hash needs no seed, and another text does not change the order of the others.
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


class _Noun(NamedTuple):
    singular: str
    plural: str
    relative: str  # Pronoun of a clause between commas.

    def form(self, is_plural: bool) -> str:
        return self.plural if is_plural else self.singular


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _nouns(text: str, relative: str) -> list[_Noun]:
    pairs = (forms.split("/") for forms in _words(text))
    return [_Noun(singular, plural, relative) for singular, plural in pairs]


_PERSONS = _nouns(
    """actor/actors artist/artists baker/bakers boy/boys child/children cook/cooks dentist/dentists
    doctor/doctors farmer/farmers friend/friends girl/girls judge/judges king/kings lady/ladies
    man/men nurse/nurses pilot/pilots poet/poets queen/queens sailor/sailors singer/singers
    soldier/soldiers teacher/teachers thief/thieves woman/women""",
    relative="who",
)
_ANIMALS = _nouns(
    """bear/bears bird/birds cat/cats cow/cows dog/dogs fox/foxes goat/goats goose/geese
    horse/horses lion/lions monkey/monkeys mouse/mice rabbit/rabbits tiger/tigers wolf/wolves""",
    relative="which",
)
_NOUNS = [*_PERSONS, *_ANIMALS]
# The past tense is the same in singular and plural, so no word before the main verb has a number.
_TRANSITIVE_VERBS = _words(
    """admired avoided called chased followed forgot found greeted heard helped kissed liked met
    missed noticed pushed remembered saw touched trusted visited watched"""
)
_INTRANSITIVE_VERBS = _words("ate danced laughed ran rested sang slept stood waited worked")
_PLACES = _words("alone downstairs here inside nearby outdoors outside there upstairs")
_ADVERBS = _words(
    "already always happily never often once quietly rarely secretly sometimes suddenly"
)
_PREPOSITIONS = _words("above behind below beside beyond near opposite with")
_ATTRIBUTES = _words("brave clever fat gentle grey little old small strange strong tall young")
_PREDICATES = _words(
    "angry asleep awake bored calm cold full happy hungry late lost ready sad thirsty tired"
)


class _VerbPair(NamedTuple):
    singular: str
    plural: str
    continuation: str


# Neither form of a pair begins with the other, so a character model can be asked as well.
_MAIN_VERBS = (
    _VerbPair("is", "are", ""),
    _VerbPair("was", "were", ""),
    _VerbPair("has", "have", "been "),
)

_MAX_PHRASES = 16
_MAX_NOUNS = 16
_MAX_BITS = 4096
# After this many repeated sentences in a row, the grammar has hardly any new sentence left.
_MAX_REPETITIONS = 1000


@dataclass(frozen=True)
class AgreementSentence:
    """A sentence with words between the subject and its verb.

    Linzen et al. 2016, arXiv:1611.01368.

    Attributes:
        prefix: Text before the verb, without the space between them.
        verb: Verb in the number of the subject.
        wrong_verb: Verb in the other number.
        rest: Text after the verb, without the space between them.
        subject_is_plural: Whether the subject is plural.
        distance: Number of words between the subject and its verb.
        nouns_are_plural: Whether each noun between the subject and its verb is plural, in order.
    """

    prefix: str
    verb: str
    wrong_verb: str
    rest: str
    subject_is_plural: bool
    distance: int
    nouns_are_plural: tuple[bool, ...]

    @property
    def text(self) -> str:
        """The sentence, such as "The cats, which already saw the dog, were full"."""
        return f"{self.prefix} {self.verb} {self.rest}"

    @property
    def wrong_text(self) -> str:
        """The sentence with the verb in the wrong number: the other half of the minimal pair."""
        return f"{self.prefix} {self.wrong_verb} {self.rest}"

    @property
    def nouns(self) -> int:
        """Number of nouns between the subject and its verb."""
        return len(self.nouns_are_plural)

    @property
    def attractors(self) -> int:
        """Number of nouns between subject and verb that differ from the subject in number."""
        return sum(is_plural != self.subject_is_plural for is_plural in self.nouns_are_plural)


def agreement(
    *,
    sentences: int = 40_000,
    seed: int = 1,
    longest: int = 4,
    most_nouns: int = 3,
    uncapitalized: int = 0,
) -> Iterator[str]:
    """Generate the text of sentences with words between the subject and its verb.

    Args:
        sentences: Number of sentences; all are distinct.
        seed: Seed of the random choices.
        longest: Largest number of phrases between subject and verb, 0 to 16, of 3 to 6 words each.
        most_nouns: Largest number of nouns between subject and verb, 0 to 16.
        uncapitalized: Every sentence of this number begins with a small letter, so that a model
            can read such a sentence: 10 is every tenth, 0 none.

    Returns:
        Sentences such as "The cats, which already saw the dog, were full.".

    Raises:
        CorpusError: A parameter is out of range. While iterating: the grammar has fewer sentences.
    """
    stream = agreement_sentences(
        sentences=sentences, seed=seed, longest=longest, most_nouns=most_nouns
    )
    _check_range("uncapitalized", uncapitalized, 0, sys.maxsize)
    return (
        _uncapitalize(sentence.text)
        if uncapitalized and number % uncapitalized == 0
        else sentence.text
        for number, sentence in enumerate(stream, start=1)
    )


def capitalize(sentence: str) -> str:
    """Return a sentence with a capital, as the grammar draws it."""
    return sentence[:1].upper() + sentence[1:]


def _uncapitalize(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def agreement_sentences(
    *,
    sentences: int = 40_000,
    seed: int = 1,
    longest: int = 4,
    most_nouns: int = 3,
    subject_is_plural: bool | None = None,
) -> Iterator[AgreementSentence]:
    """Generate the sentences of `agreement` with their properties.

    Args:
        sentences: Number of sentences; all are distinct.
        seed: Seed of the random choices.
        longest: Largest number of phrases between subject and verb, 0 to 16, of 3 to 6 words each.
        most_nouns: Largest number of nouns between subject and verb, 0 to 16.
        subject_is_plural: Number of every subject; None draws singular and plural equally often.
            Only the subject and the verb depend on it.

    Returns:
        The sentences, in the order in which they are drawn.

    Raises:
        CorpusError: A parameter is out of range. While iterating: the grammar has fewer sentences.
    """
    _check_range("sentences", sentences, 1, sys.maxsize)
    _check_range("seed", seed, 0, sys.maxsize)
    _check_range("longest", longest, 0, _MAX_PHRASES)
    _check_range("most_nouns", most_nouns, 0, _MAX_NOUNS)
    return _distinct(_draw_sentences(seed, longest, most_nouns, subject_is_plural), sentences)


def _check_range(
    name: str, value: int, least: int, most: int, *, builder: str = "agreement"
) -> None:
    # The values come from YAML, in which 40000 and "40000" are easily confused.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"at least {least}" if most == sys.maxsize else f"from {least} to {most}"
        raise CorpusError(
            f"{builder}: {name} must be a whole number {bounds}, got {value!r}; "
            "correct the card's parameters"
        )


def _distinct(drawn: Iterator[AgreementSentence], wanted: int) -> Iterator[AgreementSentence]:
    """Yield `wanted` distinct sentences, so that no part of a split repeats another part."""
    seen: set[str] = set()
    repetitions = 0
    for sentence in drawn:
        if sentence.text not in seen:
            seen.add(sentence.text)
            repetitions = 0
            yield sentence
        else:
            repetitions += 1
        if len(seen) == wanted:
            return
        if repetitions == _MAX_REPETITIONS:
            raise CorpusError(
                f"agreement: sentences must be at most about {len(seen)} for this grammar, "
                f"got {wanted}; request fewer, or raise longest"
            )


def _draw_sentences(
    seed: int, longest: int, most_nouns: int, subject_is_plural: bool | None
) -> Iterator[AgreementSentence]:
    """Draw sentences forever."""
    choices = _RandomChoices(seed)
    while True:
        # It is drawn even if it is given, so that later choices do not depend on that.
        drawn = choices.coin()
        is_plural = drawn if subject_is_plural is None else subject_is_plural
        yield _draw_sentence(choices, longest, most_nouns, is_plural)


def _draw_sentence(
    choices: "_RandomChoices", longest: int, most_nouns: int, is_plural: bool
) -> AgreementSentence:
    noun, *intervening = choices.distinct(_NOUNS, 1 + most_nouns)
    subject = ["The", *choices.maybe(_ATTRIBUTES), noun.form(is_plural)]
    modifiers = _Modifiers(choices, intervening)
    num_phrases = choices.below(longest + 1)
    words = modifiers.draw(num_phrases) if num_phrases else []
    if words[:1] == ["that"] and choices.coin():
        subject, words = _with_comma(subject), [noun.relative, *_with_comma(words[1:])]
    pair = choices.one(_MAIN_VERBS)
    return AgreementSentence(
        prefix=" ".join(subject + words),
        verb=pair.plural if is_plural else pair.singular,
        wrong_verb=pair.singular if is_plural else pair.plural,
        rest=f"{pair.continuation}{choices.one(_PREDICATES)}.",
        subject_is_plural=is_plural,
        distance=len(words),
        nouns_are_plural=tuple(modifiers.nouns_are_plural),
    )


def _with_comma(words: list[str]) -> list[str]:
    return [*words[:-1], f"{words[-1]},"]


class _RandomChoices:
    """Random choices that are the same in every version of Python.

    They use only `random()`, because Python guarantees no other method.
    """

    def __init__(self, seed: int) -> None:
        self._generator = random.Random(seed)

    def below(self, bound: int) -> int:
        """Draw an integer from 0 to bound - 1."""
        return int(self._generator.random() * bound)

    def coin(self) -> bool:
        """Draw true or false with equal probability."""
        return self.below(2) == 1

    def one(self, items: Sequence[Item]) -> Item:
        """Draw an item."""
        return items[self.below(len(items))]

    def maybe(self, words: Sequence[str]) -> list[str]:
        """Draw one word with probability 1/4, otherwise none."""
        return [self.one(words)] if self.below(4) == 0 else []

    def distinct(self, items: Sequence[Item], count: int) -> list[Item]:
        """Draw items without replacement."""
        remaining = list(items)
        return [remaining.pop(self.below(len(remaining))) for _ in range(count)]


class _Modifiers:
    """Draws the words between a subject and its verb, without knowing the subject or its number.

    A phrase follows the noun that it modifies, and the other phrases modify the noun inside it:
    they form chains ("near the dog that saw the cats") or nest ("that the dog near the cats saw").

    Attributes:
        nouns_are_plural: Whether each noun drawn so far is plural, in the order of the text.
    """

    def __init__(self, choices: _RandomChoices, nouns: list[_Noun]) -> None:
        self._choices = choices
        self._nouns = iter(nouns)
        self._nouns_left = len(nouns)
        self.nouns_are_plural: list[bool] = []

    def draw(self, num_phrases: int) -> list[str]:
        """Draw the words that modify a noun, in `num_phrases` phrases, at least one."""
        shapes = [self._subject_clause]
        if self._nouns_left:
            shapes += [self._prepositional_phrase, self._object_clause]
        return self._choices.one(shapes)(num_phrases - 1)

    def _prepositional_phrase(self, num_phrases: int) -> list[str]:
        return [self._choices.one(_PREPOSITIONS), *self._noun_phrase(num_phrases)]

    def _subject_clause(self, num_phrases: int) -> list[str]:
        return ["that", *self._verb_phrase(num_phrases)]

    def _object_clause(self, num_phrases: int) -> list[str]:
        return ["that", *self._noun_phrase(num_phrases), *self._verb(_TRANSITIVE_VERBS)]

    def _noun_phrase(self, num_phrases: int) -> list[str]:
        self._nouns_left -= 1
        is_plural = self._choices.coin()
        self.nouns_are_plural.append(is_plural)
        words = ["the", *self._choices.maybe(_ATTRIBUTES), next(self._nouns).form(is_plural)]
        return words + self.draw(num_phrases) if num_phrases else words

    def _verb_phrase(self, num_phrases: int) -> list[str]:
        if self._nouns_left and self._choices.below(4):
            return [*self._verb(_TRANSITIVE_VERBS), *self._noun_phrase(num_phrases)]
        words = [*self._verb(_INTRANSITIVE_VERBS), self._choices.one(_PLACES)]
        return [*words, "and", *self._verb_phrase(num_phrases - 1)] if num_phrases else words

    def _verb(self, verbs: Sequence[str]) -> list[str]:
        return [*self._choices.maybe(_ADVERBS), self._choices.one(verbs)]


_UNITS = _words(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen"""
)
_TENS = _words("twenty thirty forty fifty sixty seventy eighty ninety")


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
    _check_range("digits", digits, 1, 9, builder="number-words")
    _check_range("numbers", numbers, 1, 10**digits // 2, builder="number-words")
    _check_range("seed", seed, 0, sys.maxsize, builder="number-words")
    choices = _RandomChoices(seed)
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
            words = f"{number_in_words(count)} {name}"
            return f"{words} {number_in_words(rest)}" if rest else words
    if number < 20:
        return _UNITS[number]
    ten, unit = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_UNITS[unit]}" if unit else "")


_MONTHS = _words(
    """January February March April May June July August September October November December"""
)
_WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
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
    _check_range("dates", dates, 1, num_days // 2, builder="written-dates")
    _check_range("seed", seed, 0, sys.maxsize, builder="written-dates")
    choices = _RandomChoices(seed)
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
    _words(
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


def parity(*, strings: int = 20_000, seed: int = 1, longest: int = 16) -> Iterator[str]:
    """Generate strings of bits with their parity, as in "0110=0".

    Args:
        strings: Number of strings; short ones occur several times.
        seed: Seed of the random choices.
        longest: Largest number of bits; every number from 1 is as frequent.

    Raises:
        CorpusError: A parameter is out of range.
    """
    for name, value, least, most in (
        ("strings", strings, 1, sys.maxsize),
        ("seed", seed, 0, sys.maxsize),
        ("longest", longest, 1, _MAX_BITS),
    ):
        _check_range(name, value, least, most, builder="parity")
    choices = _RandomChoices(seed)
    lengths = (1 + choices.below(longest) for _ in range(strings))
    return (with_parity("".join(choices.one("01") for _ in range(bits))) for bits in lengths)


def with_parity(bits: str) -> str:
    """Return digits 0 and 1 with the parity of the ones.

    >>> with_parity("0110")
    '0110=0'
    """
    return f"{bits}={bits.count('1') % 2}"


BUILDERS: dict[str, Callable[..., Iterator[str]]] = {
    "python-docs": python_docs,
    "python-source": python_source,
    "unicode-names": unicode_names,
    "agreement": agreement,
    "number-words": number_words,
    "written-dates": written_dates,
    "script-names": script_names,
    "code-kinds": code_kinds,
    "parity": parity,
}
