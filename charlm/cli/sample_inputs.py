"""Prompts and sources that `charlm sample` reads: arguments, files and standard input."""

import sys
from pathlib import Path

from charlm.errors import CharlmError, UnsupportedOptionError

_BYTE_ORDER_MARK = "\ufeff"  # Some editors begin a file with it.


def read_prompt(prompt: str, file: Path | None) -> str:
    """Return the prompt: an argument, standard input, or the contents of a file."""
    if file is None and prompt != "-":
        return prompt.removeprefix(_BYTE_ORDER_MARK)
    return _read_text(file or Path("-"), "prompt_file")


def read_sources(source: str | None, file: Path | None) -> list[str]:
    """Return the source, or the lines of a file.

    Raises:
        UnsupportedOptionError: A line of the file is empty.
    """
    if file is None:
        return [] if source is None else [source]
    # `splitlines` would also divide a source at characters such as U+2028.
    lines = _read_text(file, "source_file").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            problem = f"{file}: line {number} is empty and has no target; remove it"
            raise UnsupportedOptionError("source_file", problem)
    return [line.removesuffix("\r") for line in lines]


def _read_text(file: Path, option: str) -> str:
    """Return the contents of a file that is the value of an option; - is standard input."""
    data, name = _read_bytes(file, option)
    try:
        return data.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        what = option.removesuffix("_file")
        raise CharlmError(
            f"{name}: byte {error.start} of the {what} is not UTF-8; save the {what} as UTF-8"
        ) from None


def _read_bytes(file: Path, option: str) -> tuple[bytes, str]:
    """Return the bytes of a file, and its name for messages."""
    try:
        if file == Path("-"):
            return sys.stdin.buffer.read(), "stdin"
        return file.read_bytes(), str(file)
    except OSError as error:
        problem = f"{file}: cannot be read: {error.strerror}; name another file"
        raise UnsupportedOptionError(option, problem) from None
