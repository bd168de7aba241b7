r"""`charlm sample --interactive`: the person writes a line, the model goes on, they edit, it goes on.

What it says of itself goes to stderr; the text alone to stdout.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import FrameType
from typing import TYPE_CHECKING

from charlm.cli.terminal import emit, say
from charlm.errors import CharlmError

if TYPE_CHECKING:  # They import torch.
    from charlm.api import Run
    from charlm.sampling.generator import Settings
    from charlm.sampling.saved_state import GenerationState
    from charlm.sampling.text_stream import StopCondition

_HELP = """\
A line of yours, and the model goes on from it; an empty line, and it just goes on. \\n in a line breaks it.
  /r               write the last turn again, otherwise
  /u               undo the last turn, your line and what followed
  /t               show the whole text
  /s               show the settings
  /NAME VALUE      change one, such as /temperature 0.7, /length 100, /until ., /top-p off
  /q or Ctrl-D     quit
  //...            a line that begins with a slash
Ctrl-C stops the writing."""
_WHOLE_NUMBERS = ("top_k", "repetition_window", "no_repeat_ngram", "length", "characters")
_LINE_BREAK = "\\n"
_TAIL = 300  # Characters of the text that undoing shows.


@dataclass(frozen=True)
class _Turn:
    line: str
    text: str  # The line and what the model added.
    before: "GenerationState | None"
    after: "GenerationState"


class Conversation:
    """A text that a person and a model write in turns."""

    def __init__(
        self,
        run: "Run",
        *,
        settings: "Settings",
        ending: "StopCondition",
        ban: Sequence[str],
        seed: int,
        allow_unknown: bool,
        raw: bool,
    ) -> None:
        """Begin with no text; arguments as for `Run.begin_text`, and `raw`: whether a terminal takes orders of it."""
        self._run, self._settings, self._ending, self._ban = run, settings, ending, ban
        self._seed, self._allow_unknown, self._raw = seed, allow_unknown, raw
        self._turns: list[_Turn] = []
        self._commands: dict[str, Callable[[], None]] = {
            "/r": self._retry,
            "/u": self._undo,
            "/t": self._tell,
            "/s": self._tell_settings,
            "/h": _help,
        }

    def take(self, line: str) -> bool:
        """Do what a line asks for; return whether to go on.

        Raises:
            CharlmError: A value is out of its range, the line is not of the model's alphabet, or nothing can follow.
        """
        if line in ("/q", "/quit"):
            return False
        if not line.startswith("/") or line.startswith("//"):
            self._write(line[line.startswith("//") :].replace(_LINE_BREAK, "\n"))
        elif line in self._commands:
            self._commands[line]()
        else:
            self._set(*line[1:].partition(" ")[::2])
        return True

    def _write(self, line: str) -> None:
        before = self._turns[-1].after if self._turns else None
        if before is not None and before.ended:
            before = None  # The next record.
        texts = self._run.begin_text(
            prompt=line,
            ending=self._ending,
            ban=self._ban,
            settings=self._settings,
            seed=self._seed,
            allow_unknown=self._allow_unknown,
            place=before,
        )
        (telling,) = texts.tellings
        self._print(telling.new())
        with _interruptions() as interrupted:
            while not interrupted() and texts.advance():
                self._print(telling.new())
        emit()
        self._turns.append(
            _Turn(line, telling.chapter, before, texts.writing.place(len(telling.text)))
        )

    def _retry(self) -> None:
        if self._dropped():
            self._seed += 1
            self._write(self._last.line)

    def _undo(self) -> None:
        if self._dropped():
            self._tell(_TAIL)

    def _dropped(self) -> bool:
        if not self._turns:
            say("there is no turn yet; write a line")
            return False
        self._last = self._turns.pop()
        return True

    def _tell(self, tail: int = 0) -> None:
        text = "".join(
            ("\n" if turn.before is None and number else "") + turn.text
            for number, turn in enumerate(self._turns)
        )
        self._print(("..." if tail and len(text) > tail else "") + text[-tail:] + "\n")

    def _tell_settings(self) -> None:
        known = asdict(self._settings) | asdict(self._ending)
        say(
            ", ".join(
                f"{name.replace('_', '-')} {value}"
                for name, value in known.items()
                if value not in (None, ())
            )
        )

    def _set(self, option: str, value: str) -> None:
        name = option.replace("-", "_")
        owner = next(
            (one for one in ("_settings", "_ending") if name in _names(getattr(self, one))), None
        )
        if owner is None:
            raise CharlmError(f"/{option}: no such command or setting; /h lists them")
        setattr(self, owner, replace(getattr(self, owner), **{name: _value(name, value)}))
        self._tell_settings()

    def _print(self, text: str) -> None:
        emit(text, end="", raw=self._raw)


def converse(conversation: Conversation) -> None:
    """Take lines from stdin until there are no more, or /q."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - what makes a line of `input` one that can be edited
    say("write a line, and the model goes on; /h is help, /q or Ctrl-D quits")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            emit()
            return
        except KeyboardInterrupt:
            say("\n/q or Ctrl-D quits")
            continue
        try:
            if not conversation.take(line):
                return
        except CharlmError as error:
            say(str(error))


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a request to stop after the token."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


def _names(settings: "Settings | StopCondition") -> set[str]:
    return {field.name for field in fields(settings)}


def _value(name: str, text: str) -> float | int | tuple[str, ...] | None:
    if name == "until":
        return () if text in ("", "off") else (text.replace(_LINE_BREAK, "\n"),)
    if text in ("off", "none"):
        return 1.0 if name == "temperature" else None
    try:
        return int(text) if name in _WHOLE_NUMBERS else float(text)
    except ValueError:
        raise CharlmError(
            f"/{name.replace('_', '-')}: must be a number, or off; got {text!r}"
        ) from None


def _help() -> None:
    say(_HELP)
