"""The entries of the cache folder: how large and how old they are, and how to remove them.

An entry consists of the files in one of the folders below whose names are those that charlm gives
to an entry. Other files, links and folders are not listed, and are never removed: CHARLM_CACHE may
name a folder that contains more than the cache.
"""

import re
import stat
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from charlm.data.cards import cache_folder, card_names, download_name, load_card
from charlm.errors import CorpusError
from charlm.storage.atomic import unfinished_name
from charlm.storage.results import Result

_KEY = r"[0-9a-f]{24}"
KINDS = ("corpora", "downloads", "texts", "tokens")
# An older unfinished file was left by a process that was killed.
_MAX_WRITING_SECONDS = 24 * 3600


@dataclass(frozen=True)
class CacheEntry(Result):
    """An entry of the cache.

    Attributes:
        name: Folder and name, such as `tokens/4495ab15a78669bd2ed5d619`.
        bytes: Size of its files.
        seconds: Time since they were written.
        files: Names of its files, within the folder.
    """

    name: str
    bytes: int
    seconds: float
    files: list[str]

    @property
    def kind(self) -> str:
        """The folder: corpora, downloads, texts or tokens."""
        return self.name.partition("/")[0]


def cache_entries() -> list[CacheEntry]:
    """Return the entries of the cache, the largest first."""
    now = time.time()
    entries = []
    for kind, pattern in _patterns().items():
        files: dict[str, list[Path]] = defaultdict(list)
        for path in _regular_files(cache_folder() / kind):
            if name := _entry_name(pattern, path, now):
                files[f"{kind}/{name}"].append(path)
        entries += [_make_entry(name, paths, now) for name, paths in files.items()]
    return sorted(entries, key=lambda entry: (-entry.bytes, entry.name))


def remove_entries(entries: Iterable[CacheEntry]) -> None:
    """Remove entries from the cache. A training that reads one must not be running on Windows.

    Raises:
        CorpusError: A file cannot be removed.
    """
    for entry in entries:
        folder = cache_folder() / entry.kind
        known = {path.name for path in _regular_files(folder)}
        for name in known.intersection(entry.files):
            try:
                (folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise CorpusError(
                    f"{folder / name}: cannot be removed: {error.strerror}; make its folder "
                    "writable, or close the program that uses the file"
                ) from None


def _regular_files(folder: Path) -> list[Path]:
    """Return the files of a folder, without links; none if the folder is a link itself."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if stat.S_ISREG(path.lstat().st_mode))


def _patterns() -> dict[str, re.Pattern[str]]:
    """Return the names of files by folder; the group is the name of the entry."""
    cards = {name: load_card(name) for name in card_names()}
    corpora = "|".join(map(re.escape, cards))
    downloads = "|".join(
        re.escape(download_name(name, card.url)) for name, card in cards.items() if card.url
    )
    patterns = {
        "corpora": rf"((?:{corpora})(?:-\d+\.\d+\.\w+|\.(?:train|valid|test))?)\.txt",
        "downloads": rf"({downloads})(?:\.part|\.part\.version)?",
        "texts": rf"({_KEY}|stdin-[0-9a-f]{{16}})\.(?:txt|json|npy)|(\.joining-[0-9a-f]{{32}})",
        "tokens": rf"({_KEY})\.(?:ids|json|tokenizer\.json)",
    }
    return {kind: re.compile(pattern) for kind, pattern in patterns.items()}


def _entry_name(pattern: re.Pattern[str], path: Path, now: float) -> str | None:
    """Return the name of the entry to which a file belongs; None if charlm did not write it."""
    match = pattern.fullmatch(unfinished_name(path) or path.name)
    if match is None:
        return None
    if not path.name.startswith("."):
        return match[1]
    is_old = now - path.lstat().st_mtime > _MAX_WRITING_SECONDS
    return path.name if is_old else None


def _make_entry(name: str, paths: list[Path], now: float) -> CacheEntry:
    statuses = [path.lstat() for path in paths]
    return CacheEntry(
        name=name,
        bytes=sum(status.st_size for status in statuses),
        seconds=max(0.0, now - max(status.st_mtime for status in statuses)),
        files=[path.name for path in paths],
    )
