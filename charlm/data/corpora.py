"""A corpus card or a path → text, split into parts.

Every source becomes one plain file and the byte offsets of its documents, so that a text is read in blocks from a
memory map and never stands in memory whole. A record (one line) is a small document.
"""

import codecs
import difflib
import glob
import gzip
import hashlib
import mmap
import os
import platform
import sys
import tempfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import Field, ValidationError, model_validator

from charlm.config import TEST_SHARE, VALID_SHARE, Level, Mode, Section, Share, describe_mistakes, shipped
from charlm.config import Corpus as CorpusSection
from charlm.data.builders import BUILDERS
from charlm.data.fetching import Report, check_sha256, fetch, unpack
from charlm.errors import CorpusError
from charlm.files import mapped, writing

Part = Literal["train", "valid", "test"]
BLOCK_BYTES = 1 << 20
BOM = codecs.BOM_UTF8


class Card(Section):
    """What `corpora/NAME.yaml` says of a corpus."""

    title: str
    language: str
    licence: str
    source: str = Field(description="Where the text comes from.")
    kind: Literal["file", "url", "python"]
    mode: Mode = "stream"
    builder: str | None = None
    parameters: dict[str, Any] = Field({}, description="Keyword arguments of the builder.")
    url: str | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    members: dict[Part, str] = Field({}, description="Of an archive: the member that holds each part.")
    separator: str | None = None
    valid_share: Share | None = None
    test_share: Share | None = None
    level: Level = "char"

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> "Card":
        if self.kind == "python" and self.builder not in BUILDERS:
            raise ValueError(f"builder: must be one of {', '.join(BUILDERS)}, got {self.builder!r}")
        if self.kind == "url" and not self.url:
            raise ValueError("url: missing, and kind is url")
        return self


@dataclass(frozen=True)
class Text:
    """Documents, in order, of one plain file.

    Attributes:
        path: The file.
        spans: First byte and byte after the last of each document, (documents, 2).
        raw: Whether any bytes will do; else they are UTF-8, already checked.
        separator: What stands after each document in the original: the end of a record's line, say.
        is_cut: Whether the last document goes on in the next part, so that it does not end here.
    """

    path: Path
    spans: npt.NDArray[np.int64]
    raw: bool
    separator: str = ""
    is_cut: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Checksum of the documents and where they begin."""
        digest = hashlib.sha256(np.ascontiguousarray(self.spans).tobytes() + bytes([self.is_cut]))
        with self.path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()

    def blocks(self, size: int = BLOCK_BYTES) -> Iterator[tuple[bytes, bool]]:
        """Yield the documents in blocks, each with whether it ends its document.

        A block ends after a line's end where there is one within reach, else between two characters, so that no
        tokenizer sees the seam: no token of ours reaches over a line's end.
        """
        with mapped(self.path) as file:
            for number, (start, stop) in enumerate(self.spans.tolist()):
                ends = not (self.is_cut and number == len(self.spans) - 1)
                while start < stop:
                    cut = _seam(file, start + size, stop, self.raw) if stop - start > size else stop
                    yield file[start:cut], ends and cut == stop
                    start = cut


@dataclass(frozen=True)
class Corpus:
    """A text by parts, and how it is to be read.

    Attributes:
        title: What people call it.
        mode: One long text, or a record a line.
        parts: The text of each part that is not empty.
        section: The configuration with all that was open decided, and paths made absolute.
    """

    title: str
    mode: Mode
    parts: dict[Part, Text]
    section: CorpusSection


def cache_folder() -> Path:
    """Return where built and fetched texts and encoded ids are kept: $CHARLM_CACHE, or the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("CHARLM_CACHE") or Path(home) / "charlm")


def card_names() -> list[str]:
    """Return the names of the cards that charlm ships."""
    return sorted(path.stem for path in shipped("corpora").glob("*.yaml"))


