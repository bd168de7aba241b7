"""Names, paths, folders, globs, compressed files, tables and standard input → plain files.

A plain file is UTF-8 that has been checked, or any bytes. A file of UTF-8 is read where it is; any
other file is converted once and kept in the cache.
"""

import codecs
import difflib
import glob
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from charlm.config.schema import Corpus
from charlm.data.cards import build_corpus, cache_folder, card_names, corpus_files, load_card
from charlm.data.tables import format_suffixes, is_table, open_decompressed, read_documents
from charlm.data.utf8 import count_characters
from charlm.errors import CorpusError
from charlm.storage.atomic import atomic_write
from charlm.storage.memory_maps import BLOCK_BYTES, translate_read_errors
from charlm.storage.untrusted import one_line, parse_json

FORMAT = 1
# Reading a file of at least this size takes a while, so its properties are kept in the cache.
_MIN_CACHED_BYTES = 1 << 24
_BYTES_REMEDY = "or pass --set tokenizer.level=byte to read any bytes"
# Byte order marks and their encodings; the longer marks come first.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


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


def absolute_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return names that mean the same texts in every folder.

    Paths become absolute, names of corpora stay as they are, and standard input is copied into a
    file, so that it can be read again.
    """
    return None if names is None else tuple(map(_absolute_name, names))


def open_plain_files(names: Sequence[str], section: Corpus, raw: bool) -> list[PlainFile]:
    """Return the plain files of names, paths, folders and globs, in a stable order.

    Args:
        names: Names of the texts.
        section: Encoding and table fields.
        raw: Whether to read any bytes instead of text.

    Raises:
        CorpusError: A file is missing or is not text, or there are less than two characters.
    """
    paths = [path for name in names for path in _expand(name)]
    files = [file for path in paths if (file := _open_plain_file(path, section, raw)).size]
    size = sum(file.size for file in files)
    if size <= 4 and not raw:  # A single character has at most four bytes.
        size = sum(count_characters(file.path.read_bytes()) for file in files)
    if size < 2:
        problem = "is empty" if size == 0 else "has a single character"
        raise CorpusError(
            f"{', '.join(names)}: {problem}; a text needs at least a few hundred characters"
        )
    return files


def _absolute_name(name: str) -> str:
    if name == "-":
        return str(_copy_standard_input())
    return name if name in card_names() else str(Path(name).absolute())


def _copy_standard_input() -> Path:
    """Copy standard input into a file of the cache that is named by its checksum."""
    digest = hashlib.sha256()
    folder = cache_folder() / "texts"
    temporary = folder / f".joining-{os.getpid()}"
    with atomic_write(temporary) as file:
        for block in _standard_input_blocks():
            digest.update(block)
            file.write(block)
    return temporary.replace(folder / f"stdin-{digest.hexdigest()[:16]}.txt")


def _standard_input_blocks() -> Iterator[bytes]:
    try:
        yield from iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
    except OSError as error:
        raise CorpusError(
            f"stdin: cannot be read: {error.strerror}; pipe a text in, or name a file"
        ) from None


def _expand(name: str) -> list[Path]:
    """Return the files of a name, path, folder or glob in a stable order."""
    if name in card_names():
        return [_corpus_file(name)]
    path = Path(name)
    paths = _files_in(path) if path.is_dir() else _glob(name)
    if not paths:
        raise _no_such_text(name)
    for special in (path for path in paths if path.exists() and not _is_file_or_folder(path)):
        raise CorpusError(
            f"{special}: is not a regular file; pipe it in instead, with - as the text"
        )
    return [path for path in paths if path.is_file()]


def _corpus_file(name: str) -> Path:
    """Return the training text of a corpus, which is built if it can be built."""
    card = load_card(name)
    path = corpus_files(name, card)["train"]
    if path.is_file():
        return path
    if card.kind != "python":
        raise CorpusError(f"{name}: is not on this machine yet; run: charlm corpus fetch {name}")
    return build_corpus(name)


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a folder and its subfolders, except hidden ones."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not _is_hidden(path.relative_to(folder))
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _glob(pattern: str) -> list[Path]:
    """Return the files of a path or a glob pattern."""
    if Path(pattern).exists():  # The name of a file may contain the characters of a pattern.
        return [Path(pattern)]
    # Path.glob takes no absolute patterns.
    return sorted(Path(path) for path in glob.glob(pattern, recursive=True))  # noqa: PTH207


def _is_file_or_folder(path: Path) -> bool:
    return path.is_file() or path.is_dir()


def _no_such_text(name: str) -> CorpusError:
    path = Path(name)
    problem = "contains no file" if path.is_dir() else "no such text"
    hint = "charlm corpus list shows the names of corpora"
    if similar := difflib.get_close_matches(path.name, card_names(), n=1):
        hint = f"did you mean the corpus {similar[0]}?"
    return CorpusError(f"{name}: {problem}; {hint}")


def _open_plain_file(path: Path, section: Corpus, raw: bool) -> PlainFile:
    """Return a file as a plain file, from the cache if it was converted or checked before."""
    with translate_read_errors(path):
        status = path.stat()
        is_plain = not format_suffixes(path) and (raw or _is_plain_utf8(path, section.encoding))
    cached = _cache_path(path, status, section, raw)
    plain_path = path if is_plain else cached.with_suffix(".txt")
    is_large = status.st_size >= _MIN_CACHED_BYTES
    if is_large and (known := _load_properties(plain_path, cached)):
        return known
    file = _convert(path, plain_path, section, raw)
    if is_large:
        _save_properties(file, cached)
    return file


def _cache_path(path: Path, status: os.stat_result, section: Corpus, raw: bool) -> Path:
    """Return where the cache keeps a file, without suffix; it depends on size, time and options."""
    key = [FORMAT, str(path.absolute()), status.st_size, status.st_mtime_ns, section.encoding, raw]
    if is_table(path):
        key += [section.field, section.where]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    return cache_folder() / "texts" / name


def _convert(path: Path, plain_path: Path, section: Corpus, raw: bool) -> PlainFile:
    """Check a file, and write it to `plain_path` unless it is a plain file itself."""
    digest = hashlib.sha256()
    size = 0
    ends: list[int] = []
    with nullcontext() if plain_path == path else atomic_write(plain_path) as file:
        for block, ends_document in _read_blocks(path, section, raw):
            digest.update(block)
            size += len(block)
            if ends_document:
                ends.append(size)
            if file is not None:
                file.write(block)
    if is_table(path) and not ends:
        raise CorpusError(
            f"{path}: contains no document; the table is empty, or corpus.where skips every row"
        )
    return PlainFile(
        path=plain_path,
        size=size,
        sha256=digest.hexdigest(),
        ends=np.array(ends if is_table(path) else [size], dtype=np.int64),
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
        return _codec(encoding).name == "utf-8" and file.read(3) != codecs.BOM_UTF8


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        "a".encode(encoding)  # Refuses codecs that are not text encodings, such as zlib and rot13.
        return codecs.lookup(encoding)
    except (LookupError, ValueError):
        raise CorpusError(
            f"corpus.encoding: Python has no encoding {encoding!r}; try utf-8 or latin-1"
        ) from None


def _read_blocks(path: Path, section: Corpus, raw: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield a file in blocks of checked UTF-8, or of any bytes if `raw`.

    Each block comes with whether it ends a row of a table.
    """
    try:
        if is_table(path):
            for document in _read_table(path, section):
                yield document, True
        else:
            for block in _utf8_blocks(path, section.encoding, raw):
                yield block, False
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path}: cannot be read: {one_line(str(error))}") from None


