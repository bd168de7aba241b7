"""Texts of many kinds, made from what Python carries, to test how charlm decides to read them."""

import ast
import calendar
import functools
import inspect
import itertools
import json
import keyword
import random
import re
import sys
import textwrap
import unicodedata
from collections.abc import Callable
from html.entities import html5
from pydoc_data.topics import topics


@functools.cache
def paragraphs() -> list[str]:
    """Return paragraphs of prose, each on one line, in the order of Python's help topics."""
    blocks = "\n\n".join(topics.values()).split("\n\n")
    joined = [" ".join(block.split()) for block in blocks if re.match(r"[A-Z][a-z ]+ ", block)]
    return list(dict.fromkeys(text for text in joined if text.endswith(".") and len(text) > 150))


@functools.cache
def sentences() -> list[str]:
    """Return the sentences of the prose, in order."""
    found = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraphs()))
    return [sentence for sentence in found if 25 < len(sentence) < 300]


@functools.cache
def phrases() -> list[str]:
    """Return phrases of the prose without punctuation inside, in order."""
    found = re.findall(r"[A-Za-z][A-Za-z' ]{14,44}[a-z](?=[,;.])", " ".join(paragraphs()))
    return [phrase.strip() for phrase in found]


@functools.cache
def words() -> list[str]:
    """Return the words of the prose, in alphabetical order."""
    return sorted(set(re.findall(r"\b[a-z]{3,14}\b", " ".join(paragraphs()))))


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _distinct(draw: Callable[[], str], count: int) -> list[str]:
    """Return distinct draws."""
    found = dict[str, None]()
    while len(found) < count:
        found[draw()] = None
    return list(found)


def wrapped_prose(width: int, count: int) -> str:
    """A novel with hard line breaks and no blank lines."""
    return _lines([line for text in paragraphs()[:count] for line in textwrap.wrap(text, width)])


def wrapped_with_blank_lines(width: int, count: int) -> str:
    """Hard line breaks with blank lines between the paragraphs."""
    return "\n\n".join(textwrap.fill(text, width) for text in paragraphs()[:count]) + "\n"


def paragraph_per_line(count: int) -> str:
    return _lines(paragraphs()[:count])


def sentence_per_line(count: int, *, shuffled: bool) -> str:
    chosen = sentences()[:count]
    if shuffled:
        random.Random(1).shuffle(chosen)
    return _lines(chosen)


def verse(count: int, *, capitals: bool) -> str:
    """Lines of verse: every other one ends with a comma, the fourth one with a period."""
    lines = []
    for number, phrase in enumerate(phrases()[:count]):
        line = phrase[0].upper() + phrase[1:] if capitals or number % 4 == 0 else phrase.lower()
        lines.append(line + ",;,."[number % 4] if number % 2 or number % 3 == 0 else line)
    return _lines(lines)


def stanzas(count: int) -> str:
    """Stanzas of four lines, with blank lines between them."""
    lines = verse(count, capitals=True).splitlines()
    return "\n".join(
        "\n".join(lines[start : start + 4]) + "\n" for start in range(0, len(lines), 4)
    )


def play(count: int) -> str:
    """A play without blank lines: the speaker on a line of its own, then lines of verse."""
    draw = random.Random(2)
    lines = verse(count, capitals=True).splitlines()
    found = []
    while lines:
        taken = draw.randint(1, 5)
        found += [
            draw.choice(["HAMLET", "OPHELIA", "HORATIO", "FIRST CLOWN"]) + ".",
            *lines[:taken],
        ]
        lines = lines[taken:]
    return _lines(found)


def dialogue(count: int) -> str:
    """Turns of two speakers, each on one line that begins with the name."""
    return _lines(
        [
            f"{('Alice', 'Bob')[number % 2]}: {phrase[0].upper()}{phrase[1:]}{'.?'[number % 3 == 0]}"
            for number, phrase in enumerate(phrases()[:count])
        ]
    )


def chat(count: int) -> str:
    """A chat log with times and names."""
    draw = random.Random(3)
    minute = 0
    found = []
    for phrase in phrases()[:count]:
        minute += draw.randint(0, 3)
        clock = f"[{minute // 60 % 24:02}:{minute % 60:02}]"
        found.append(f"{clock} <{draw.choice(['ann', 'bo', 'cy'])}> {phrase.lower()}")
    return _lines(found)