def load_card(name: str) -> Card:
    """Read the card of a corpus.

    Raises:
        CorpusError: There is no such card, or it has mistakes: all of them are told.
    """
    path = shipped("corpora") / f"{name}.yaml"
    if name not in card_names():
        near = difflib.get_close_matches(name, card_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else "charlm corpus list shows the names"
        raise CorpusError(f"{name}: no such corpus; {hint}")
    try:
        return Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise CorpusError(f"{path}: {describe_mistakes(error, Card)}") from None


def files_of(name: str, card: Card) -> dict[Part, Path]:
    """Return the file of each part that comes as a file of its own, whether it is there yet or not."""
    folder = cache_folder() / "corpora"
    if card.kind == "python":  # Another Python carries another text.
        return {"train": folder / f"{name}-{platform.python_version()}.txt"}
    if len(card.members) > 1:
        return {part: folder / f"{name}.{part}.txt" for part in card.members}
    return {"train": folder / f"{name}.txt"}


def build(name: str, *, to: Path | None = None, parameters: dict[str, Any] | None = None) -> Path:
    """Build a corpus from what this Python installation carries; return its file.

    Args:
        name: A card of kind `python`.
        to: The file to write; by default the one in the cache that `train` reads.
        parameters: The builder's keyword arguments, over those of the card; only with `to`.

    Raises:
        CorpusError: The card is of another kind, or a parameter is wrong.
    """
    if parameters and to is None:
        raise CorpusError(f"{name}: parameters need a file of their own; give --to, and train on that file")
    card = load_card(name)
    if card.kind != "python" or card.builder is None:
        raise CorpusError(f"{name}: is not built but downloaded; run: charlm corpus fetch {name}")
    target = to or files_of(name, card)["train"]
    joint = (card.separator or "\n").encode()
    try:
        documents = BUILDERS[card.builder](**card.parameters | (parameters or {}))
    except TypeError as error:
        raise CorpusError(f"{name}: {error}; charlm corpus show {name} lists the parameters") from None
    with writing(target) as file:
        for number, document in enumerate(documents):
            file.write(joint * (number > 0) + document.encode())
    return target


def fetch_corpus(name: str, *, source: Path | None = None, report: Report | None = None) -> list[Path]:
    """Download a corpus, check it, unpack it; return its files.

    Args:
        name: A card of kind `url`.
        source: A copy of the download that the user already has: nothing is downloaded then.
        report: Called with bytes so far and bytes in all, where the server tells.

    Raises:
        CorpusError: The card is of another kind, or the copy or an archive's member is missing.
        FetchError: The download failed, or what came is not what the card promises.
    """
    card = load_card(name)
    if card.kind != "url" or card.url is None:
        raise CorpusError(f"{name}: has nothing to download; run: charlm corpus build {name}")
    targets = files_of(name, card)
    archive = source
    if archive is None:
        archive = cache_folder() / "downloads" / f"{name}-{card.url.rsplit('/', 1)[-1]}"
        fetch(card.url, archive, sha256=card.sha256, report=report)
    elif not archive.is_file():
        raise CorpusError(f"{archive}: no such file to take {name} from")
    elif card.sha256:
        check_sha256(archive, card.sha256)
    for part, target in targets.items():
        if part in card.members:
            unpack(archive, card.members[part], target)
        else:
            with archive.open("rb") as copy, writing(target) as file:
                while block := copy.read(BLOCK_BYTES):
                    file.write(block)
    return list(targets.values())


def open_corpus(section: CorpusSection, *, raw: bool = False) -> Corpus:
    """Return the text that `section` names, split into its parts.

    Args:
        section: What to read and how to split it; what it leaves open, a card decides, else the default.
        raw: Take any bytes (tokenizer level `byte`); else they must be text in `section.encoding`.

    Raises:
        CorpusError: A text is missing, empty, not text, or not downloaded yet.
    """
    card = _only_card(section)
    files = files_of(section.text[0], card) if card else {}
    section = _decided(section, card, files)
    separator = section.separator.encode() if section.separator else None

    def read(names: Sequence[str]) -> Text:
        path, ends = _plain_file(names, section.encoding, raw)
        spans = _record_spans(path, ends) if section.mode == "records" else _document_spans(path, ends, separator)
        if len(spans) == 0:
            what = "empty lines" if section.mode == "records" else "separators"
            raise CorpusError(f"{', '.join(names)}: holds nothing but {what}; give a text to learn from")
        return Text(path, spans, raw, "\n" if section.mode == "records" else section.separator or "")

    train = read(section.text)
    parts: dict[Part, Text] = {}
    if section.valid_text:
        parts["valid"] = read(section.valid_text)
    if section.test_text:
        parts["test"] = read(section.test_text)
    parts |= _split(train, section, has=parts)
    parts = {part: text for part, text in parts.items() if len(text.spans)}
    if "train" not in parts:
        raise CorpusError(
            f"{', '.join(section.text)}: is so short that its split leaves nothing to train on; give a longer text, or "
            "lower corpus.valid_share and corpus.test_share"
        )
    return Corpus(card.title if card else ", ".join(section.text), section.mode or "stream", parts, section)


def read_text(names: Sequence[str], like: CorpusSection, *, raw: bool) -> Text:
    """Return texts to be scored by a run, read in the way that the run's own corpus was.

    Raises:
        CorpusError: A text is missing, empty or not text.
    """
    section = like.model_copy(
        update={"text": tuple(names), "valid_text": None, "test_text": None, "valid_share": 0.0,
                "test_share": 0.0}
    )  # fmt: skip
    return open_corpus(section, raw=raw).parts["train"]


def _only_card(section: CorpusSection) -> Card | None:
    """Return the card of the corpus, if the text is one that has a card."""
    return load_card(section.text[0]) if len(section.text) == 1 and section.text[0] in card_names() else None


def _decided(section: CorpusSection, card: Card | None, files: dict[Part, Path]) -> CorpusSection:
    """Return the section with nothing left open."""
    mode = section.mode or (card.mode if card else "stream")
    own = {part: (str(path),) for part, path in files.items()}
    valid_text, test_text = section.valid_text or own.get("valid"), section.test_text or own.get("test")
    valid_share, test_share = section.valid_share, section.test_share
    if valid_share is None:
        valid_share = 0.0 if valid_text else (card.valid_share if card else None)
    if test_share is None:
        test_share = 0.0 if test_text else (card.test_share if card else None)
    absolute: dict[str, tuple[str, ...] | None] = {
        "text": section.text if card else _absolute(section.text),
        "valid_text": _absolute(valid_text), "test_text": _absolute(test_text),
    }  # fmt: skip
    return section.model_copy(
        update=absolute | {
            "mode": mode,
            "valid_share": VALID_SHARE if valid_share is None else valid_share,
            "test_share": TEST_SHARE if test_share is None else test_share,
            "split": section.split or ("shuffled" if mode == "records" else "contiguous"),
            "separator": section.separator or (card.separator if card else None),
        }
    )  # fmt: skip


def _absolute(names: Sequence[str] | None) -> tuple[str, ...] | None:
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


def _plain_file(names: Sequence[str], encoding: str, raw: bool) -> tuple[Path, list[int]]:
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
        return raw or (_codec(encoding).name == "utf-8" and file.read(3) != BOM)


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


def _document_spans(path: Path, file_ends: Sequence[int], separator: bytes | None) -> npt.NDArray[np.int64]:
    """Return where each document begins and ends; without a separator a file is one document."""
    spans, start = [], 0
    with mapped(path) as file:
        for stop in file_ends:
            while separator is not None and (found := file.find(separator, start, stop)) >= 0:
                spans.append((start, found))
                start = found + len(separator)
            spans.append((start, stop))
            start = stop
    array = np.array(spans, dtype=np.int64)
    filled: npt.NDArray[np.int64] = array[array[:, 0] < array[:, 1]]
    return filled


def _record_spans(path: Path, file_ends: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return where each line that is not empty begins and ends, its line end left out; a file's end ends a line."""
    data = np.memmap(path, dtype=np.uint8, mode="r")
    found = np.concatenate(
        [np.flatnonzero(data[at : at + BLOCK_BYTES] == ord("\n")) + at for at in range(0, len(data), BLOCK_BYTES)]
    )
    ends = np.concatenate([file_ends, found]).astype(np.int64)
    order = np.argsort(ends, kind="stable")  # A line that is empty may end where the file before it does.
    after = np.concatenate([file_ends, found + 1]).astype(np.int64)[order]
    ends, starts = ends[order], np.concatenate([np.zeros(1, dtype=np.int64), after[:-1]])
    ends = ends - ((ends > starts) & (data[np.maximum(ends, 1) - 1] == ord("\r")))
    filled: npt.NDArray[np.int64] = np.stack([starts, ends], axis=1)[starts < ends]
    return filled


def _split(text: Text, section: CorpusSection, *, has: Collection[Part]) -> dict[Part, Text]:
    """Return the parts that are shares of `text`; `has` names those that are texts of their own."""
    shares: dict[Part, float] = {
        "train": 1.0,
        "valid": 0.0 if "valid" in has else section.valid_share or 0.0,
        "test": 0.0 if "test" in has else section.test_share or 0.0,
    }
    shares["train"] -= shares["valid"] + shares["test"]
    order = np.arange(len(text.spans))
    if section.split == "shuffled":
        order = np.random.default_rng(section.split_seed).permutation(order)
    parts: dict[Part, Text] = {}
    taken = 0.0
    for part, share in shares.items():
        if share:
            if section.mode == "stream" and section.split == "contiguous":
                parts[part] = _cut_bytes(text, taken, taken + share)
            else:
                parts[part] = _cut_documents(text, order, taken, taken + share)
        taken += share
    return parts


def _cut_documents(text: Text, order: npt.NDArray[np.int64], first: float, last: float) -> Text:
    """Return the documents between two shares of `order`, in reading order."""
    chosen = order[round(first * len(order)) : round(last * len(order))]
    return replace(text, spans=text.spans[np.sort(chosen)])


def _cut_bytes(text: Text, first: float, last: float) -> Text:
    """Return what lies between two shares of the bytes, cut between characters, inside documents where it falls so."""
    lengths = text.spans[:, 1] - text.spans[:, 0]
    ends = np.cumsum(lengths)
    # Rounded first: the sum of shares is not exact, and must not lose a byte.
    low, high = (int(round(share * int(ends[-1]), 6)) for share in (first, last))
    starts = ends - lengths
    spans = text.spans + np.stack([np.clip(low - starts, 0, lengths), np.clip(high - ends, -lengths, 0)], axis=1)
    kept = spans[:, 0] < spans[:, 1]
    whole, spans = text.spans[kept], spans[kept]
    if len(spans):
        with mapped(text.path) as file:
            spans[0, 0] = _character_start(file, int(spans[0, 0]), int(whole[0, 1]), text.raw)
            spans[-1, 1] = _character_start(file, int(spans[-1, 1]), int(whole[-1, 1]), text.raw)
    is_cut = bool(len(spans)) and bool(spans[-1, 1] < whole[-1, 1])
    # A cut inside a document's last character leaves nothing of it behind.
    return replace(text, spans=spans[spans[:, 0] < spans[:, 1]], is_cut=is_cut)


def _seam(file: mmap.mmap, near: int, stop: int, raw: bool) -> int:
    """Return a place at or after `near` to cut a block: after a line's end, or the document's, if it comes soon."""
    reach = min(stop, near + BLOCK_BYTES)
    found = file.find(b"\n", near - 1, reach)
    if found >= 0:
        return found + 1
    return stop if reach == stop else _character_start(file, near, stop, raw)


def _character_start(file: mmap.mmap, at: int, stop: int, raw: bool) -> int:
    """Return the first place from `at` where a UTF-8 character begins."""
    while not raw and at < stop and file[at] & 0xC0 == 0x80:
        at += 1
    return at
