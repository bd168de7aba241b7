"""Names, paths, folders, globs, packed files, tables and standard input → plain files of UTF-8, checked."""

import codecs
import difflib
import glob
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
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
_WORTH_KEEPING = (
    1 << 24
)  # Bytes of a file from which on it takes a while to read: what was found is noted.
_ANY_BYTES = "or pass --set tokenizer.level=byte to take any bytes"
# What a text in another encoding than UTF-8 may begin with, and the name of that; the longer mark first.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True)
class PlainFile:
    """A file of UTF-8, or of any bytes, as it is read.

    Attributes:
        path: The file.
        size: Bytes.
        sha256: Its checksum.
        ends: Byte after the last of each of its documents: those of a table, or else one.
    """

    path: Path
    size: int
    sha256: str
    ends: npt.NDArray[np.int64]


def absolute_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return paths that mean the same from any folder; standard input is kept as a file, to be read again."""
    if names is None:
        return None
    return tuple(
        str(_kept_standard_input())
        if name == "-"
        else name
        if name in card_names()
        else str(Path(name).absolute())
        for name in names
    )


def _kept_standard_input() -> Path:
    def blocks() -> Iterator[bytes]:
        try:
            yield from iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
        except OSError as error:
            raise CorpusError(
                f"stdin: cannot be read: {error.strerror}; pipe a text in, or name a file"
            ) from None

    return _kept(blocks(), "stdin-")


def _kept(blocks: Iterable[bytes], prefix: str = "") -> Path:
    """Write blocks into one file in the cache, named by its checksum."""
    digest, folder = hashlib.sha256(), cache_folder() / "texts"
    beside = folder / f".joining-{os.getpid()}"
    with atomic_write(beside) as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
    return beside.replace(folder / f"{prefix}{digest.hexdigest()[:16]}.txt")


def _expand(name: str) -> list[Path]:
    """Return the files that a name, path, folder or glob stands for, in a stable order."""
    if name in card_names():
        card = load_card(name)
        path = corpus_files(name, card)["train"]
        if not path.is_file():
            if card.kind != "python":
                raise CorpusError(
                    f"{name}: is not on this machine yet; run: charlm corpus fetch {name}"
                )
            build_corpus(name)
        return [path]
    path = Path(name)
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and not _is_hidden(file.relative_to(path))
        )
    else:
        files = [path] if path.exists() else _matches(name)
    if not files:
        near = difflib.get_close_matches(path.name, card_names(), n=1)
        hint = (
            f"did you mean the corpus {near[0]}?"
            if near
            else "charlm corpus list shows the corpora with names"
        )
        raise CorpusError(f"{name}: {'holds no file' if path.is_dir() else 'no such text'}; {hint}")
    if odd := next(
        (file for file in files if file.exists() and not file.is_file() and not file.is_dir()), None
    ):
        raise CorpusError(f"{odd}: is no regular file; pipe it in instead, with - as the text")
    return [file for file in files if file.is_file()]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _matches(pattern: str) -> list[Path]:
    # Path.glob takes no absolute patterns.
    return sorted(Path(file) for file in glob.glob(pattern, recursive=True))  # noqa: PTH207


def open_plain_files(names: Sequence[str], section: Corpus, raw: bool) -> list[PlainFile]:
    """Return the files that `names` stand for as plain ones, in a stable order.

    A file of UTF-8 is read where it is. Any other is unpacked into the cache, once for as long as it stays as it is.

    Raises:
        CorpusError: One is missing or no text, or all of them together hold less than two characters.
    """
    files = [file for name in names for file in _expand(name)]
    found = [plain for file in files if (plain := _plain(file, section, raw)).size]
    size = sum(plain.size for plain in found)
    if size <= 4 and not raw:  # No more than a character may have.
        size = sum(count_characters(plain.path.read_bytes()) for plain in found)
    if size < 2:
        problem = "is empty" if size == 0 else "holds a single character"
        raise CorpusError(
            f"{', '.join(names)}: {problem}; a text to learn from has at least a few hundred characters"
        )
    return found


def _plain(path: Path, section: Corpus, raw: bool) -> PlainFile:
    """Return a file's text as a plain file, from the cache if it was unpacked, or checked, before."""
    with translate_read_errors(path):
        facts = path.stat()
        in_place = not format_suffixes(path) and (
            raw or _is_utf8_without_mark(path, section.encoding)
        )
    recipe = [FORMAT, str(path.absolute()), facts.st_size, facts.st_mtime_ns, section.encoding, raw]
    recipe += [section.field, section.where] if is_table(path) else []
    beside = cache_folder() / "texts" / hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:24]
    worth_keeping = facts.st_size >= _WORTH_KEEPING
    if worth_keeping and (
        kept := _kept_plain(path if in_place else beside.with_suffix(".txt"), beside)
    ):
        return kept
    digest, size, ends = hashlib.sha256(), 0, []
    with nullcontext() if in_place else atomic_write(beside.with_suffix(".txt")) as file:
        for block, ends_document in _blocks(path, section, raw):
            digest.update(block)
            size += len(block)
            if ends_document:
                ends.append(size)
            if file is not None:
                file.write(block)
    if is_table(path) and not ends:
        raise CorpusError(
            f"{path}: holds no document; corpus.where passes over all of them, or it has none"
        )
    plain = PlainFile(
        path if in_place else beside.with_suffix(".txt"),
        size,
        digest.hexdigest(),
        np.array(ends if is_table(path) else [size], dtype=np.int64),
    )
    if worth_keeping:
        _keep(plain, beside)
    return plain


