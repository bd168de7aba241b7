"""`charlm cache`: what it lists, and what it never removes."""

import json
import os
import time
from pathlib import Path

import pytest

from charlm.cli.main import run as command

DAY = 24 * 3600
KEY, OTHER_KEY = "0123456789abcdef01234567", "fedcba98765432100123abcd"
ENTRIES = {
    "tokens/" + KEY: {"tokens/" + KEY + ".ids": 1000, "tokens/" + KEY + ".json": 20},
    "tokens/" + OTHER_KEY: {"tokens/" + OTHER_KEY + ".tokenizer.json": 7},
    "texts/stdin-0123456789abcdef": {"texts/stdin-0123456789abcdef.txt": 500},
    "texts/" + KEY: {"texts/" + KEY + suffix: 200 for suffix in (".txt", ".json", ".npy")},
    "corpora/names": {"corpora/names.txt": 300},
    "corpora/python-docs-3.11.7": {"corpora/python-docs-3.11.7.txt": 400},
    "downloads/text8-text8.zip": {"downloads/text8-text8.zip": 900},
}
# Files of the user in folders of these names, and files that charlm is writing.
OTHERS = [
    "texts/novel.txt",
    "texts/letters/a.txt",
    "tokens/notes.json",
    "tokens/.hidden",
    "corpora/mine.txt",
    "corpora/names.backup.txt",
    "downloads/holiday.zip",
    "downloads/text8-my-notes.zip",
    "documents/a.txt",
    f"tokens/.{KEY}.ids.abcd1234",
    "novel.txt",
]


def write(path: Path, size: int, days: float = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - days * DAY,) * 2)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A cache folder that contains other files too."""
    folder = tmp_path / "cache"
    for number, files in enumerate(ENTRIES.values()):
        for name, size in files.items():
            write(folder / name, size, days=10 * number)
    for name in OTHERS:
        write(folder / name, 50)
    monkeypatch.setenv("CHARLM_CACHE", str(folder))
    return folder


def result(capfd, *arguments: object) -> dict:
    assert command(["cache", *map(str, arguments), "--json"]) == 0
    return json.loads(capfd.readouterr().out)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_entries_are_listed_with_sizes_and_ages_and_nothing_is_removed(folder, capfd):
    before = files_in(folder)
    listed = result(capfd)
    sizes = {entry["name"]: entry["bytes"] for entry in listed["entries"]}
    assert sizes == {name: sum(files.values()) for name, files in ENTRIES.items()}
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
    ages = {entry["name"]: round(entry["seconds"] / DAY) for entry in listed["entries"]}
    assert list(map(ages.get, ENTRIES)) == [0, 10, 20, 30, 40, 50, 60]
    assert listed["bytes"] == sum(sizes.values()) and not listed["removed"]
    assert files_in(folder) == before
    assert command(["cache"]) == 0
    *rows, total = (line.split() for line in capfd.readouterr().out.splitlines())
    assert ["downloads/text8-text8.zip", "900", "B", "60", "days"] in rows
    assert total == [f"{folder}:", "7", "entries,", "3.7", "kB"]


def test_one_minute_is_written_without_a_plural(folder, capfd):
    write(folder / "downloads/text8-text8.zip", 10, days=1 / (24 * 60))
    assert command(["cache"]) == 0
    (row,) = (line for line in capfd.readouterr().out.splitlines() if "text8" in line)
    assert row.split()[-2:] == ["1", "minute"]


def test_all_removes_every_entry_and_no_other_file(folder, capfd):
    assert len(result(capfd, "--remove", "all")["entries"]) == len(ENTRIES)
    assert files_in(folder) == set(OTHERS)
    assert result(capfd)["entries"] == []


@pytest.mark.parametrize(
    ("arguments", "removed"),
    [
        (["--remove", "tokens"], {"tokens/" + KEY, "tokens/" + OTHER_KEY}),
        (["--remove", "corpora/names"], {"corpora/names"}),
        (["--remove", "corpora", "--older-than", 45], {"corpora/python-docs-3.11.7"}),
        (
            ["--remove", "all", "--older-than", 15, "--remove", "texts"],
            set(list(ENTRIES)[2:]),
        ),
    ],
)
def test_entries_are_removed_by_name_folder_and_age(folder, capfd, arguments, removed):
    before = files_in(folder)
    assert {entry["name"] for entry in result(capfd, *arguments)["entries"]} == removed
    assert before - files_in(folder) == {file for name in removed for file in ENTRIES[name]}


def test_a_part_of_a_file_that_a_killed_process_left_is_an_entry_after_a_day(folder, capfd):
    old = {f"tokens/.{KEY}.ids.abcd1234", "texts/.joining-" + "0" * 32}
    for name in (*old, "texts/.novel.txt.abcd1234"):
        write(folder / name, 50, days=2)
    result(capfd, "--remove", "all")
    assert files_in(folder) == {*OTHERS, "texts/.novel.txt.abcd1234"} - old


@pytest.mark.parametrize(
    "name",
    ["../secret", "tokens/../../secret", "texts/novel", "texts/novel.txt", "", "/", "tokens/"],
)
def test_a_name_that_is_no_entry_removes_nothing(folder, capfd, name):
    write(folder.parent / "secret", 5)
    before = files_in(folder.parent)
    assert command(["cache", "--remove", name]) == 2
    assert "--remove" in capfd.readouterr().err and files_in(folder.parent) == before


def test_links_are_neither_followed_nor_removed(folder, capfd):
    outside = folder.parent / "outside"
    write(outside / f"{KEY}.ids", 5)
    (folder / "tokens" / f"{OTHER_KEY}.ids").symlink_to(outside / f"{KEY}.ids")
    (folder / "texts" / "letters.txt").symlink_to(outside)
    result(capfd, "--remove", "all")
    assert (folder / "tokens" / f"{OTHER_KEY}.ids").is_symlink()
    for path in (folder / "tokens").iterdir():
        path.unlink()
    (folder / "tokens").rmdir()
    (folder / "tokens").symlink_to(outside)
    assert result(capfd, "--remove", "all")["entries"] == []
    assert (outside / f"{KEY}.ids").is_file()


def test_an_empty_cache_has_no_entries(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "none"))
    assert command(["cache"]) == 0
    assert capfd.readouterr().out == f"{tmp_path / 'none'}: 0 entries, 0 B\n"
