"""Prompts and sources that `charlm sample` reads: arguments, files and standard input."""

from pathlib import Path

from charlm.errors import UnsupportedOptionError
from charlm.evaluation.text_files import read_text_file

_BYTE_ORDER_MARK = "\ufeff"  # Some editors begin a file with it.
_REMEDY = "correct the path"


def read_prompt(prompt: str, file: Path | None) -> str:
    """Return the prompt: an argument, standard input, or the contents of a file."""
    if file is None and prompt != "-":
        return prompt.removeprefix(_BYTE_ORDER_MARK)
    return read_text_file(file or "-", remedy=_REMEDY)


def read_sources(source: str | None, file: Path | None) -> list[str]:
    """Return the source, or the lines of a file.

    Raises:
        UnsupportedOptionError: A line of the file is empty.
    """
    if file is None:
        return [] if source is None else [source]
    # `splitlines` would also divide a source at characters such as U+2028.
    lines = read_text_file(file, remedy=_REMEDY).removesuffix("\n").split("\n")
    place = "standard input" if file == Path("-") else file
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            problem = f"{place}: line {number} is empty and has no target; remove it"
            raise UnsupportedOptionError("source_file", problem)
    return [line.removesuffix("\r") for line in lines]
