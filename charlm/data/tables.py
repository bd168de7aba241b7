"""Packed files, and files of which a line or a row is a document: `.gz`, `.zst`, `.jsonl`, `.parquet`."""

import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from charlm.errors import CorpusError
from charlm.storage.untrusted import one_line

_ROWS = 1024  # Of a Parquet file, read together.
_LINE_BYTES = 1 << 26  # Of JSON, which takes up to 25 times as much as Python holds it.
Scalar = str | int | float | bool | None


def suffixes(path: Path) -> list[str]:
    """Return what a file's name says of how to read it, the outermost first: `.zst`, then `.jsonl`; none if plain."""
    known = [suffix for suffix in reversed(path.suffixes[-2:]) if suffix in (*_PACKED, *_TABLES)]
    return known if known[:1] == [path.suffix] else []


def is_table(path: Path) -> bool:
    """Return whether each line or row of a file is a document with fields."""
    return suffixes(path)[-1:] != [] and suffixes(path)[-1] in _TABLES


def opened(path: Path) -> BinaryIO:
    """Open a file to read its bytes, unpacked.

    Raises:
        CorpusError: It is packed in a way that takes an extra, which is missing.
        OSError: It cannot be read.
    """
    return _PACKED.get(path.suffix, _plain)(path)


def documents(path: Path, field: str, where: Mapping[str, Scalar]) -> Iterator[str]:
    """Yield the text of each document of a table.

    Args:
        path: `.jsonl` or `.parquet`, packed or not.
        field: The one that holds the text.
        where: Fields and what they must be for a document to be taken.

    Raises:
        CorpusError: A line is no JSON object, or a document that is taken has no such text.
        OSError: The file cannot be read.
    """
    for place, row in _TABLES[suffixes(path)[-1]](path, [field, *where]):
        if any(row.get(name) != value for name, value in where.items()):
            continue
        text = row.get(field)
        if not isinstance(text, str):
            has = one_line(", ".join(sorted(map(str, row))[:10])) or "nothing"
            raise CorpusError(
                f"{path}: {place} has no text in field {field!r}, but {type(text).__name__} (it has {has}); name "
                "another by --set corpus.field, or leave it out by corpus.where"
            )
        yield text


def _lines(path: Path, _fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    with opened(path) as file:
        number = 0
        while line := file.readline(_LINE_BYTES):
            number += 1
            if len(line) == _LINE_BYTES:
                raise CorpusError(
                    f"{path}: line {number} has 64 MiB or more; part it into several documents"
                )
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(
                    f"{path}: line {number} is no JSON: {error}; mend or remove it"
                ) from None
            if not isinstance(row, dict):
                raise CorpusError(
                    f"{path}: line {number} is {type(row).__name__}, not a JSON object; mend or remove it"
                )
            yield f"line {number}", row


def _rows(path: Path, fields: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    arrow, number = _arrow(path), 0
    parquet = import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in dict.fromkeys(fields) if name in file.schema_arrow.names]
            if fields[0] not in columns:
                columns = []  # What it has is told by a row of all.
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns or None):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (
        arrow.ArrowException,
        ValueError,
        LookupError,
        TypeError,
    ) as error:  # It has no kind of its own for damage.
        raise CorpusError(f"{path}: cannot be read as Parquet: {one_line(str(error))}") from None


def _plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _gzip(path: Path) -> BinaryIO:
    return gzip.open(path, "rb")  # type: ignore[return-value]


def _zstandard(path: Path) -> BinaryIO:
    stream: BinaryIO = io.BufferedReader(_arrow(path).CompressedInputStream(str(path), "zstd"))
    return stream


def _arrow(path: Path) -> Any:
    try:
        return import_module("pyarrow")
    except ImportError:
        raise CorpusError(
            f"{path}: needs pyarrow to be read, which is not installed: pip install 'charlm[corpora]'"
        ) from None


_PACKED: dict[str, Callable[[Path], BinaryIO]] = {".gz": _gzip, ".zst": _zstandard}
_TABLES: dict[str, Callable[[Path, list[str]], Iterator[tuple[str, dict[str, Any]]]]] = {
    ".jsonl": _lines,
    ".parquet": _rows,
}
