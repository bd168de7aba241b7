r"""What is printed: results by `emit`, everything else by `say`; no text ever gives a terminal orders.

A model writes whatever it has learnt, and file names and titles are whatever someone chose: a control character among
them could move the cursor, change what was shown before, or make the terminal answer as if a person had typed. Where
a person looks on, such characters stand as `\x1b` or `\u202e`. A pipe or a file gets the text as it is.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

# C0 and C1 but for tab and line feed, and DEL; the marks that turn the direction of the text after them around, which
# can make it read as what it is not (Boucher and Anderson 2021, arXiv:2111.00169); separators that end a line.
_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)]
_TURNS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029]
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROLS} | {
    code: f"\\u{code:04x}" for code in _TURNS
}
_IN_JSON = {code: f"\\u{code:04x}" for code in (*_CONTROLS, *_TURNS)}


def printable(text: str) -> str:
    r"""Return a text in which what a terminal would take for orders stands as \x1b and the like."""
    return text.translate(_ESCAPES)


def emit(text: str = "", *, end: str = "\n", raw: bool = False) -> None:
    """Print a result on stdout: on a terminal without orders to it, unless `raw`; elsewhere as it is."""
    shown = text if raw or not sys.stdout.isatty() else printable(text)
    print(shown, end=end, flush=True)


def emit_json(value: Any, *, in_ascii: bool = True, raw: bool = False) -> None:
    """Print an object as a line of JSON, which it is on a terminal too: what would give orders stands as JSON says."""
    line = json.dumps(value, ensure_ascii=in_ascii)
    emit(line if raw or not sys.stdout.isatty() else line.translate(_IN_JSON), raw=True)


def emit_result(value: Mapping[str, Any], table: Iterable[str], *, as_json: bool) -> None:
    """Print what was found: as one object, or as a table for people."""
    if as_json:
        emit_json(value)
    else:
        emit("\n".join(table))


def say(text: str, bar: Any = None) -> None:
    """Print on stderr, which is for people, above a bar that is being shown."""
    if bar is not None and not bar.disable:
        bar.write(printable(text), file=sys.stderr)
    else:
        print(printable(text), file=sys.stderr, flush=True)
