"""Names, paths, folders, globs, `.gz` and standard input → one plain file of UTF-8, checked."""

import codecs
import difflib
import glob
import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from charlm.data.cards import build, cache_folder, card_names, files_of, load_card
from charlm.errors import CorpusError
from charlm.files import BLOCK_BYTES, reading, writing

_ANY_BYTES = "or pass --set tokenizer.level=byte to take any bytes"
# What a text in another encoding than UTF-8 may begin with, and the name of that; the longer mark first.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
          codecs.BOM_UTF16_BE: "utf-16"}  # fmt: skip


def absolute(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return paths that mean the same from any folder; standard input is kept as a file, to be read again."""
    if names is None:
        return None
    return tuple(
        str(_kept_standard_input()) if name == "-" else name if name in card_names() else str(Path(name).absolute())
        for name in names
    )


def _kept_standard_input() -> Path:
    def blocks() -> Iterator[bytes]:
        try:
            yield from iter(lambda: sys.stdin.buffer.read(BLOCK_BYTES), b"")
        except OSError as error:
            raise CorpusError(f"stdin: cannot be read: {error.strerror}; pipe a text in, or name a file") from None

    return _kept(blocks(), "stdin-")


def _kept(blocks: Iterable[bytes], prefix: str = "") -> Path:
    """Write blocks into one file in the cache, named by its checksum."""
    digest, folder = hashlib.sha256(), cache_folder() / "texts"
    beside = folder / f".joining-{os.getpid()}"
    with writing(beside) as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
    return beside.replace(folder / f"{prefix}{digest.hexdigest()[:16]}.txt")


def _expand(name: str) -> list[Path]:
    """Return the files that a name, path, folder or glob stands for, in a stable order."""
    if name in card_names():
        card = load_card(name)
        path = files_of(name, card)["train"]
        if not path.is_file():
            if card.kind != "python":
                raise CorpusError(f"{name}: is not on this machine yet; run: charlm corpus fetch {name}")
            build(name)
        return [path]
    path = Path(name)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not _is_hidden(file.relative_to(path)))
    else:
        files = [path] if path.exists() else _matches(name)
    if not files:
        near = difflib.get_close_matches(path.name, card_names(), n=1)
        hint = f"did you mean the corpus {near[0]}?" if near else "charlm corpus list shows the corpora with names"
        raise CorpusError(f"{name}: {'holds no file' if path.is_dir() else 'no such text'}; {hint}")
    if odd := next((file for file in files if file.exists() and not file.is_file() and not file.is_dir()), None):
        raise CorpusError(f"{odd}: is no regular file; pipe it in instead, with - as the text")
    return [file for file in files if file.is_file()]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _matches(pattern: str) -> list[Path]:
    # Path.glob takes no absolute patterns.
    return sorted(Path(file) for file in glob.glob(pattern, recursive=True))  # noqa: PTH207


def plain_file(names: Sequence[str], encoding: str, raw: bool) -> tuple[Path, list[int]]:
    """Return one plain file that holds all that `names` stand for, and the byte after the last of each file in it.

    It is the file itself where that will do.
    """
    files = [file for name in names for file in _expand(name)]
    place = ", ".join(names)
    if len(files) == 1 and _is_plain(files[0], encoding, raw):
        path = files[0]
        ends = [sum(len(block) for block in _utf8_blocks(path, encoding, raw))]
    else:
        path, ends = _joined(files, encoding, raw)
    size = ends[-1]
    if size <= 4 and not raw:  # No more than a character may have.
        size = len(path.read_bytes().decode())
    if size < 2:
        problem = "is empty" if size == 0 else "holds a single character"
        raise CorpusError(f"{place}: {problem}; a text to learn from has at least a few hundred characters")
    return path, ends


def _is_plain(path: Path, encoding: str, raw: bool) -> bool:
    if path.suffix == ".gz":
        return False
    with reading(path), path.open("rb") as file:
        return raw or (_codec(encoding).name == "utf-8" and file.read(3) != codecs.BOM_UTF8)


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        "a".encode(encoding)  # What Python knows beside encodings of text, such as zlib and rot13, it refuses here.
        return codecs.lookup(encoding)
    except (LookupError, ValueError):
        raise CorpusError(f"corpus.encoding: Python knows no encoding {encoding!r}; try utf-8 or latin-1") from None


def _joined(files: Sequence[Path], encoding: str, raw: bool) -> tuple[Path, list[int]]:
    """Write all files into one in the cache, named by its checksum; return it and the byte after the last of each."""
    ends = []

    def blocks() -> Iterator[bytes]:
        size = 0
        for file in files:
            for block in _utf8_blocks(file, encoding, raw):
                size += len(block)
                yield block
            ends.append(size)

    return _kept(blocks()), ends


def _utf8_blocks(path: Path, encoding: str, raw: bool) -> Iterator[bytes]:
    """Yield a file's text as UTF-8, checked; or its bytes as they are, if `raw`."""
    decoder = None if raw else codecs.getincrementaldecoder(_codec(encoding).name)()
    open_file: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    at = 0
    try:
        with open_file(path, "rb") as file:
            while True:
                block: bytes = file.read(BLOCK_BYTES)
                yield block if decoder is None else _as_utf8(decoder, block, path, at)
                at += len(block)
                if not block:
                    return
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(f"{path}: cannot be read: {error}") from None


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
        likely = next((name for mark, name in _MARKS.items() if at == 0 and block.startswith(mark)), "latin-1")
        remedy = f"pass --set corpus.encoding={likely} (or what it is)"
        raise CorpusError(f"{path}: byte {offset} ({value}) is not {error.encoding}; {remedy}, {_ANY_BYTES}") from None
    except UnicodeError as error:  # As utf-7 and idna raise it, and half of a pair that utf-7 gives.
        raise CorpusError(f"{path}: cannot be decoded: {error}; name the encoding it is in, {_ANY_BYTES}") from None
    if "\0" in text:
        raise CorpusError(f"{path}: holds a NUL character, so it is no text; name the encoding it is in, such as "
                          f"utf-16-le, by --set corpus.encoding, {_ANY_BYTES}")  # fmt: skip
    return data
