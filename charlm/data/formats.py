"""Formats of files: compressed files and tables, by their names; other files, by their first bytes.

A file without a known suffix is recognized by its first bytes, so that a compressed text is read
also from standard input, and a document of an office program is refused by its name.
"""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from charlm.errors import CorpusError
from charlm.version import install_hint

TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
PAIR_TABLES = (".conll",)  # Tables of pairs; in other runs they are plain text.
# Suffixes that rules 1 of `corpus.rules` know.
_SUFFIXES_OF_RULES_1 = (".gz", ".zst", ".jsonl", ".parquet")
_FIRST_BYTES = 16
_COMPRESSED = {
    b"\x1f\x8b\x08": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
}
_BZIP2_BLOCK = b"\x31\x41\x59\x26\x53\x59"  # It follows "BZh" and a digit.
_SAVE_AS_TEXT = "open it and save it as plain text in UTF-8"
UNPACK = "unpack it and give its files or its folder"
_NOT_TEXT = {
    b"%PDF-": ("a PDF document", _SAVE_AS_TEXT),
    b"{\\rtf": ("an RTF document", _SAVE_AS_TEXT),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("a document of Microsoft Office", _SAVE_AS_TEXT),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", UNPACK),
    b"\x89PNG\r\n": ("a PNG image", "give a text"),
    b"\xff\xd8\xff": ("a JPEG image", "give a text"),
}
_ZIP = b"PK\x03\x04"
# Documents that are zip archives, by the beginning of the name of a member.
_ZIPPED_DOCUMENTS = {
    "word/": "a Word document (.docx)",
    "xl/": "an Excel workbook (.xlsx)",
    "ppt/": "a PowerPoint presentation (.pptx)",
    "META-INF/container.xml": "an e-book (.epub)",
    "content.xml": "an OpenDocument file (.odt)",
}


@dataclass(frozen=True)
class Source:
    """A file to read.

    Attributes:
        path: Path of the file.
        name: Name of the file in messages: its path, or "standard input".
        compression: Suffix of its compression, such as ".gz"; empty without one.
        table: Suffix of the kind of table, such as ".jsonl"; empty for a text.
    """

    path: Path
    name: str
    compression: str = ""
    table: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether the bytes of the file are those of the text."""
        return not self.compression and not self.table

    def open(self) -> BinaryIO:
        """Open the file for reading its decompressed bytes.

        Raises:
            CorpusError: The compression needs an extra that is not installed.
            OSError: The file cannot be read.
        """
        return _DECOMPRESSORS.get(self.compression, _open_plain)(self.path)


def find_format(path: Path, name: str, *, rules: int, raw: bool, pairs: bool = False) -> Source:
    """Return a file with its format.

    Args:
        path: Path of the file.
        name: Name of the file in messages.
        rules: Value of `corpus.rules`.
        raw: Whether the text is any bytes; then only the name of the file decides.
        pairs: Whether the records are pairs.

    Raises:
        CorpusError: The file is a document or an archive that charlm does not read.
        OSError: The file cannot be read.
    """
    tables = (*TABLES, *PAIR_TABLES) if pairs else TABLES
    known = _SUFFIXES_OF_RULES_1 if rules == 1 else (*_DECOMPRESSORS, *tables)
    *inner, last = [suffix.lower() if rules > 1 else suffix for suffix in ["", "", *path.suffixes]]
    last = last if last in known else ""
    compression = last if last in _DECOMPRESSORS else ""
    table = inner[-1] if compression and inner[-1] in known else last
    table = table if table in tables else ""
    if rules > 1 and not raw and not compression and table != ".parquet":
        compression = _compression_by_contents(path, name)
    return Source(path, name, compression, table)


def _compression_by_contents(path: Path, name: str) -> str:
    """Return the suffix of a compression, by the first bytes; empty for any other contents."""
    with path.open("rb") as file:
        first = file.read(_FIRST_BYTES)
    for mark, (kind, remedy) in _NOT_TEXT.items():
        if first.startswith(mark):
            raise CorpusError(f"{name}: is {kind}, not text; {remedy}")
    if first.startswith(_ZIP):
        raise _zip_error(path, name)
    compression = next((kind for mark, kind in _COMPRESSED.items() if first.startswith(mark)), "")
    is_bzip2 = first[4:10] == _BZIP2_BLOCK
    return "" if compression == ".bz2" and not is_bzip2 else compression


def _zip_error(path: Path, name: str) -> CorpusError:
    """Return an error that names the kind of a zip archive."""
    members: list[str] = []
    # The module raises almost anything for a damaged archive.
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    for beginning, kind in _ZIPPED_DOCUMENTS.items():
        if any(member.startswith(beginning) for member in members):
            return CorpusError(f"{name}: is {kind}, not text; {_SAVE_AS_TEXT}")
    return CorpusError(f"{name}: is a zip archive; {UNPACK}")


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_gzip(path: Path) -> BinaryIO:
    return gzip.open(path, "rb")  # type: ignore[return-value]


def _open_bzip2(path: Path) -> BinaryIO:
    return bz2.open(path, "rb")  # type: ignore[return-value]


def _open_xz(path: Path) -> BinaryIO:
    return lzma.open(path, "rb")  # type: ignore[return-value]


def _open_zstandard(path: Path) -> BinaryIO:
    compressed = import_arrow(str(path)).CompressedInputStream(str(path), "zstd")
    stream: BinaryIO = io.BufferedReader(compressed)
    return stream


def import_arrow(name: str) -> Any:
    """Return the module pyarrow, which reads a file of this name."""
    try:
        return import_module("pyarrow")
    except ImportError:
        raise CorpusError(
            f"{name}: needs pyarrow, which is not installed: {install_hint('corpora')}"
        ) from None


_DECOMPRESSORS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": _open_gzip,
    ".bz2": _open_bzip2,
    ".xz": _open_xz,
    ".zst": _open_zstandard,
}
