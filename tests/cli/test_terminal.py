"""No control character reaches a terminal: from a model's text, a file name or a message."""

import ast
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from conftest import small_config, train_all

from charlm.cli import terminal
from charlm.cli.main import run as charlm

# The colours of `charlm eval tokens` are intended.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
CONTROLS = "\x1b[31m\x1b]0;title\x07 \x9b2J \x08\r\x7f \u202egnp.\u202c \u2066a\u2069 "


DIRECTION_CLASSES = {
    "RLO",
    "LRO",
    "RLE",
    "LRE",
    "PDF",
    "RLI",
    "LRI",
    "FSI",
    "PDI",
}  # Unicode's classes, UAX 9.


def controls_in(text: str) -> set[str]:
    return {
        letter
        for letter in text
        if unicodedata.category(letter) in ("Cc", "Zl", "Zp")
        or unicodedata.bidirectional(letter) in DIRECTION_CLASSES
    } - {"\t", "\n"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a run of a model that writes control characters, and its text."""
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "text.txt").write_text(f"{CONTROLS}a b c.\n" * 60, encoding="utf-8", newline="")
    train_all(small_config(folder / "text.txt", "training.steps=8"), folder / "run\x1b[2J")
    return folder


@pytest.fixture
def on_a_terminal(folder, capsys, monkeypatch):
    """Return a function that runs a command with stdout as a terminal, or not."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def run(*arguments: object, is_terminal: bool = True) -> tuple[int, str, str]:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
        status = charlm([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def test_every_control_character_is_escaped_and_no_other_changes():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    odd = controls_in(everything)
    plain = everything.translate(dict.fromkeys(map(ord, odd)))
    assert terminal.printable(plain) == plain
    assert all(
        re.fullmatch(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}", terminal.printable(letter)) for letter in odd
    )


RUN = "run\x1b[2J"
COMMANDS = [
    ["sample", RUN, "--length", 200, "--seed", 1],
    ["sample", RUN, "--count", 2, "--length", 99, "--seed", 1],
    ["sample", RUN, "--beams", 2, "--length", 30],
    ["sample", RUN, "--json", "--length", 200, "--seed", 1],
    ["eval", "sentences", RUN, "text.txt", "--explain"],
    ["eval", "tokens", RUN, "--show", 200],
    ["eval", "novelty", RUN, "--size", 200],
    ["eval", "compare", RUN, RUN],
    ["eval", "perplexity", RUN],
    ["eval", "gradients", RUN, "--window", 4, "--windows", 2],
    ["inspect", RUN],
    ["inspect", RUN, "--json"],
    ["config", "show"],
    ["corpus", "show", "names"],
]


@pytest.mark.parametrize(
    "arguments", COMMANDS, ids=lambda arguments: " ".join(map(str, arguments)).replace(RUN, "RUN")
)
def test_a_terminal_receives_no_control_characters(on_a_terminal, arguments):
    status, out, err = on_a_terminal(*arguments)
    assert status == 0 and out, err
    assert not controls_in(COLOURS.sub("", out))
    assert not controls_in(err)


def test_a_pipe_and_a_terminal_with_raw_receive_the_text_unchanged(on_a_terminal):
    arguments = ["sample", RUN, "--length", 200, "--seed", 1]
    _, piped, _ = on_a_terminal(*arguments, is_terminal=False)
    _, raw, _ = on_a_terminal(*arguments, "--raw")
    _, shown, _ = on_a_terminal(*arguments)
    assert controls_in(piped) and raw == piped and shown != piped
    assert shown.split() == terminal.printable(piped).split()  # Long lines wrap.


def test_json_on_a_terminal_is_json_with_the_same_text(on_a_terminal):
    arguments = ["sample", RUN, "--length", 200, "--seed", 1, "--json"]
    _, piped, _ = on_a_terminal(*arguments, is_terminal=False)
    _, shown, _ = on_a_terminal(*arguments)
    assert json.loads(shown) == json.loads(piped) and controls_in(json.loads(shown)["text"])


@pytest.mark.parametrize("name", ["no\x1b[2J\nsuch", "no\u202esuch", "no\udcffsuch"])
@pytest.mark.parametrize("command", ["train", "sample", "inspect"])
def test_a_message_is_one_line_whatever_name_it_quotes(on_a_terminal, command, name):
    status, out, err = on_a_terminal(command, name)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1 and "such" in err and not controls_in(err)
    err.encode("utf-8", "backslashreplace")


def shown_on_a_terminal(text: str, monkeypatch, capsys, *, columns: int, step: int = 1) -> str:
    """Return what a terminal of a width gets for a text that is written in pieces."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    writer = terminal.TextWriter(raw=False)
    for start in range(0, len(text), step):
        writer.write(text[start : start + step])
    writer.finish()
    return capsys.readouterr().out


TEXTS = {
    "one two three four": "one two\nthree\nfour",
    "one two\nthree\n\n  four\n": "one two\nthree\n\n  four\n",
    "one  twothreefourfive six": "one\ntwothreef\nourfive\nsix",
    "漢字漢字漢字漢": "漢字漢字\n漢字漢",
    "e\u0301e\u0301e\u0301 e\u0301e\u0301e\u0301 one": "e\u0301e\u0301e\u0301 e\u0301e\u0301e\u0301\none",
    "a\x1bb cd": "a\\x1bb cd",
}


@pytest.mark.parametrize("step", [1, 3, 100])
def test_long_lines_of_a_text_wrap_at_words_and_its_own_line_ends_stay(monkeypatch, capsys, step):
    for text, expected in TEXTS.items():
        shown = shown_on_a_terminal(text, monkeypatch, capsys, columns=9, step=step)
        assert shown == expected, text


def test_a_sample_on_a_terminal_keeps_its_line_ends_and_a_pipe_gets_it_unchanged(
    on_a_terminal, monkeypatch, trained
):
    monkeypatch.setenv("COLUMNS", "20")
    for options in ([], ["--count", 2], ["--beams", 2]):
        arguments = ["sample", trained, "--length", 150, *options]
        arguments += [] if "--beams" in options else ["--seed", 1]
        _, piped, _ = on_a_terminal(*arguments, is_terminal=False)
        _, shown, _ = on_a_terminal(*arguments)
        assert shown != piped and shown.split() == piped.split(), options
        assert max(map(len, piped.splitlines())) > 20, options
        assert max(map(len, shown.splitlines())) <= 20, options
        own_ends = [line.split()[-1:] for line in piped.splitlines()]
        assert all(last in [line.split()[-1:] for line in shown.splitlines()] for last in own_ends)


def test_a_long_message_wraps_at_words_on_a_terminal_only(monkeypatch, capsys):
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((20, 24)))
    message = "  a message of several words; and a/very/long/path/that/stays"
    terminal.say(message)
    assert capsys.readouterr().err == f"{message}\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2)
    terminal.say(message)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "  a message of",
        "    several words;",
        "    and",
        "    a/very/long/path/that/stays",
    ]


def test_only_the_module_that_escapes_prints():
    places = [
        path for path in Path(terminal.__file__).parent.glob("*.py") if path.name != "terminal.py"
    ]
    for path in places:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(named, ast.Name) and named.id == "print"), (
                f"{path}:{node.lineno}"
            )


@pytest.mark.parametrize("width", [80, 100])
def test_a_long_line_is_divided_at_words_and_nothing_is_lost(width):
    words = " ".join(f"word-{number}" for number in range(60))
    text = f"short line\n{words}\n  {words}\n{'x' * 150}"
    folded = terminal.fold(text, width)
    lines = folded.split("\n")
    assert all(len(line) <= width or line == "x" * 150 for line in lines)
    assert folded.split() == text.split()
    assert lines[2].startswith("  word-") and lines[-2].startswith("    word-")


def test_a_short_line_and_a_terminal_without_a_width_leave_a_text_as_it_is():
    text = "  a  b\t c\n\n" + "word " * 40
    assert terminal.fold(text, 0) == text
    assert terminal.fold("  a  b\t c\n\n", 80) == "  a  b\t c\n\n"


def test_a_quoted_path_is_not_divided_when_a_message_is_folded():
    message = "stopped; the run's state is saved; continue with: charlm train --resume 'my own run'"
    lines = terminal.fold(message, len(message) - 2).split("\n")
    assert len(lines) == 2 and lines[1].endswith("'my own run'")
    assert " ".join(line.strip() for line in lines) == message
