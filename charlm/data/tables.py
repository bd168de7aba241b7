"""Compressed files (`.gz`, `.zst`) and tables with a document per row (`.jsonl`, `.parquet`)."""

import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from charlm.errors import CorpusError
from charlm.storage.untrusted import one_line
from charlm.version import install_hint

_BATCH_ROWS = 1024  # Rows of a Parquet file that are read together.
_MAX_LINE_BYTES = 1 << 26  # A parsed line takes up to 25 times as much memory.
Scalar = str | int | float | bool | None


class _Row(NamedTuple):
    """A row of a table: its place for messages, such as "line 3", and its fields."""

    place: str
    fields: dict[str, Any]


def format_suffixes(path: Path) -> list[str]:
    """Return the suffixes that decide how a file is read, the outermost first.

    They are none for plain text, and `[".zst", ".jsonl"]` for `a.jsonl.zst`.
    """
    formats = (*_DECOMPRESSORS, *_TABLE_READERS)
    known = [suffix for suffix in reversed(path.suffixes[-2:]) if suffix in formats]
    return known if known[:1] == [path.suffix] else []


def is_table(path: Path) -> bool:
    """Return whether every line or row of a file is a document with fields."""
    return any(suffix in _TABLE_READERS for suffix in format_suffixes(path)[-1:])


def open_decompressed(path: Path) -> BinaryIO:
    """Open a file for reading its decompressed bytes.

    Raises:
        CorpusError: The compression needs an extra that is not installed.
        OSError: The file cannot be read.
    """
    return _DECOMPRESSORS.get(path.suffix, _open_plain)(path)


def read_documents(path: Path, field: str, where: Mapping[str, Scalar]) -> Iterator[str]:
    """Yield the text of each document of a table.

    Args:
        path: A `.jsonl` or `.parquet` file, compressed or not.
        field: Name of the field that contains the text.
        where: Fields and the values that they must have; other rows are skipped.

    Raises:
        CorpusError: A line is not a JSON object, or a selected row has no text in `field`.
        OSError: The file cannot be read.
    """
    read_rows = _TABLE_READERS[format_suffixes(path)[-1]]
    for row in read_rows(path, [field, *where]):
        if any(row.fields.get(name) != value for name, value in where.items()):
            continue
        text = row.fields.get(field)
        if not isinstance(text, str):
            names = one_line(", ".join(sorted(map(str, row.fields))[:10])) or "none"
            raise CorpusError(
                f"{path}: {row.place}: field {field!r} must be text, got {type(text).__name__} "
                f"(the fields are {names}); name another field with --set corpus.field, or skip "
                "the row with corpus.where"
            )
        yield text


def _read_json_lines(path: Path, _fields: list[str]) -> Iterator[_Row]:
    with open_decompressed(path) as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES):
            number += 1
            if len(line) == _MAX_LINE_BYTES:
                raise CorpusError(
                    f"{path}: line {number} has 64 MiB or more; split it into several documents"
                )
            if line.strip():
                yield _Row(f"line {number}", _parse_object(line, f"{path}: line {number}"))


def _parse_object(line: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{place} is not JSON: {error}; correct or remove it") from None
    if not isinstance(value, dict):
        raise CorpusError(
            f"{place} must be a JSON object, got {type(value).__name__}; correct or remove it"
        )
    return value


def _read_parquet(path: Path, fields: list[str]) -> Iterator[_Row]:
    arrow = _import_arrow(path)
    parquet = import_module("pyarrow.parquet")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in dict.fromkeys(fields) if name in file.schema_arrow.names]
            if fields[0] not in columns:
                columns = []  # Read all columns, so that the error can list their names.
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns or None):
                for row in batch.to_pylist():
                    number += 1
                    yield _Row(f"row {number}", row)
    except (
        arrow.ArrowException,  # pyarrow has no exception of its own for damaged files.
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        raise CorpusError(f"{path}: cannot be read as Parquet: {one_line(str(error))}") from None


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_gzip(path: Path) -> BinaryIO:
    return gzip.open(path, "rb")  # type: ignore[return-value]


def _open_zstandard(path: Path) -> BinaryIO:
    compressed = _import_arrow(path).CompressedInputStream(str(path), "zstd")
    stream: BinaryIO = io.BufferedReader(compressed)
    return stream


def _import_arrow(path: Path) -> Any:
    try:
        return import_module("pyarrow")
    except ImportError:
        raise CorpusError(
            f"{path}: needs pyarrow, which is not installed: {install_hint('corpora')}"
        ) from None


_DECOMPRESSORS: dict[str, Callable[[Path], BinaryIO]] = {
    ".gz": _open_gzip,
    ".zst": _open_zstandard,
}
_TABLE_READERS: dict[str, Callable[[Path, list[str]], Iterator[_Row]]] = {
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
