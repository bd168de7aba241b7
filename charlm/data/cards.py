"""Named corpora: their cards, their files, and how the files are built or downloaded."""

import atexit
import difflib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from charlm.config.corpus import Mode
from charlm.config.load import shipped
from charlm.config.mistakes import describe_mistakes
from charlm.config.section import Fraction, Section
from charlm.config.tokenizer import Level
from charlm.data.archives import extract_member
from charlm.data.builders.table import BUILDERS
from charlm.data.fetching import Report, check_sha256, fetch
from charlm.errors import CorpusError, UnsupportedOptionError
from charlm.storage.atomic import WRITE_REMEDY, atomic_write, can_write
from charlm.storage.memory_maps import BLOCK_BYTES
from charlm.storage.untrusted import MEGABYTE, parse_yaml, read_regular_file

Part = Literal["train", "valid", "test"]


class Card(Section):
    """The corpus card `corpora/NAME.yaml`."""

    title: str
    language: str
    licence: str
    source: str = Field(description="Origin of the text.")
    kind: Literal["file", "url", "python"]
    mode: Mode = "stream"
    builder: str | None = None
    parameters: dict[str, Any] = Field({}, description="Keyword arguments of the builder.")
    url: str | None = None
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    members: dict[Part, str] = Field(
        {}, description="Member of the archive that contains each part."
    )
    strip_lines: bool = Field(
        False, description="Remove white space at both ends of each line of a download."
    )
    separator: str | None = None
    valid_share: Fraction | None = None
    test_share: Fraction | None = None
    level: Level = "char"

    @model_validator(mode="after")
    def _check_kind(self) -> "Card":
        if self.kind == "python" and self.builder not in BUILDERS:
            raise ValueError(f"builder: must be one of {', '.join(BUILDERS)}, got {self.builder!r}")
        if self.kind == "url" and not self.url:
            raise ValueError("url: must be given for kind url")
        return self


def cache_folder() -> Path:
    """Return the folder of texts and ids: $CHARLM_CACHE, or the user's cache folder.

    Raises:
        CorpusError: There is no home folder, as for a user of a container.
    """
    if folder := os.environ.get("CHARLM_CACHE"):
        return Path(folder).absolute()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder, "charlm").absolute()
    try:
        return Path.home() / ".cache" / "charlm"
    except RuntimeError:
        raise CorpusError(f"the cache: the user has no home folder; {WRITE_REMEDY}") from None


def converted_folder() -> Path:
    """Return the folder of converted texts: in the cache, else of `temporary_conversions`."""
    return _temporary_folder.get() or cache_folder() / "texts"


@contextmanager
def temporary_conversions() -> Iterator[None]:
    """In the block, convert texts into a temporary folder if the cache cannot be written.

    The folder is removed when the process ends, so it suits texts to score, not to train on.
    """
    is_temporary = not can_write(cache_folder() / "texts")
    token = _temporary_folder.set(_process_folder() if is_temporary else None)
    try:
        yield
    finally:
        _temporary_folder.reset(token)


_temporary_folder: ContextVar[Path | None] = ContextVar("temporary_folder", default=None)


