"""Names, paths, folders, globs, compressed files, tables and standard input → plain files.

A plain file is UTF-8 that has been checked, or any bytes. A file of UTF-8 is read where it is; any
other file is converted once and kept in the cache.
"""

import codecs
import hashlib
import json
import lzma
import os
import shlex
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import ResolvedCorpus
from charlm.data.cards import cache_folder, converted_folder
from charlm.data.encodings import canonical_encoding, raw_blocks, utf8_blocks
from charlm.data.formats import TABLES, Source, find_format
from charlm.data.listing import find_files, shown_name, shown_names
from charlm.data.progress import current_listener
from charlm.data.tables import PairFields, field_names, read_documents
from charlm.data.utf8 import count_characters
from charlm.errors import CorpusError, counted
from charlm.storage.atomic import atomic_write
from charlm.storage.memory_maps import translate_read_errors
from charlm.storage.untrusted import one_line, parse_json

FORMAT = 2
# Reading a file of at least this size takes a while, so its properties are kept in the cache.
_MIN_CACHED_BYTES = 1 << 24


@dataclass(frozen=True)
class PlainFile:
    """A file of UTF-8, or of any bytes.

    Attributes:
        path: Path of the file.
        size: Number of bytes.
        sha256: Checksum of the contents.
        ends: Offset after the last byte of each document, (documents,): a row of a table, or the
            whole file.
    """

    path: Path
    size: int
    sha256: str
    ends: npt.NDArray[np.int64]


def are_tables(names: Sequence[str], *, rules: int, pairs: bool = False) -> bool:
    """Return whether all files of the names are tables; False if they cannot be found.

    Args:
        names: Names of the texts.
        rules: Value of `corpus.rules`.
        pairs: Whether the records are pairs.
    """
    try:
        formats = (
            find_format(path, str(path), rules=rules, raw=False, pairs=pairs)
            for path in find_files(names, rules=rules)
        )
        return all(source.table for source in formats)
    except (CorpusError, OSError):  # It is raised again where the text is opened.
        return False


def first_field_names(names: Sequence[str], *, rules: int, encoding: str) -> list[str]:
    """Return the names of the fields of the first table of names.

    Raises:
        CorpusError: The table cannot be read, or is empty.
    """
    path = find_files(names, rules=rules)[0]
    with translate_read_errors(path):
        source = find_format(path, shown_name(path), rules=rules, raw=False, pairs=True)
        return field_names(source, encoding=encoding)


def open_plain_files(names: Sequence[str], section: ResolvedCorpus, raw: bool) -> list[PlainFile]:
    """Return the plain files of names, paths, folders and globs, in a stable order.

    Args:
        names: Names of the texts.
        section: Encoding, table fields and rules.
        raw: Whether to read any bytes instead of text.

    Raises:
        CorpusError: A file is missing or is not text, or there are less than two characters.
    """
    sources = list(find_sources(names, section, raw))
    current_listener().begin(f"reading {counted(len(sources), 'file')}")
    files = [file for source in sources if (file := _open_plain_file(source, section, raw)).size]
    size = sum(file.size for file in files)
    if size <= 4 and not raw:  # A single character has at most four bytes.
        size = sum(count_characters(file.path.read_bytes()) for file in files)
    check_size(size, shown_names(names))
    return files


def check_size(size: int, name: str) -> None:
    """Raise CorpusError for a text of less than two characters; `name` is the place."""
    if size < 2:
        problem = "is empty" if size == 0 else "has a single character"
        raise CorpusError(
            f"{name}: {problem}; give at least two characters to score, a few hundred to train on"
        )


def find_sources(names: Sequence[str], section: ResolvedCorpus, raw: bool) -> Iterator[Source]:
    """Yield the files of names with their formats; arguments as for `open_plain_files`.

    Raises:
        CorpusError: A file is missing, or has a format that charlm does not read.
    """
    for path in find_files(names, rules=section.rules):
        with translate_read_errors(path):
            try:
                name = shown_name(path)
                pairs = section.target is not None
                source = find_format(path, name, rules=section.rules, raw=raw, pairs=pairs)
            except CorpusError as error:
                if path in map(Path, names):
                    raise
                folder = next((name for name in names if Path(name) in path.parents), path.parent)
                pattern = shlex.quote(shown_name(Path(folder, "**", "*.txt")))
                raise CorpusError(f"{error}, or leave it out, with {pattern}") from None
        yield source


def check_effects(section: ResolvedCorpus, raw: bool) -> None:
    """Raise CorpusError if a setting for tables or for encoded text has no effect on any file."""
    encoding = "" if canonical_encoding(section.encoding) == "utf-8" else section.encoding
    is_set = {"field": section.field, "where": section.where, "encoding": encoding}
    is_set |= {"source": section.source, "target": section.target}
    if section.rules == 1 or not any(is_set.values()):
        return
    names = [*section.text, *(section.valid_text or ()), *(section.test_text or ())]
    tables = {source.table for source in find_sources(names, section, raw)}
    if encoding and (raw or not tables - {".parquet"}) and not tables - {"", ".parquet"}:
        kind = "Parquet" if tables == {".parquet"} else "any bytes at tokenizer.level=byte"
        raise CorpusError(
            f"corpus.encoding: has no effect, because the text is read as {kind}, got "
            f"{encoding!r}; remove it"
        )
    for field in ("field", "where", "source", "target"):
        if is_set[field] and not any(tables):
            raise CorpusError(
                f"corpus.{field}: has no effect, because no text is a table "
                f"({', '.join(TABLES)}), got {is_set[field]!r}; remove it"
            )


