"""How charlm decides, from the lines of a text, how the text is best read."""

import argparse
import ast
import calendar
import inspect
import json
import random
import re
import textwrap

import kinds
import pytest

from charlm.data.lines import Reading, choose_reading, measure_lines

MODULES = (argparse, ast, calendar, inspect, json, random, re, textwrap)
CERTAIN, MAY_BE_UNCERTAIN = True, False
# Kind of text, a function that makes texts of that kind, mode, and whether the mode must be right.
TABLE = {
    "prose with hard line breaks": (
        lambda: [kinds.wrapped_prose(75, 400), kinds.wrapped_prose(60, 40)], "stream", CERTAIN),
    "prose with blank lines": (
        lambda: [kinds.wrapped_with_blank_lines(72, 100), kinds.wrapped_with_blank_lines(50, 20)],
        "stream", CERTAIN),
    "Chinese prose with hard line breaks": (
        lambda: [kinds.wrapped_characters(40, 200), kinds.wrapped_characters(32, 30)],
        "stream", CERTAIN),
    "paragraphs, one per line": (
        lambda: [kinds.paragraph_per_line(320), kinds.paragraph_per_line(50)], "stream", CERTAIN),
    "sentences in order": (
        lambda: [
            kinds.sentence_per_line(700, shuffled=False),
            kinds.sentence_per_line(150, shuffled=False),
        ],
        "stream", CERTAIN),
    "sentences in no order": (
        lambda: [
            kinds.sentence_per_line(700, shuffled=True),
            kinds.sentence_per_line(150, shuffled=True),
        ],
        "records", MAY_BE_UNCERTAIN),
    "sentences without punctuation": (
        lambda: [kinds.unpunctuated_sentences(700), kinds.unpunctuated_sentences(200)],
        "stream", MAY_BE_UNCERTAIN),
    "verse": (
        lambda: [kinds.verse(900, capitals=True), kinds.verse(200, capitals=False)],
        "stream", CERTAIN),
    "stanzas": (lambda: [kinds.stanzas(600), kinds.stanzas(80)], "stream", CERTAIN),
    "play": (lambda: [kinds.play(900), kinds.play(150)], "stream", CERTAIN),
    "dialogue": (lambda: [kinds.dialogue(800), kinds.dialogue(200)], "stream", MAY_BE_UNCERTAIN),
    "chat log": (lambda: [kinds.chat(900), kinds.chat(200)], "stream", MAY_BE_UNCERTAIN),
    "log of a program": (lambda: [kinds.log(1500), kinds.log(150)], "stream", MAY_BE_UNCERTAIN),
    "Python source": (
        lambda: [kinds.code(argparse, json), kinds.code(textwrap)],
        "stream", CERTAIN),
    "assembly": (lambda: [kinds.assembly(2000), kinds.assembly(200)], "stream", CERTAIN),
    "FASTA": (
        lambda: [kinds.fasta(300, 60, "ACGT"), kinds.fasta(20, 80, "ACDEFGHIKLMNPQRSTVWY")],
        "stream", CERTAIN),
    "names": (lambda: [kinds.names(2000), kinds.names(100)], "records", CERTAIN),
    "sorted names": (
        lambda: [kinds.sorted_names(1500), kinds.sorted_names(150)],
        "records", CERTAIN),
    "names of bands": (lambda: [kinds.bands(1000), kinds.bands(150)], "records", CERTAIN),
    "names in groups": (
        lambda: [kinds.character_names("LATIN", 1000), kinds.character_names("CYRILLIC", 200)],
        "records", MAY_BE_UNCERTAIN),
    "names of HTML entities": (
        lambda: [kinds.entities(2000), kinds.entities(200)],
        "records", CERTAIN),
    "words": (
        lambda: [kinds.word_list(1500, is_sorted=False), kinds.word_list(150, is_sorted=False)],
        "records", CERTAIN),
    "sorted words": (
        lambda: [kinds.word_list(1500, is_sorted=True), kinds.word_list(150, is_sorted=True)],
        "records", CERTAIN),
    "words of five letters": (
        lambda: [kinds.five_letter_words(), kinds.five_letter_words()[:900]], "records", CERTAIN),
    "headlines": (lambda: [kinds.headlines(900), kinds.headlines(100)], "records", CERTAIN),
    "long titles": (lambda: [kinds.long_titles(800), kinds.long_titles(120)], "records", CERTAIN),
    "summaries": (
        lambda: [kinds.docstring_summaries(*MODULES), kinds.docstring_summaries(argparse, inspect)],
        "records", CERTAIN),
    "rows of a table": (
        lambda: [kinds.table(800, "\t"), kinds.table(200, ";"), kinds.table(400, ",")],
        "records", MAY_BE_UNCERTAIN),
    "JSON lines": (
        lambda: [kinds.json_lines(800), kinds.json_lines(200)],
        "records", MAY_BE_UNCERTAIN),
    "keys and values": (
        lambda: [kinds.key_values(500), kinds.key_values(60)],
        "records", MAY_BE_UNCERTAIN),
    "Markdown": (lambda: [kinds.markdown(200), kinds.markdown(30)], "stream", CERTAIN),
    "e-mails": (lambda: [kinds.mails(60), kinds.mails(12)], "stream", CERTAIN),
    "calendars": (lambda: [kinds.calendars(30), kinds.calendars(2)], "stream", CERTAIN),
    # Kinds that were added after the rule was written.
    "novel with dialogue": (
        lambda: [kinds.novel_with_dialogue(75, 200), kinds.novel_with_dialogue(65, 30)],
        "stream", CERTAIN),
    "transcript": (
        lambda: [kinds.transcript(100, 200), kinds.transcript(60, 15)],
        "stream", CERTAIN),
    "script": (lambda: [kinds.script(700), kinds.script(150)], "stream", CERTAIN),
    "lyrics": (lambda: [kinds.lyrics(600), kinds.lyrics(120)], "stream", MAY_BE_UNCERTAIN),
    "e-mail addresses": (
        lambda: [kinds.mail_addresses(800), kinds.mail_addresses(100)], "records", CERTAIN),
    "Chinese names": (
        lambda: [kinds.chinese_names(900), kinds.chinese_names(100)],
        "records", CERTAIN),
    "sequences of one length": (
        lambda: [kinds.motifs(500), kinds.motifs(106)],
        "records", MAY_BE_UNCERTAIN),
}  # fmt: skip


def reading_of(text: str) -> Reading:
    return choose_reading(measure_lines(text.splitlines()))


@pytest.mark.parametrize("kind", TABLE)
def test_each_kind_of_text_is_read_rightly_or_the_choice_is_marked_uncertain(kind):
    texts, mode, must_be_right = TABLE[kind]
    for number, text in enumerate(texts()):
        reading = reading_of(text)
        assert reading.mode == mode or not (must_be_right or reading.is_certain), (number, reading)


def test_the_choice_is_certain_for_clear_kinds_of_text():
    for kind in ("prose with hard line breaks", "verse", "FASTA", "names", "words", "headlines"):
        assert reading_of(TABLE[kind][0]()[0]).is_certain, kind


def test_a_text_of_no_line_or_of_blank_lines_is_one_long_text():
    for text in ("", "\n\n", " \n" * 500, "\ud800" * 3):
        assert reading_of(text).mode == "stream"