@cache
def _process_folder() -> Path:
    """Return a temporary folder, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="charlm-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "texts"


def card_names() -> list[str]:
    """Return the names of the shipped corpora."""
    return sorted(path.stem for path in shipped("corpora").glob("*.yaml"))


def load_card(name: str) -> Card:
    """Read the card of a shipped corpus.

    Raises:
        CorpusError: There is no such card, or it has mistakes; the message lists all of them.
    """
    path = shipped("corpora") / f"{name}.yaml"
    if name not in card_names():
        similar = difflib.get_close_matches(name, card_names(), n=1)
        hint = f"did you mean {similar[0]}?" if similar else "charlm corpus list shows the names"
        raise CorpusError(f"{name}: no such corpus; {hint}")
    return read_card(path)


def read_card(path: Path) -> Card:
    """Read a corpus card.

    Raises:
        CorpusError: The card cannot be read, is not YAML, or has mistakes; the message lists all.
    """
    try:
        return Card.model_validate(parse_yaml(read_regular_file(path, max_bytes=MEGABYTE).decode()))
    except ValidationError as error:
        raise CorpusError(f"{path}: {describe_mistakes(error, Card)}") from None
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"{path}: cannot be read: {error}; restore the card from charlm's installation"
        ) from None


def corpus_files(name: str, card: Card) -> dict[Part, Path]:
    """Return the file of each part that has its own file; it may not exist yet."""
    folder = cache_folder() / "corpora"
    if card.kind == "python":  # The text depends on the version of Python.
        return {"train": folder / f"{name}-{platform.python_version()}.txt"}
    if len(card.members) > 1:
        return {part: folder / f"{name}.{part}.txt" for part in card.members}
    return {"train": folder / f"{name}.txt"}


def download_name(name: str, url: str) -> str:
    """Return the name of the download of a corpus in the cache."""
    return f"{name}-{url.rsplit('/', 1)[-1]}"


def build_corpus(
    name: str, *, to: Path | None = None, parameters: dict[str, Any] | None = None
) -> Path:
    """Build a corpus from this Python installation and return its file.

    Args:
        name: Name of a corpus of kind `python`.
        to: File to write; by default the file in the cache that `train` reads.
        parameters: Keyword arguments of the builder, which override the card's; only with `to`.

    Raises:
        CorpusError: The corpus is of another kind, or a parameter is invalid.
        UnsupportedOptionError: There are parameters, but no file.
    """
    if parameters and to is None:
        problem = "make another corpus, which needs its own file: name it with {}, and train on it"
        raise UnsupportedOptionError("parameters", problem, others=("to",))
    card = load_card(name)
    if card.kind != "python" or card.builder is None:
        raise CorpusError(f"{name}: is downloaded, not built; run: charlm corpus fetch {name}")
    target = to or corpus_files(name, card)["train"]
    separator = (card.separator or "\n").encode()
    try:
        documents = BUILDERS[card.builder](**card.parameters | (parameters or {}))
    except TypeError as error:
        raise CorpusError(
            f"{name}: {error}; charlm corpus show {name} lists the parameters"
        ) from None
    remedy = WRITE_REMEDY if to is None else "name another file"
    with atomic_write(target, remedy=remedy) as file:
        for number, document in enumerate(documents):
            file.write(separator * (number > 0) + document.encode())
    return target


def fetch_corpus(
    name: str, *, source: Path | None = None, report: Report | None = None
) -> list[Path]:
    """Download, verify and unpack a corpus, and return its files.

    Args:
        name: Name of a corpus of kind `url`.
        source: The user's own copy of the download; nothing is downloaded then.
        report: Called with the bytes so far and the total, or None if the server does not tell it.

    Raises:
        CorpusError: The corpus is of another kind, or the copy does not exist.
        FetchError: The download failed, or its checksum or its members differ from the card.
    """
    card = load_card(name)
    if card.kind != "url" or card.url is None:
        raise CorpusError(f"{name}: has nothing to download; run: charlm corpus build {name}")
    if source is None:
        archive = cache_folder() / "downloads" / download_name(name, card.url)
        fetch(card.url, archive, sha256=card.sha256, report=report)
    else:
        archive = source
        _check_copy(name, card, archive)
    targets = corpus_files(name, card)
    for part, target in targets.items():
        if part in card.members:
            extract_member(archive, card.members[part], target)
        else:
            _copy_file(archive, target)
        if card.strip_lines:
            _strip_lines(target)
    return list(targets.values())


def _check_copy(name: str, card: Card, copy: Path) -> None:
    """Check the user's own copy of a download."""
    if not copy.is_file():
        raise CorpusError(f"{copy}: no such file; give a copy of the download of {name}")
    if card.sha256:
        check_sha256(copy, card.sha256)


def _strip_lines(path: Path) -> None:
    """Remove white space at both ends of each line of a file; lines end with LF."""
    with atomic_write(path) as stripped, path.open("rb") as file:
        for line in file:
            stripped.write(line.strip() + b"\n")


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as file, atomic_write(target) as copy:
        while block := file.read(BLOCK_BYTES):
            copy.write(block)