def log(count: int) -> str:
    """Lines of a log, in the order of time."""
    draw = random.Random(4)
    seconds = 1_700_000_000
    found = []
    for _ in range(count):
        seconds += draw.randint(0, 50)
        level = draw.choice(["INFO", "INFO", "WARNING", "ERROR"])
        found.append(f"{seconds} {level} {draw.choice(words())}: {draw.choice(phrases())[:30]}")
    return _lines(found)


def code(*modules: object) -> str:
    return "".join(inspect.getsource(module) for module in modules)


def assembly(count: int) -> str:
    """Machine code without indentation and blank lines."""
    draw = random.Random(5)
    found = []
    for number in range(count):
        register = f"r{draw.randint(0, 7)}"
        line = draw.choice(
            ["mov {}, r0", "add {}, {}", "ldr {}, [sp, {}]", "bl {}_{}", "cmp {}, {}"]
        )
        found.append(line.format(register, draw.randint(0, 99)))
        found += [f"loop{number}:"] if draw.random() < 0.15 else []
    return _lines(found)


def fasta(count: int, width: int, letters: str) -> str:
    """Sequences of a FASTA file."""
    draw = random.Random(6)
    found = []
    for number in range(count):
        found.append(f">seq{number} {draw.choice(words())}")
        sequence = "".join(draw.choices(letters, k=draw.randint(100, 900)))
        found += [sequence[start : start + width] for start in range(0, len(sequence), width)]
    return _lines(found)


def names(count: int) -> str:
    """Names made of syllables, in lower case."""
    draw = random.Random(7)
    syllables = ["an", "na", "mar", "li", "sa", "to", "be", "el", "ri", "co", "ja", "ne", "th"]
    return _lines(_distinct(lambda: "".join(draw.choices(syllables, k=draw.randint(2, 4))), count))


def sorted_names(count: int) -> str:
    return _lines(sorted(line.title() for line in names(count).splitlines()))


def bands(count: int) -> str:
    """Names of bands."""
    draw = random.Random(8)
    forms = ["The {}s", "{} and the {}s", "{}", "{} {}", "Black {}", "{} of {}"]

    def draw_name() -> str:
        return draw.choice(forms).format(*(draw.choice(words()).title() for _ in range(2)))

    return _lines(_distinct(draw_name, count))


def character_names(block: str, count: int) -> str:
    """Names of Unicode characters, in the order of their code points."""
    found = (unicodedata.name(chr(point), "") for point in range(sys.maxunicode))
    return _lines(list(itertools.islice((name for name in found if block in name), count)))


def entities(count: int) -> str:
    """Names of HTML entities, sorted."""
    return _lines(sorted({name.rstrip(";") for name in html5})[:count])


def word_list(count: int, *, is_sorted: bool) -> str:
    chosen = random.Random(9).sample(words(), count)
    return _lines(sorted(chosen) if is_sorted else chosen)


def five_letter_words() -> str:
    chosen = sorted(
        {word[:5] for word in words() if len(word) > 4} | {f"{word}e" for word in keyword.kwlist}
    )
    chosen = [word for word in chosen if len(word) == 5]
    random.Random(10).shuffle(chosen)
    return _lines(chosen)


def headlines(count: int) -> str:
    """Headlines without periods, in no order."""
    found = list(dict.fromkeys(f"{phrase[0].upper()}{phrase[1:]}" for phrase in phrases()))
    random.Random(11).shuffle(found)
    return _lines(found[:count])


def long_titles(count: int) -> str:
    """Titles of up to 140 characters, in no order."""
    draw = random.Random(12)

    def draw_title() -> str:
        first, second, third = draw.sample(phrases(), 3)
        return f"{first.title()}: {second}" + (f" and {third}" if draw.random() < 0.4 else "")

    return _lines(_distinct(draw_title, count))


def table(count: int, delimiter: str) -> str:
    """Rows of a table, in no order."""
    draw = random.Random(13)
    return _lines(
        [
            delimiter.join(
                [draw.choice(words()).title(), str(draw.randint(1, 99)), draw.choice(words())]
            )
            for _ in range(count)
        ]
    )


def json_lines(count: int) -> str:
    return _lines([json.dumps({"id": k, "text": text}) for k, text in enumerate(phrases()[:count])])