def _read_table(path: Path, section: Corpus) -> Iterator[bytes]:
    documents = read_documents(path, section.field or "text", section.where)
    for number, text in enumerate(documents, start=1):
        if "\0" in text:
            raise CorpusError(
                f"{path}: document {number} has a NUL character, so it is not text; skip it with "
                "corpus.where, or correct the file"
            )
        yield text.encode(errors="replace")  # JSON can contain lone surrogates.


def _utf8_blocks(path: Path, encoding: str, raw: bool) -> Iterator[bytes]:
    decoder = None if raw else codecs.getincrementaldecoder(_codec(encoding).name)()
    offset = 0
    with open_decompressed(path) as file:
        while True:
            block: bytes = file.read(BLOCK_BYTES)
            yield block if decoder is None else _decode_block(decoder, block, path, offset)
            offset += len(block)
            if not block:
                return


def _decode_block(
    decoder: codecs.IncrementalDecoder, block: bytes, path: Path, offset: int
) -> bytes:
    """Return a block of a text, which begins at `offset` in its file, as UTF-8.

    Raises:
        CorpusError: The block is not text in the decoder's encoding.
    """
    num_pending = len(decoder.getstate()[0])
    try:
        text = decoder.decode(block, final=not block)
        if offset == 0:
            text = text.removeprefix("\ufeff")
        data = text.encode()
    except UnicodeDecodeError as error:
        raise _decode_error(path, error, block, offset, num_pending) from None
    except UnicodeError as error:  # Raised by utf-7 and idna, and for lone surrogates of utf-7.
        raise CorpusError(
            f"{path}: cannot be decoded: {error}; name its encoding, {_BYTES_REMEDY}"
        ) from None
    if "\0" in text:
        raise CorpusError(
            f"{path}: has a NUL character, so it is not text; name its encoding, such as "
            f"utf-16-le, with --set corpus.encoding, {_BYTES_REMEDY}"
        )
    return data


def _decode_error(
    path: Path, error: UnicodeDecodeError, block: bytes, offset: int, num_pending: int
) -> CorpusError:
    """Return an error with the position of the invalid byte and the likely encoding."""
    position = offset - num_pending + error.start
    value = f"0x{error.object[error.start]:02x}"
    marks = _BYTE_ORDER_MARKS.items() if offset == 0 else ()
    likely = next((name for mark, name in marks if block.startswith(mark)), "latin-1")
    return CorpusError(
        f"{path}: byte {position} ({value}) is not {error.encoding}; pass --set "
        f"corpus.encoding={likely} (or its real encoding), {_BYTES_REMEDY}"
    )
