"""What options have in common: the types that several commands share, their ranges, and what is wrong usage of them."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

MOST = 10**9  # Of whatever is counted: more is a slip of the finger.
MOST_BESIDE = 10**6  # Of what stands side by side in memory.
MOST_PROCESSES = 1024  # On one machine.
MOST_SEED = 2**63 - 1  # The largest that every generator takes.
_Text = TypeVar("_Text", str, list[str])
# Options of the command line that are not spelled as in Python.
_FLAGS = {"as_json": "--json", "no_repeat_ngram": "--no-repeat", "overrides": "--set"}


def flag(option: str) -> str:
    """Return an option as the command line spells it: `--max-copy` for `max_copy`."""
    return _FLAGS.get(option, f"--{option.replace('_', '-')}")


def as_path(text: str) -> Path:
    """Return a path; that of no name at all would be the folder that one is in."""
    if not text:
        raise typer.BadParameter("must not be empty")
    return Path(text)


def as_target(text: str) -> Path:
    """Return the path of a file to be written, which no folder can be: told before the work is done, not after."""
    path = as_path(text)
    if path.is_dir():
        raise typer.BadParameter(f"{text} is a folder; name a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise typer.BadParameter(f"{above} is no folder, so that nothing can be put in it")
    return path


def at_most(most: int) -> Callable[[int | None], int | None]:
    """Return what refuses a number above `most`: a limit for slips of the finger, of which the help need not speak."""

    def check(value: int | None) -> int | None:
        if value is not None and value > most:
            raise typer.BadParameter(f"must be at most {most:,}, got {value:,}")
        return value

    return check


def finite(value: float | None) -> float | None:
    """Refuse infinity and what is no number."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"must be a finite number, got {value}")
    return value


def above_zero(value: float | None) -> float | None:
    """Refuse what is not a finite number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"must be a finite number above 0, got {value}")
    return value


def unicode_text(value: _Text | None) -> _Text | None:
    """Refuse bytes that a shell passed on though they are not UTF-8: they come as lone surrogates."""
    for text in [value] if isinstance(value, str) else value or []:
        if odd := next((letter for letter in text if "\ud800" <= letter <= "\udfff"), None):
            raise typer.BadParameter(
                f"is not UTF-8: byte 0x{ord(odd) & 0xFF:02x} after {text[: text.index(odd)]!r}"
            )
    return value


def some_text(value: _Text | None) -> _Text | None:
    """Refuse an empty text, and what is not UTF-8."""
    if value is not None and not all([value] if isinstance(value, str) else value):
        raise typer.BadParameter("must not be empty")
    return unicode_text(value)


def not_empty(value: _Text | None) -> _Text | None:
    """Refuse an empty name."""
    if value is not None and not all([value] if isinstance(value, str) else value):
        raise typer.BadParameter("must not be empty")
    return value


def study_name(value: str | None) -> str | None:
    """Refuse what no search is called."""
    if value is not None and not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", value):
        raise typer.BadParameter("must be 1 to 100 letters a to z, digits, dots, - and _")
    return value


def known_device(value: str | None) -> str | None:
    """Refuse what names no device; whether it is there is another matter."""
    if value is not None and not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", value):
        raise typer.BadParameter(f"must be auto, cpu, cuda or cuda:N, got {value!r}")
    return value


def refuse_beside(option: str, others: Sequence[str], reason: str) -> None:
    """Refuse options that were given beside another one.

    Raises:
        BadParameter: There are any.
    """
    if others:
        raise typer.BadParameter(
            f"cannot be given with {option}, {reason}", param_hint=", ".join(others)
        )


Folder = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", parser=as_path, help="Run folder. [the newest under runs/]"),
]
Device = Annotated[
    str,
    typer.Option(
        callback=known_device, help="auto, cpu, cuda, or cuda:N, whichever it was trained on."
    ),
]
Which = Annotated[
    Literal["best", "last"],
    typer.Option("--checkpoint", help="Best by validation loss, or the last."),
]
Split = Annotated[
    Literal["train", "valid", "test"],
    typer.Option(help="With no TEXT: this part of the run's own corpus."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
