"""Which files a name, a folder, a pattern or standard input stands for."""

import bz2
import errno
import gzip
import io
import lzma
import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from reading import opened, resolved

from charlm.config.corpus import Corpus as Section
from charlm.data import listing
from charlm.data.cards import cache_folder
from charlm.data.listing import (
    absolute_names,
    find_files,
    shown_names,
    shown_title,
    title_of,
    title_without_folders,
)
from charlm.errors import CorpusError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def texts(tmp_path) -> Path:
    """A folder with files, subfolders, a linked subfolder, a hidden one, and two loops."""
    folder = tmp_path / "texts"
    for name in ("a.txt", "b/c.txt", "b/d/e.txt", ".hidden/f.txt", "b/.g.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    other = tmp_path / "other"
    (other / "inner").mkdir(parents=True)
    (other / "inner" / "h.txt").write_text("h", encoding="utf-8")
    (folder / "linked").symlink_to(other)
    (folder / "b" / "loop").symlink_to(folder)
    (other / "loop").symlink_to(other / "inner" / "..")
    return folder


def names_of(pattern: Path, folder: Path, rules: int = 2) -> list[str]:
    files = find_files([str(pattern)], rules=rules)
    return [path.relative_to(folder).as_posix() for path in files]


def stdin(data: bytes) -> SimpleNamespace:
    return SimpleNamespace(buffer=io.BytesIO(data))


def test_a_folder_and_its_patterns_are_the_same_files_and_links_are_followed_once(texts):
    expected = ["a.txt", "b/c.txt", "b/d/e.txt", "linked/inner/h.txt"]
    for pattern in (texts, texts / "*", texts / "**", texts / "**" / "*", texts / "**" / "*.txt"):
        assert names_of(pattern, texts) == expected, pattern
    assert names_of(texts / "*" / "[ce].txt", texts) == ["b/c.txt"]
    assert names_of(texts / "b" / "**" / "e.*", texts) == ["b/d/e.txt"]
    assert names_of(texts / ".h*", texts) == [".hidden/f.txt"]


def test_a_relative_pattern_starts_in_the_current_folder(texts, monkeypatch):
    monkeypatch.chdir(texts)
    assert find_files(["b/*.txt", "a*"], rules=2) == [Path("b/c.txt"), Path("a.txt")]


def test_a_folder_may_have_the_characters_of_a_pattern_in_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "[2024] letters?"
    folder.mkdir()
    (folder / "a.txt").write_text("a", encoding="utf-8")
    assert names_of(folder / "*.txt", folder) == ["a.txt"]
    monkeypatch.chdir(folder)
    names = absolute_names(["*.txt"])
    assert names is not None
    assert find_files(names, rules=2) == [folder / "a.txt"]


def test_what_cannot_be_read_is_refused_by_name(texts):
    for pattern in (texts, texts / "*", texts / "**", texts / "b" / "*.txt"):
        dead = texts / "b" / "dead.txt"
        dead.symlink_to("no such file")
        with pytest.raises(CorpusError, match=rf"^{dead}: is a link to a file that does not exist"):
            find_files([str(pattern)], rules=2)
        dead.unlink()
        os.mkfifo(dead)
        with pytest.raises(CorpusError, match=rf"^{dead}: is not a regular file"):
            find_files([str(pattern)], rules=2)
        dead.unlink()


def test_a_folder_without_permission_is_refused_by_name(texts, monkeypatch):
    closed, read = texts / "b" / "d", Path.iterdir

    def iterdir(folder: Path):
        if folder == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return read(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    for pattern in (texts, texts / "*", texts / "**", texts / "b" / "*" / "*.txt"):
        with pytest.raises(CorpusError, match=rf"^{closed}: cannot be read: Permission denied; "):
            find_files([str(pattern)], rules=2)


def test_a_run_folder_is_no_text(texts):
    run = texts / "runs" / "my"
    run.mkdir(parents=True)
    for name in ("config.yaml", "tokenizer.json"):
        (run / name).touch()
    for name, remedy in ((run, "name the run before the texts"), (texts, r"leave it out, with .*")):
        with pytest.raises(CorpusError, match=rf"^{run}: is a run folder, not a text; {remedy}"):
            find_files([str(name)], rules=2)
    assert run / "config.yaml" not in find_files([str(texts / "**" / "*.txt")], rules=2)


def test_rules_1_find_the_files_that_earlier_versions_found(texts):
    (texts / "dead.txt").symlink_to("no such file")
    assert names_of(texts, texts, rules=1) == ["a.txt", "b/c.txt", "b/d/e.txt"]
    assert names_of(texts / "*", texts, rules=1) == ["a.txt"]


def test_a_moved_text_is_not_taken_for_the_name_of_a_corpus(tmp_path):
    for name in ("text.txt", "folder/text", "names.csv"):
        with pytest.raises(CorpusError, match="no such text; correct the path; "):
            find_files([str(tmp_path / name)], rules=2)


def test_an_address_of_the_web_is_no_text():
    with pytest.raises(CorpusError, match="no such text; charlm reads no web page; download"):
        find_files(["https://example.org/a.txt"], rules=2)


def test_the_error_of_a_misspelled_file_has_the_nearest_name(tmp_path):
    (tmp_path / "chapter one.txt").write_text("text")
    (tmp_path / "novel.txt").write_text("text")
    (tmp_path / "hovel.txt").write_text("text")
    for name, near in (
        ("chapter", "chapter one.txt"),
        ("novel", "novel.txt"),
        ("nobel.txt", "novel.txt"),
        ("HOVEL.TXT", "hovel.txt"),
    ):
        path = shlex.quote(str(tmp_path / near))
        with pytest.raises(CorpusError, match=rf"{name}: no such text; did you mean {path}\?$"):
            find_files([str(tmp_path / name)], rules=2)
    for name in ("one.pdf", "missing/novel.txt", "novel.txt/a"):
        with pytest.raises(CorpusError, match="no such text; correct the path; "):
            find_files([str(tmp_path / name)], rules=2)


def test_the_suggested_file_can_be_given_in_place_of_the_misspelled_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("", "other/my texts"):
        path = tmp_path / folder / "ten.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text", encoding="utf-8")
        near = shlex.quote(str(path.relative_to(tmp_path)))
        for name in absolute_names([str(path.with_name("tem.txt").relative_to(tmp_path))]):
            with pytest.raises(CorpusError, match=rf"; did you mean {near}\?$"):
                find_files([name], rules=2)
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(CorpusError, match=rf"; did you mean {tmp_path / 'ten.txt'}\?$"):
        find_files([str(tmp_path / "tem.txt")], rules=2)


def test_errors_show_a_path_as_it_was_written(texts, monkeypatch):
    monkeypatch.chdir(texts / "b")
    for name in ("missing.txt", "d/missing*.txt", "../missing.txt", "/missing/text.txt"):
        with pytest.raises(CorpusError) as caught:
            find_files(absolute_names([name]), rules=2)
        assert str(caught.value).startswith(f"{name}: no such text; ")
    (texts / "b/empty.txt").touch()
    with pytest.raises(CorpusError, match=r"^empty\.txt: is empty; "):
        opened(Section(text="empty.txt"))


def test_titles_show_paths_as_they_were_written_and_publish_no_folders(texts, monkeypatch):
    monkeypatch.chdir(texts)
    names = ["a.txt", "b/c.txt", "../other", "x, y.txt", "/z/text.txt"]
    title = title_of(absolute_names(names))
    assert shown_title(title) == ", ".join(names)
    assert title_without_folders(title) == "a.txt, c.txt, other, x, y.txt, text.txt"
    card = "Penn Treebank, prepared by Mikolov"
    assert shown_title(card) == title_without_folders(card) == card


def test_errors_about_standard_input_name_it(monkeypatch):
    for data, message in (
        (b"", "is empty"),
        (b"caf\xe9 au lait", r"byte 3 \(0xe9\) is not utf-8; it looks like cp1252"),
        (b"%PDF-1.4\n", "is a PDF document"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"\x1f\x8b\x08 damaged", "cannot be read"),
        (b"\n\n\n", "contains nothing but empty lines"),
    ):
        monkeypatch.setattr("sys.stdin", stdin(data))
        with pytest.raises(CorpusError, match=f"^standard input: {message}"):
            opened(Section(text="-", mode="records"))


def test_a_compressed_text_is_read_from_standard_input(monkeypatch):
    for compress in (gzip.compress, bz2.compress, lzma.compress):
        monkeypatch.setattr("sys.stdin", stdin(compress(b"some text")))
        text = opened(Section(text="-", valid_share=0.0)).parts["train"]
        assert [block for block, _ in text.blocks()] == [b"some text"]


def test_standard_input_has_the_same_name_in_every_folder_also_with_a_relative_cache(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARLM_CACHE", "cache")
    monkeypatch.setattr("sys.stdin", stdin(b"some text"))
    (name,) = resolved(Section(text="-")).corpus.text
    assert Path(name).is_relative_to(tmp_path / "cache")


def test_a_user_without_a_home_folder_needs_no_home_if_the_cache_is_named(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", fail)
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("CHARLM_CACHE")
    with pytest.raises(CorpusError, match="the user has no home folder; set CHARLM_CACHE to a"):
        cache_folder()


def test_the_title_of_a_corpus_from_standard_input_names_it(monkeypatch):
    monkeypatch.setattr("sys.stdin", stdin(b"some text"))
    assert opened(Section(text="-")).title == "standard input"
    assert shown_names(["-", "a.txt"]) == "standard input, a.txt"


def test_a_removed_copy_of_standard_input_is_an_error_with_a_remedy(monkeypatch):
    monkeypatch.setattr("sys.stdin", stdin(b"some text"))
    config = resolved(Section(text="-"))
    Path(config.corpus.text[0]).unlink()
    with pytest.raises(CorpusError, match=r"^standard input: its copy .* was removed; pipe the"):
        find_files(config.corpus.text, rules=2)


def test_standard_input_is_joined_under_a_name_of_its_own(monkeypatch):
    targets = []
    monkeypatch.setattr("os.getpid", lambda: 1)  # As in two containers that share the cache.
    with patch.object(listing, "atomic_write", side_effect=listing.atomic_write) as write:
        for data in (b"one text", b"another text"):
            monkeypatch.setattr("sys.stdin", stdin(data))
            names = absolute_names(["-"])
            assert names is not None and Path(names[0]).read_bytes() == data
        targets = [call.args[0] for call in write.call_args_list]
    assert len(set(targets)) == 2


def test_more_names_than_a_run_folder_can_keep_are_refused_before_training():
    for names in (["a.txt"] * 5_001, ["/" + "long" * 1000] * 80):
        with pytest.raises(CorpusError, match=r"names are too many for the .*; name their folder,"):
            absolute_names(names)
