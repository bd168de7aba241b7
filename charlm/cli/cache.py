"""`charlm cache`: list the entries of the cache, and remove some."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Json, above_zero, not_empty
from charlm.cli.terminal import emit_table
from charlm.storage.tables import format_rows

if TYPE_CHECKING:
    from charlm.data.cache import CacheEntry

_DAY = 24 * 3600.0
_BYTES = {"GB": 1e9, "MB": 1e6, "kB": 1e3}
_UNITS = {"days": _DAY, "hours": 3600.0, "minutes": 60.0}


def cache(
    remove: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ENTRY",
            callback=not_empty,
            help="Remove entries: one of the list, a folder such as tokens, or all. Repeatable.",
        ),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", callback=above_zero, help="Only entries that are at least this old."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the entries of the cache with their sizes and ages, or remove some.

    The cache is $CHARLM_CACHE, by default ~/.cache/charlm. Its folders contain: corpora, the texts
    of corpora by name; downloads, downloaded files; texts, copies of compressed files, tables and
    standard input; tokens, encoded texts and vocabularies. charlm makes or downloads a removed
    entry again when it needs it, except copies of standard input.

    Try: charlm cache --remove tokens --older-than 30
    """
    from charlm.data.cache import cache_entries, remove_entries
    from charlm.data.cards import cache_folder

    entries = [entry for entry in cache_entries() if entry.seconds >= (older_than or 0) * _DAY]
    if remove is not None:
        entries = _selected(entries, remove)
        remove_entries(entries)
    data = {
        "folder": str(cache_folder()),
        "bytes": sum(entry.bytes for entry in entries),
        "removed": remove is not None,
        "entries": [entry.to_json() for entry in entries],
    }
    what = "removed" if remove is not None else str(cache_folder())
    emit_table(data, _table(entries, what), as_json=as_json)


def _selected(entries: "Sequence[CacheEntry]", names: Sequence[str]) -> "list[CacheEntry]":
    """Return the entries that are named, or whose folder is named."""
    from charlm.data.cache import KINDS, cache_entries

    known = {"all", *KINDS, *(entry.name for entry in cache_entries())}
    for name in names:
        if name not in known:
            raise typer.BadParameter(
                f"must be all, {', '.join(KINDS)}, or an entry that charlm cache lists, got "
                f"{name!r}",
                param_hint="--remove",
            )
    return [entry for entry in entries if {"all", entry.kind, entry.name} & set(names)]


def _table(entries: "Sequence[CacheEntry]", what: str) -> Iterator[str]:
    rows = [[entry.name, _size(entry.bytes), _age(entry.seconds)] for entry in entries]
    if rows:
        yield format_rows(["entry", "size", "age"], rows)
    total = _size(sum(entry.bytes for entry in entries))
    yield f"{what}: {len(rows)} {'entry' if len(rows) == 1 else 'entries'}, {total}"


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    unit = next((unit for unit, size in _BYTES.items() if count >= size), "kB")
    return f"{count / _BYTES[unit]:,.1f} {unit}"


def _age(seconds: float) -> str:
    unit = next((name for name, length in _UNITS.items() if seconds >= 2 * length), "minutes")
    count = round(seconds / _UNITS[unit])
    return f"{count} {unit if count != 1 else unit.removesuffix('s')}"
