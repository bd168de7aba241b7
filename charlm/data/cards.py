"""Corpora with names: what their cards say, where their files are, how they come to be there."""

import difflib
import os
import platform
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from charlm.config.load import shipped
from charlm.config.mistakes import describe_mistakes
from charlm.config.schema import Fraction, Level, Mode, Section
from charlm.data.builders import BUILDERS
from charlm.data.fetching import Report, check_sha256, extract_member, fetch
from charlm.errors import CorpusError
from charlm.storage.atomic import atomic_write
from charlm.storage.memory_maps import BLOCK_BYTES
from charlm.storage.untrusted import MEGABYTE, parse_yaml, read_regular_file

Part = Literal["train", "valid", "test"]


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
    members: dict[Part, str] = Field(
        {}, description="Of an archive: the member that holds each part."
    )
    separator: str | None = None
    valid_share: Fraction | None = None
    test_share: Fraction | None = None
    level: Level = "char"

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> "Card":
        if self.kind == "python" and self.builder not in BUILDERS:
            raise ValueError(f"builder: must be one of {', '.join(BUILDERS)}, got {self.builder!r}")
        if self.kind == "url" and not self.url:
            raise ValueError("url: missing, and kind is url")
        return self


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
    return read_card(path)


def read_card(path: Path) -> Card:
    """Read a corpus card.

    Raises:
        CorpusError: It cannot be read, is no YAML, or has mistakes: all of them are told.
    """
    try:
        return Card.model_validate(parse_yaml(read_regular_file(path, max_bytes=MEGABYTE).decode()))
    except ValidationError as error:
        raise CorpusError(f"{path}: {describe_mistakes(error, Card)}") from None
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"{path}: cannot be read: {error}; put back the card that charlm came with"
        ) from None


def corpus_files(name: str, card: Card) -> dict[Part, Path]:
    """Return the file of each part that comes as a file of its own, whether it is there yet or not."""
    folder = cache_folder() / "corpora"
    if card.kind == "python":  # Another Python carries another text.
        return {"train": folder / f"{name}-{platform.python_version()}.txt"}
    if len(card.members) > 1:
        return {part: folder / f"{name}.{part}.txt" for part in card.members}
    return {"train": folder / f"{name}.txt"}


def build_corpus(
    name: str, *, to: Path | None = None, parameters: dict[str, Any] | None = None
) -> Path:
    """Build a corpus from what this Python installation carries; return its file.

    Args:
        name: A card of kind `python`.
        to: The file to write; by default the one in the cache that `train` reads.
        parameters: The builder's keyword arguments, over those of the card; only with `to`.

    Raises:
        CorpusError: The card is of another kind, or a parameter is wrong.
    """
    if parameters and to is None:
        raise CorpusError(
            f"{name}: parameters need a file of their own; give --to, and train on that file"
        )
    card = load_card(name)
    if card.kind != "python" or card.builder is None:
        raise CorpusError(f"{name}: is not built but downloaded; run: charlm corpus fetch {name}")
    target = to or corpus_files(name, card)["train"]
    joint = (card.separator or "\n").encode()
    try:
        documents = BUILDERS[card.builder](**card.parameters | (parameters or {}))
    except TypeError as error:
        raise CorpusError(
            f"{name}: {error}; charlm corpus show {name} lists the parameters"
        ) from None
    with atomic_write(target) as file:
        for number, document in enumerate(documents):
            file.write(joint * (number > 0) + document.encode())
    return target


def fetch_corpus(
    name: str, *, source: Path | None = None, report: Report | None = None
) -> list[Path]:
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
    targets = corpus_files(name, card)
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
            extract_member(archive, card.members[part], target)
        else:
            with archive.open("rb") as copy, atomic_write(target) as file:
                while block := copy.read(BLOCK_BYTES):
                    file.write(block)
    return list(targets.values())