def _open_plain_file(source: Source, section: ResolvedCorpus, raw: bool) -> PlainFile:
    """Return a file as a plain file, from the cache if it was converted or checked before."""
    with translate_read_errors(source.path):
        status = source.path.stat()
        is_plain = source.is_plain and (raw or _is_plain_utf8(source.path, section.encoding))
    cached = _cache_path(source, status, section, raw)
    plain_path = source.path if is_plain else cached.with_suffix(".txt")
    is_large = status.st_size >= _MIN_CACHED_BYTES
    if is_large and (known := _load_properties(plain_path, cached)):
        return known
    file = _convert(source, plain_path, section, raw)
    if is_large:
        _save_properties(file, cached)
    return file


def _cache_path(source: Source, status: os.stat_result, section: ResolvedCorpus, raw: bool) -> Path:
    """Return where the cache keeps a file, without suffix; it depends on size, time and options."""
    key = [FORMAT, str(source.path.absolute()), status.st_size, status.st_mtime_ns]
    key += [source.compression, source.table, section.rules, section.encoding, raw]
    if source.table:
        key += [section.field, section.where]
    if source.table and section.target:
        key += [section.source, section.target]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    kept = cache_folder() / "texts" / name
    return kept if kept.with_suffix(".json").exists() else converted_folder() / name


def _convert(source: Source, plain_path: Path, section: ResolvedCorpus, raw: bool) -> PlainFile:
    """Check a file, and write it to `plain_path` unless it is a plain file itself."""
    listener = current_listener()
    digest = hashlib.sha256()
    size = 0
    ends: list[int] = []
    with nullcontext() if plain_path == source.path else atomic_write(plain_path) as file:
        for block, ends_document in _read_blocks(source, section, raw):
            digest.update(block)
            size += len(block)
            listener.advance(len(block))
            if ends_document:
                ends.append(size)
            if file is not None:
                file.write(block)
    return PlainFile(
        path=plain_path,
        size=size,
        sha256=digest.hexdigest(),
        ends=np.array(ends if source.table else [size], dtype=np.int64),
    )


def _load_properties(path: Path, cached: Path) -> PlainFile | None:
    """Return a plain file with its cached properties; None without valid ones."""
    try:
        known: dict[str, Any] = parse_json(cached.with_suffix(".json").read_bytes())
        ends = np.load(cached.with_suffix(".npy"), allow_pickle=False)
        is_complete = path.stat().st_size == known["size"] == ends[-1]
        if is_complete and hashlib.sha256(ends.tobytes()).hexdigest() == known["ends"]:
            return PlainFile(path, int(known["size"]), str(known["sha256"]), ends)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        pass  # A damaged cache is ignored: the file is read again.
    return None


def _save_properties(file: PlainFile, cached: Path) -> None:
    with atomic_write(cached.with_suffix(".npy")) as target:
        np.save(target, file.ends)
    properties = {
        "size": file.size,
        "sha256": file.sha256,
        "ends": hashlib.sha256(file.ends.tobytes()).hexdigest(),
    }
    with atomic_write(cached.with_suffix(".json")) as target:
        target.write(json.dumps(properties).encode())


def _is_plain_utf8(path: Path, encoding: str) -> bool:
    """Return whether a file is read as UTF-8 and has no byte order mark."""
    with path.open("rb") as file:
        return canonical_encoding(encoding) == "utf-8" and file.read(3) != codecs.BOM_UTF8


def _read_blocks(
    source: Source, section: ResolvedCorpus, raw: bool
) -> Iterator[tuple[bytes, bool]]:
    """Yield a file in blocks of checked UTF-8, or of any bytes if `raw`.

    Each block comes with whether it ends a row of a table.
    """
    checks_encoding = section.rules > 1
    try:
        if source.table:
            for document in _read_table(source, section, checks_encoding=checks_encoding):
                yield document, True
        elif raw:
            for block in raw_blocks(source):
                yield block, False
        else:
            for block in utf8_blocks(source, section.encoding, checks_encoding=checks_encoding):
                yield block, False
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CorpusError(
            f"{source.name}: cannot be read: {one_line(str(error))}; use an undamaged copy"
        ) from None


def _read_table(
    source: Source, section: ResolvedCorpus, *, checks_encoding: bool
) -> Iterator[bytes]:
    field: str | PairFields = section.field or "text"
    if section.source and section.target:
        field = PairFields(section.source, section.target)
    documents = read_documents(
        source,
        encoding="utf-8" if section.rules == 1 else section.encoding,
        field=field,
        where=section.where,
        checks_encoding=checks_encoding,
    )
    for number, text in enumerate(documents, start=1):
        if "\0" in text:
            raise CorpusError(
                f"{source.name}: document {number} has a NUL character, so it is not text; skip it "
                "with corpus.where, or correct the file"
            )
        yield text.encode(errors="replace")  # JSON can contain lone surrogates.
