r"""Printing: results by `emit`, everything else by `say`; control characters are escaped.

Texts of a model, file names and titles can contain control characters, which move the cursor,
change text on the screen, or make the terminal send input. On a terminal they are shown as `\x1b`
or `\u202e`. A pipe or a file receives the text unchanged.
"""

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # It imports torch.
    from charlm.runs.progress_bar import ProgressBar

# C0 and C1 except tab and line feed, and DEL; marks that change the direction of text, which can
# make it look like another text (Boucher and Anderson 2021, arXiv:2111.00169); line separators.
_CONTROL_CODES = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)]
_DIRECTION_MARKS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029]
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROL_CODES} | {
    code: f"\\u{code:04x}" for code in _DIRECTION_MARKS
}
_MIN_FOLDED_WIDTH = 20  # A pseudo-terminal may state a width of 0.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*_CONTROL_CODES, *_DIRECTION_MARKS)}


def printable(text: str) -> str:
    r"""Return a text in which control characters are written as \x1b or \u202e."""
    return text.translate(_ESCAPES)


def emit(text: str = "", *, end: str = "\n", raw: bool = False) -> None:
    """Print a result on stdout; on a terminal, escape control characters unless `raw`."""
    shown = text if raw or not sys.stdout.isatty() else printable(text)
    print(shown, end=end, flush=True)


def emit_json(value: Any, *, in_ascii: bool = True, raw: bool = False) -> None:
    """Print an object as a line of JSON; on a terminal, escape control characters as JSON does."""
    line = json.dumps(value, ensure_ascii=in_ascii)
    emit(line if raw or not sys.stdout.isatty() else line.translate(_JSON_ESCAPES), raw=True)


def emit_result(value: Mapping[str, Any], table: Iterable[str], *, as_json: bool) -> None:
    """Print a result as one JSON object, or as the lines of a table."""
    if as_json:
        emit_json(value)
    else:
        emit("\n".join(table))


def say(text: str, bar: "ProgressBar | None" = None) -> None:
    """Print a message on stderr, above the progress bar if there is one.

    On a terminal, lines that are too long continue on the next line at a word.
    """
    shown = printable(text)
    if sys.stderr.isatty():
        with suppress(OSError):  # It has no size.
            shown = fold(shown, os.get_terminal_size(sys.stderr.fileno()).columns)
    if bar is not None and bar.is_shown:
        bar.write(shown)
    else:
        print(shown, file=sys.stderr, flush=True)


def fold(text: str, width: int) -> str:
    """Return a text whose lines have at most `width` columns, divided at blanks where possible.

    The rest of a line is indented by two columns more than its beginning.
    """
    return "\n".join(part for line in text.split("\n") for part in _fold_line(line, width))


def _fold_line(line: str, width: int) -> list[str]:
    if width < _MIN_FOLDED_WIDTH or len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip(" "))
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * (indent + 2),
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
