r"""Printing: results by `emit`, everything else by `say`; control characters are escaped.

Texts of a model, file names and titles can contain control characters, which move the cursor,
change text on the screen, or make the terminal send input. On a terminal they are shown as `\x1b`
or `\u202e`, and long lines wrap at words. A pipe or a file receives the text unchanged.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO, cast

from charlm.errors import CharlmError
from charlm.storage.results import Result
from charlm.storage.tables import columns_of, num_columns

if TYPE_CHECKING:  # It imports torch.
    from charlm.runs.progress_bar import ProgressBar

# C0 and C1 except tab and line feed, and DEL; marks that change the direction of text, which can
# make it look like another text (Boucher and Anderson 2021, arXiv:2111.00169); line separators.
_CONTROL_CODES = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)]
_DIRECTION_MARKS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029]
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROL_CODES} | {
    code: f"\\u{code:04x}" for code in _DIRECTION_MARKS
}
_QUOTED = re.compile(r"(?<=\s)'[^']*'(?=\s|$)")  # A path of a command, quoted for the shell.
_KEPT_BLANK = "\0"  # Replaces a blank at which no line is divided; no printed text has it.
_MIN_FOLDED_WIDTH = 20  # A pseudo-terminal may state a width of 0.
_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in (*_CONTROL_CODES, *_DIRECTION_MARKS)}

# Characters that take two columns of a terminal; a line may break between them.
_WIDE = (
    "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60"
    "\uffe0-\uffe6\U0001f300-\U0001faff\U00020000-\U0003fffd"
)
_PARTS = re.compile(rf"\n|[^\S\n]+|[{_WIDE}]|[^\s{_WIDE}]+")


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


def emit_result(result: Result, *, as_json: bool) -> None:
    """Print a measurement as one JSON object, or as lines, folded to the width of a terminal."""
    emit_table(result.to_json(), map(folded, result.lines()), as_json=as_json)


def emit_table(value: Mapping[str, Any], table: Iterable[str], *, as_json: bool) -> None:
    """Print facts as one JSON object, or as the lines of a table."""
    if as_json:
        emit_json(value)
    else:
        emit("\n".join(table))


def say(text: str, bar: "ProgressBar | None" = None) -> None:
    """Print a message on stderr, above the progress bar if there is one.

    On a terminal, lines that are too long continue on the next line at a word. A message that
    cannot be written, because a log file is on a full disk, does not end the command.
    """
    shown = printable(text)
    if sys.stderr.isatty():
        with contextlib.suppress(OSError):  # A terminal may have no size.
            shown = fold(shown, os.get_terminal_size(sys.stderr.fileno()).columns)
    try:
        if bar is not None and bar.is_shown:
            bar.write(shown)
        else:
            print(shown, file=sys.stderr, flush=True)
    except BrokenPipeError:
        raise
    except OSError:
        _discard(sys.stderr)


def fold(text: str, width: int) -> str:
    """Return a text whose lines of more than `width` characters are divided at blanks.

    The rest of a line is indented by two columns more than its beginning. A longer word is kept.
    """
    return "\n".join(part for line in text.split("\n") for part in _fold_line(line, width))


def folded(text: str) -> str:
    """Return a text folded to the width of the terminal; unchanged if stdout is none."""
    return fold(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text


def _fold_line(line: str, width: int) -> list[str]:
    if width < _MIN_FOLDED_WIDTH or len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip(" "))
    lines = textwrap.wrap(
        _QUOTED.sub(lambda match: match[0].replace(" ", _KEPT_BLANK), line),
        width,
        subsequent_indent=" " * (indent + 2),
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [part.replace(_KEPT_BLANK, " ") for part in lines]


class TextWriter:
    """Prints a text of a model in pieces on stdout.

    On a terminal, its own line ends are kept and long lines wrap at words, unless `raw`.
    """

    def __init__(self, *, raw: bool) -> None:
        """Begin at the start of a line."""
        self._raw = raw
        self._wraps = sys.stdout.isatty() and not raw
        self._width = shutil.get_terminal_size().columns
        self._column = 0
        self._space = ""  # The space before the next word; a line break may replace it.
        self._held = ""  # Last part of the text, which the next piece may continue.

    def write(self, piece: str) -> None:
        """Print a piece, except for a word that the next piece may continue."""
        if not self._wraps:
            emit(piece, end="", raw=self._raw)
            return
        found = _PARTS.findall(self._held + printable(piece))
        parts = [part for each in found for part in _cut(each, self._width)]
        self._held = parts.pop() if parts and parts[-1] != "\n" else ""
        emit("".join(map(self._placed, parts)), end="", raw=True)

    def finish(self) -> None:
        """Print the rest of the text."""
        emit(self._placed(self._held) + self._space, end="", raw=True)
        self._held = self._space = ""

    def _placed(self, part: str) -> str:
        """Return what is printed for a line end, spaces or a word."""
        if part == "\n":
            self._column = 0
            self._space = ""
            return part
        if part.isspace() or not part:
            self._space += part
            return ""
        before, self._space = self._space, ""
        columns = self._column + num_columns(before) + num_columns(part)
        if columns > self._width:
            before = "\n" if self._column else ""
            columns = num_columns(part)
        self._column = columns
        return before + part


@contextlib.contextmanager
def checked_stdout() -> Iterator[None]:
    """Let a failure to write to stdout raise a CharlmError that names it."""
    stream = sys.stdout
    sys.stdout = cast("TextIO", _CheckedStream(stream))
    try:
        yield
    finally:
        sys.stdout = stream


class _CheckedStream:
    """stdout, except that `write` and `flush` raise a CharlmError, or BrokenPipeError."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: str | bytes) -> int:
        """Write a text or bytes."""
        with self._errors():
            return int(self._stream.write(data))

    @property
    def buffer(self) -> "_CheckedStream":
        """The stream of bytes below a stream of text."""
        return _CheckedStream(self._stream.buffer)

    def flush(self) -> None:
        """Write what is in the buffer."""
        with self._errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            _discard(self._stream)
            raise
        except OSError as error:
            _discard(self._stream)
            raise CharlmError(
                f"stdout: cannot be written: {error.strerror}; write to another place"
            ) from None


def _discard(stream: Any) -> None:
    """Discard what a stream still holds: Python would try to write it again at the end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _cut(part: str, width: int) -> Iterator[str]:
    """Yield a word in pieces that fit on a line; anything else as it is."""
    start = columns = 0
    for end, character in enumerate(part):
        columns += 0 if character.isspace() else columns_of(character)
        if columns > width and end > start:
            yield part[start:end]
            start, columns = end, columns_of(character)
    yield part[start:]
