r"""`charlm sample --interactive`: the user writes a line, and the model continues it, in turns.

Messages go to stderr, the text to stdout.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from types import FrameType
from typing import TYPE_CHECKING, Any

from charlm.cli.options import flag
from charlm.cli.terminal import TextWriter, emit, say
from charlm.errors import CharlmError, OptionError, quote
from charlm.sampling.options import Filters, SampleOptions, StopCondition

if TYPE_CHECKING:  # They import torch.
    from charlm.sampling.saved_state import GenerationState
    from charlm.trained_model import TrainedModel

_HELP = """\
Type a line, and the model continues it. After an empty line the model continues its own text.
\\n in a line is a line break.
  /r               write the last turn again with another seed
  /u               undo the last turn, your line and its continuation
  /t               show the whole text
  /s               show the settings
  /NAME VALUE      change a setting: /temperature 0.7, /length 100, /until ., /top-p off
  /q or Ctrl-D     quit
  //...            a line that begins with a slash
Ctrl-C stops the writing.
Settings: """
_FILTERS = [field.name for field in fields(Filters) if field.name != "logit_bias"]
_STOPS = [field.name for field in fields(StopCondition) if field.name != "includes_until"]
_SETTINGS = [*_FILTERS, *_STOPS]
_OPTIONS = {flag(name): name for name in _SETTINGS}
_WHOLE_NUMBERS = ("top_k", "repetition_window", "no_repeat_ngram", "length", "characters")
_QUIT = ("/q", "/quit")
_LINE_BREAK = "\\n"
_TAIL_LENGTH = 300  # Characters of the text that /u shows.


@dataclass(frozen=True)
class _Turn:
    """One turn of a conversation.

    Attributes:
        line: Line of the user.
        text: Line and continuation.
        before: State before the line; None at the beginning of a text.
        after: State after the continuation.
    """

    line: str
    text: str
    before: "GenerationState | None"
    after: "GenerationState"


class Conversation:
    """A text that the user and a model write in turns.

    Attributes:
        options: How the next turn is sampled.
    """

    def __init__(self, trained: "TrainedModel", options: SampleOptions, *, raw: bool) -> None:
        """Begin with no text.

        Args:
            trained: Model that writes.
            options: How the first turn is sampled, with a seed.
            raw: Whether control characters are printed unescaped on a terminal.

        Raises:
            UnsupportedOptionError: The model can never write a text to stop at, or a banned text.
        """
        self.options = options
        self._trained = trained
        self._refuse_unwritable(options.stop)
        self._raw = raw
        self._turns: list[_Turn] = []
        self._commands: dict[str, Callable[[], None]] = {
            "/r": self._retry,
            "/u": self._undo,
            "/t": self._show_text,
            "/s": self._show_settings,
            "/h": _show_help,
        }

    def take(self, line: str) -> bool:
        """Execute a command, or continue a line; return whether the conversation goes on.

        Raises:
            CharlmError: The command or its value is wrong, the line has unknown characters, or no
                token may follow it.
        """
        command, _, value = line.partition(" ")
        if line in _QUIT:
            return False
        if not line.startswith("/") or line.startswith("//"):
            self._write(line[line.startswith("//") :].replace(_LINE_BREAK, "\n"))
        elif line in self._commands:
            self._commands[line]()
        elif command in (*self._commands, *_QUIT):
            raise OptionError(command, "is a command without a value; leave it out", value=value)
        else:
            self._set(command.removeprefix("/"), value)
        return True

    def _write(self, line: str) -> None:
        from charlm.sampling.sample import begin_text

        before = self._turns[-1].after if self._turns else None
        if before is not None and before.ended:
            before = None  # The line begins the next record.
        texts = begin_text(self._trained, replace(self.options, prompt=line, state_in=before))
        (stream,) = texts.streams
        writer = TextWriter(raw=self._raw)
        writer.write(stream.new_text())
        with _interruptions() as interrupted:
            while not interrupted() and texts.step():
                writer.write(stream.new_text())
        writer.finish()
        emit()
        after = texts.generator.generation_state(len(stream.text))
        self._turns.append(_Turn(line, stream.continuation, before, after))

    def _retry(self) -> None:
        turn = self._drop_turn()
        if turn is not None:
            seed = self.options.seed
            self.options = replace(self.options, seed=1 if seed is None else seed + 1)
            self._write(turn.line)

    def _undo(self) -> None:
        if self._drop_turn() is not None:
            self._show_text(_TAIL_LENGTH)

    def _drop_turn(self) -> _Turn | None:
        if not self._turns:
            say("there is no turn yet; type a line")
            return None
        return self._turns.pop()

    def _show_text(self, max_length: int | None = None) -> None:
        text = "".join(
            ("\n" if turn.before is None and number else "") + turn.text
            for number, turn in enumerate(self._turns)
        )
        if not text:
            say("the text is empty; type a line")
            return
        if max_length is not None and len(text) > max_length:
            text = f"...{text[-max_length:]}"
        writer = TextWriter(raw=self._raw)
        writer.write(f"{text}\n")
        writer.finish()

    def _show_settings(self) -> None:
        values = asdict(self.options.filters) | asdict(self.options.stop)
        say(
            ", ".join(
                f"{_setting(name)} {_format_value(values[name])}"
                for name in _SETTINGS
                if values[name] not in (None, ())
            )
        )

    def _set(self, option: str, value: str) -> None:
        name = _OPTIONS.get(f"--{option}", option.replace("-", "_"))
        change: dict[str, Any] = {name: _parse_value(name, value)}
        if name in _FILTERS:
            self.options = replace(self.options, filters=replace(self.options.filters, **change))
        else:
            stop = replace(self.options.stop, **change)
            self._refuse_unwritable(stop)
            self.options = replace(self.options, stop=stop)
        self._show_settings()

    def _refuse_unwritable(self, stop: StopCondition) -> None:
        from charlm.sampling.prompts import refuse_unwritable

        ban, allow_unknown = self.options.constraints.ban, self.options.allow_unknown
        refuse_unwritable(self._trained, stop, ban, allow_unknown=allow_unknown)


def converse(conversation: Conversation) -> None:
    """Take lines from stdin until its end, or /q."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - it lets the user edit a line of `input`.
    say("type a line, and the model continues it; /h is help, /q or Ctrl-D quits")
    while True:
        try:
            line = input("> " if sys.stdin.isatty() and sys.stdout.isatty() else "")
        except EOFError:
            emit()
            return
        except KeyboardInterrupt:
            say("\n/q or Ctrl-D quits")
            continue
        try:
            _check_utf8(line)
            if not conversation.take(line):
                return
        except OptionError as error:
            say(error.message(option_name))
        except CharlmError as error:
            say(str(error))


