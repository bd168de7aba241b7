"""Reading UTF-8 text from files or standard input."""

import sys
from pathlib import Path

from charlm.data.encodings import likely_encoding
from charlm.errors import CorpusError


def read_text_file(path: str | Path, *, remedy: str) -> str:
    """Return the text of a UTF-8 file without its byte order mark.

    Args:
        path: Path of the file; `-` is standard input.
        remedy: Advice for a file that cannot be read.

    Raises:
        CorpusError: The file cannot be read, or is not UTF-8.
    """
    name = "standard input" if str(path) == "-" else str(path)
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except OSError as error:
        raise CorpusError(f"{name}: cannot be read: {error.strerror}; {remedy}") from None
    return decode_utf8(data, name)


def decode_utf8(data: bytes, name: str) -> str:
    """Return UTF-8 text without its byte order mark; `name` is the place in the error message.

    Raises:
        CorpusError: The bytes are not UTF-8.
    """
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        likely = likely_encoding(data)
        guess = f"it looks like {likely}; " if likely else ""
        raise CorpusError(
            f"{name}: byte {error.start} ({byte}) is not UTF-8; {guess}save the text as UTF-8"
        ) from None