def _kept_plain(path: Path, beside: Path) -> PlainFile | None:
    """Return what was noted of a file that has not changed since; None if nothing was."""
    try:
        facts: dict[str, Any] = parse_json(beside.with_suffix(".json").read_bytes())
        ends = np.load(beside.with_suffix(".npy"), allow_pickle=False)
        if (
            path.stat().st_size == facts["size"] == ends[-1]
            and hashlib.sha256(ends.tobytes()).hexdigest() == facts["ends"]
        ):
            return PlainFile(path, int(facts["size"]), str(facts["sha256"]), ends)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        pass  # Whatever is wrong with it, it is only a note: read the file again.
    return None


def _keep(plain: PlainFile, beside: Path) -> None:
    with atomic_write(beside.with_suffix(".npy")) as file:
        np.save(file, plain.ends)
    facts = {
        "size": plain.size,
        "sha256": plain.sha256,
        "ends": hashlib.sha256(plain.ends.tobytes()).hexdigest(),
    }
    with atomic_write(beside.with_suffix(".json")) as file:
        file.write(json.dumps(facts).encode())


def _is_utf8_without_mark(path: Path, encoding: str) -> bool:
    with path.open("rb") as file:
        return _codec(encoding).name == "utf-8" and file.read(3) != codecs.BOM_UTF8


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        "a".encode(
            encoding
        )  # What Python knows beside encodings of text, such as zlib and rot13, it refuses here.
        return codecs.lookup(encoding)
    except (LookupError, ValueError):
        raise CorpusError(
            f"corpus.encoding: Python knows no encoding {encoding!r}; try utf-8 or latin-1"
        ) from None


def _blocks(path: Path, section: Corpus, raw: bool) -> Iterator[tuple[bytes, bool]]:
    """Yield a file's text as UTF-8, checked, or its bytes as they are, if `raw`; and whether a document ends there."""
    try:
        if not is_table(path):
            yield from ((block, False) for block in _utf8_blocks(path, section.encoding, raw))
            return
        for number, text in enumerate(
            read_documents(path, section.field or "text", section.where), start=1
        ):
            if "\0" in text:
                raise CorpusError(
                    f"{path}: document {number} holds a NUL character, so it is no text; leave it out "
                    "by corpus.where, or mend the file"
                )
            yield (
                text.encode(errors="replace"),
                True,
            )  # Half a pair, which JSON can name, is no character.
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path}: cannot be read: {one_line(str(error))}") from None


def _utf8_blocks(path: Path, encoding: str, raw: bool) -> Iterator[bytes]:
    decoder = None if raw else codecs.getincrementaldecoder(_codec(encoding).name)()
    at = 0
    with open_decompressed(path) as file:
        while True:
            block: bytes = file.read(BLOCK_BYTES)
            yield block if decoder is None else _as_utf8(decoder, block, path, at)
            at += len(block)
            if not block:
                return


def _as_utf8(decoder: codecs.IncrementalDecoder, block: bytes, path: Path, at: int) -> bytes:
    pending = len(decoder.getstate()[0])
    try:
        text = decoder.decode(block, final=not block)
        if at == 0:
            text = text.removeprefix("\ufeff")
        data = text.encode()
    except UnicodeDecodeError as error:
        offset = at - pending + error.start
        value = f"0x{error.object[error.start]:02x}"
        likely = next(
            (name for mark, name in _MARKS.items() if at == 0 and block.startswith(mark)), "latin-1"
        )
        remedy = f"pass --set corpus.encoding={likely} (or what it is)"
        raise CorpusError(
            f"{path}: byte {offset} ({value}) is not {error.encoding}; {remedy}, {_ANY_BYTES}"
        ) from None
    except (
        UnicodeError
    ) as error:  # As utf-7 and idna raise it, and half of a pair that utf-7 gives.
        raise CorpusError(
            f"{path}: cannot be decoded: {error}; name the encoding it is in, {_ANY_BYTES}"
        ) from None
    if "\0" in text:
        raise CorpusError(
            f"{path}: holds a NUL character, so it is no text; name the encoding it is in, such as "
            f"utf-16-le, by --set corpus.encoding, {_ANY_BYTES}"
        )
    return data
