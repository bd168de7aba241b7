"""Texts that a user gives as arguments."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from charlm.errors import OptionError

_MAX_PATH = 4096  # In characters.
_FILE_NAME = re.compile(
    r"\S+\.(txt|csv|tsv|json|jsonl|ndjson|parquet|gz|bz2|xz|zst)", re.IGNORECASE
)


def utf8_argument(text: str) -> str:
    """Return a command-line argument as UTF-8 text, also where the locale has no UTF-8.

    In the POSIX locale, Python represents each byte of a character outside ASCII by a lone
    surrogate. Bytes that are not UTF-8 stay as they are. Do not use it for a path, which Python
    encodes by the locale again.
    """
    if not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text


def refuse_file_name(option: str, text: object, remedy: str, *, others: Sequence[str] = ()) -> None:
    """Raise OptionError if a text is the name of a file, whose contents were probably meant.

    Args:
        option: Name of the option in Python.
        text: Value of the option; other types than texts and paths are not checked.
        remedy: How to give a file; `{}` stands for the name of another option.
        others: Names of the other options.
    """
    if isinstance(text, Path) or (isinstance(text, str) and _is_file_name(text)):
        problem = f"must be the text itself, not the name of a file; {remedy}"
        raise OptionError(option, problem, value=str(text), others=others)


def _is_file_name(text: str) -> bool:
    if len(text) > _MAX_PATH:
        return False
    with suppress(OSError, ValueError):  # The text is too long for a name, or cannot be one.
        return bool(_FILE_NAME.fullmatch(text)) or Path(text).is_file()
    return False
