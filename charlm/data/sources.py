"""Names, paths, folders, globs, `.gz` and standard input → one plain file of UTF-8, checked."""

import codecs
import difflib
import glob
import gzip
import hashlib
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from charlm.data.cards import build, cache_folder, card_names, files_of, load_card
from charlm.errors import CorpusError
from charlm.files import BLOCK_BYTES, writing


def absolute(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return paths that mean the same from any folder; standard input is kept as a file, to be read again."""
    if names is None:
        return None
    return tuple(
        str(_kept_standard_input()) if name == "-" else name if name in card_names() else str(Path(name).absolute())
        for name in names
    )


def _kept_standard_input() -> Path:
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as file:
        while block := sys.stdin.buffer.read(BLOCK_BYTES):
            digest.update(block)
            file.write(block)
        file.seek(0)
        target = cache_folder() / "texts" / f"stdin-{digest.hexdigest()[:16]}.txt"
        with writing(target) as copy:
            while block := file.read(BLOCK_BYTES):
                copy.write(block)
    return target


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
    with path.open("rb") as file:
        return raw or (_codec(encoding).name == "utf-8" and file.read(3) != codecs.BOM_UTF8)


def _codec(encoding: str) -> codecs.CodecInfo:
    try:
        return codecs.lookup(encoding)
    except LookupError:
        raise CorpusError(f"corpus.encoding: Python knows no encoding {encoding!r}; try utf-8 or latin-1") from None


def _joined(files: Sequence[Path], encoding: str, raw: bool) -> tuple[Path, list[int]]:
    """Write all files into one in the cache, named by its checksum; return it and the byte after the last of each."""
    digest, size, ends = hashlib.sha256(), 0, []
    folder = cache_folder() / "texts"
    with writing(folder / f".joining-{os.getpid()}") as output:
        for file in files:
            for block in _utf8_blocks(file, encoding, raw):
                digest.update(block)
                size += len(block)
                output.write(block)
            ends.append(size)
    path = folder / f"{digest.hexdigest()[:16]}.txt"
    (folder / f".joining-{os.getpid()}").replace(path)
    return path, ends


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
    remedy = "pass --set corpus.encoding=latin-1 (or what it is), or --set tokenizer.level=byte to take any bytes"
    try:
        text = decoder.decode(block, final=not block)
    except UnicodeDecodeError as error:
        offset = at - pending + error.start
        value = f"0x{error.object[error.start]:02x}"
        raise CorpusError(f"{path}: byte {offset} ({value}) is not {error.encoding}; {remedy}") from None
    if at == 0:
        text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise CorpusError(f"{path}: holds a NUL character, so it is no text; pass --set tokenizer.level=byte")
    return text.encode()