def key_values(count: int) -> str:
    """Settings, a key and a value per line."""
    draw = random.Random(14)
    keys = draw.sample(words(), count)
    return _lines([f"{key}.{draw.choice(words())} = {draw.randint(0, 999)}" for key in keys])


def markdown(count: int) -> str:
    """Headings, paragraphs and lists."""
    blocks = []
    for number, text in enumerate(paragraphs()[:count]):
        blocks.append(f"## {words()[number]}")
        blocks.append("- " + "\n- ".join(text.split(", ")) if number % 3 == 0 else text)
    return "\n\n".join(blocks) + "\n"


def mails(count: int) -> str:
    """E-mails with headers, quoted lines and blank lines."""
    found = []
    for number, text in enumerate(paragraphs()[:count]):
        found.append(
            f"From: {words()[number]}@example.org\nSubject: Re: {words()[-number - 1]}\n\n"
        )
        found.append(textwrap.fill(text, 72) + "\n\n")
        found.append(textwrap.indent(textwrap.fill(text[:200], 70), "> ") + "\n\n")
    return "".join(found)


def calendars(years: int) -> str:
    return "".join(calendar.TextCalendar().formatyear(2000 + year) for year in range(years))


def unpunctuated_sentences(count: int) -> str:
    """Sentences in order, in lower case and without punctuation, as in Penn Treebank."""
    return _lines([re.sub(r"[^a-z' ]", "", line.lower())[:200] for line in sentences()[:count]])


def wrapped_characters(width: int, count: int) -> str:
    """Prose in Chinese characters: no spaces, paragraphs broken at a number of characters."""
    draw = random.Random(15)
    signs = [chr(point) for point in range(0x4E00, 0x4E00 + 800)]
    found = []
    for _ in range(count):
        paragraph = "".join(draw.choices([*signs, *["\uff0c"] * 40], k=draw.randint(60, 400)))
        found += textwrap.wrap(paragraph + "\u3002", width)
    return _lines(found)


def docstring_summaries(*modules: object) -> str:
    """First lines of docstrings, without the period, in no order."""
    found = []
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                found.append((ast.get_docstring(node) or "").splitlines()[0].rstrip("."))
    random.Random(16).shuffle(found)
    return _lines(list(dict.fromkeys(line for line in found if line)))


def lyrics(count: int) -> str:
    """Songs in lower case, without punctuation and blank lines, with a refrain."""
    lines = [phrase.lower() for phrase in phrases()[:count]]
    verses = (lines[start : start + 6] + lines[:2] for start in range(0, count, 6))
    return _lines([line for verse in verses for line in verse])


def script(count: int) -> str:
    """Turns of three speakers, each a whole sentence."""
    draw = random.Random(17)
    return _lines([f"{draw.choice(['ANN', 'BO', 'CY'])}: {text}" for text in sentences()[:count]])


def novel_with_dialogue(width: int, count: int) -> str:
    """Prose with hard line breaks, half of it in paragraphs of a line or two."""
    found = []
    for text in paragraphs()[:count]:
        found += textwrap.wrap(text, width)
        for part in text.split(". ")[:3]:
            found += textwrap.wrap(f"\u201c{part[:70]},\u201d he said.", width)
    return _lines(found)


def transcript(width: int, count: int) -> str:
    """Speech without punctuation, with hard line breaks."""
    text = re.sub("[^a-z ]", "", " ".join(paragraphs()[:count]).lower())
    return _lines(textwrap.wrap(text, width))


def mail_addresses(count: int) -> str:
    """E-mail addresses, in no order."""
    draw = random.Random(18)
    parts = (draw.sample(words(), 3) for _ in range(count))
    return _lines(["{}.{}@{}.org".format(*part) for part in parts])


def chinese_names(count: int) -> str:
    """Names of two or three Chinese characters, in no order."""
    draw = random.Random(19)
    signs = [chr(0x4E00 + 37 * number) for number in range(300)]
    return _lines(["".join(draw.choices(signs, k=draw.randint(2, 3))) for _ in range(count)])


def motifs(count: int) -> str:
    """Sequences of one length, in no order."""
    draw = random.Random(20)
    return _lines(["".join(draw.choices("ACGT", k=57)) for _ in range(count)])