def _check_utf8(line: str) -> None:
    """Raise CharlmError for bytes that are not UTF-8, which are lone surrogates in Python."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) & 0xFF
        raise CharlmError(f"the line is not UTF-8: byte 0x{byte:02x}; type it again") from None


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C into a request to stop after the next token."""
    requests: list[int] = []

    def request(number: int, frame: FrameType | None) -> None:
        requests.append(number)

    before = signal.signal(signal.SIGINT, request)
    try:
        yield lambda: bool(requests)
    finally:
        signal.signal(signal.SIGINT, before)


def option_name(option: str) -> str:
    """Return how a user gives an option: `/top-p` for `top_p`, `--allow-unknown` at the start."""
    if option == "prompt":
        return "the line"
    if option.startswith("/"):
        return option
    return flag(option).replace("--", "/", 1) if option in _SETTINGS else flag(option)


def _parse_value(name: str, text: str) -> float | int | tuple[str, ...] | None:
    """Return the value of a setting.

    Raises:
        CharlmError: There is no such setting, or it is no number.
    """
    if name not in _SETTINGS:
        raise CharlmError(_describe_unknown(name.replace("_", "-")))
    if name == "until":
        return () if text in ("", "off") else (text.replace(_LINE_BREAK, "\n"),)
    if text in ("off", "none"):
        return 1.0 if name == "temperature" else None
    try:
        return int(text) if name in _WHOLE_NUMBERS else float(text)
    except ValueError:
        number = "a whole number" if name in _WHOLE_NUMBERS else "a number"
        raise OptionError(name, f"must be {number}, or off", value=text) from None


def _setting(name: str) -> str:
    return flag(name).removeprefix("--")


def _format_value(value: Any) -> str:
    """Return a value as /s shows it."""
    return ", ".join(map(quote, value)) if isinstance(value, tuple) else str(value)


def _describe_unknown(name: str) -> str:
    near = get_close_matches(name, map(_setting, _SETTINGS), n=1)
    suggestion = f" (nearest: /{near[0]})" if near else ""
    return f"/{name}: no such command or setting{suggestion}; /h lists them"


def _show_help() -> None:
    say(f"{_HELP}{', '.join(map(_setting, _SETTINGS))}")
