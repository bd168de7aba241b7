"""Texts from names, paths and standard input, and their parts, which share nothing."""

import gzip
import io
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import opened, resolved

from charlm.config.corpus import Corpus as Section
from charlm.data import corpus as corpora
from charlm.data import encodings, sources
from charlm.data.builders.table import BUILDERS
from charlm.data.cards import build_corpus, card_names, corpus_files, fetch_corpus, load_card
from charlm.data.corpus import Corpus, Text, read_text
from charlm.errors import CorpusError, FetchError
from charlm.storage.memory_maps import BLOCK_BYTES

STORY = "Once upon a time\nthere was a naïve 日本 fox.\r\n\nThe end.\n"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give each test its own cache, and skip waiting for the disk."""
    folder = tmp_path_factory.mktemp("corpora-cache")
    monkeypatch.setenv("CHARLM_CACHE", str(folder))
    monkeypatch.setattr("charlm.storage.atomic.os.fsync", lambda handle: None)
    return folder


def contents(text: Text) -> list[bytes]:
    """Return the documents of a text."""
    return [
        text.files[number].path.read_bytes()[start:stop]
        for number, start, stop in text.spans.tolist()
    ]


def whole(*names: object, raw: bool = False, **fields: object) -> list[bytes]:
    """Return the documents of texts that are not split."""
    section = Section(text=tuple(map(str, names)), valid_share=0.0, **fields)
    return contents(opened(section, raw=raw).parts["train"])


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def parts_of(path: Path, **fields: object) -> dict[str, list[bytes]]:
    corpus = opened(Section(text=(str(path),), **fields))
    return {part: contents(text) for part, text in corpus.parts.items()}


# Cards


def test_every_shipped_card_is_valid():
    for name in card_names():
        card = load_card(name)
        assert card.title and card.licence and card.source, name
        assert (card.valid_share or 0) + (card.test_share or 0) < 1, name


def test_the_error_of_a_misspelled_corpus_has_the_nearest_name():
    with pytest.raises(
        CorpusError, match=r"tinyshakespear: no such corpus; did you mean tinyshakespeare\?"
    ):
        load_card("tinyshakespear")
    with pytest.raises(
        CorpusError,
        match=r"tinyshakespear: no such text; did you mean the corpus tinyshakespeare\?",
    ):
        whole("tinyshakespear")


def test_the_error_of_an_unknown_corpus_has_the_command_that_lists_them():
    with pytest.raises(
        CorpusError, match="zzz: no such corpus; charlm corpus list shows the names"
    ):
        load_card("zzz")


def test_the_error_of_an_invalid_card_lists_all_mistakes(tmp_path):
    write(tmp_path / "mine.yaml", "title: Mine\nkind: python\nbuilder: nobody\nmodes: stream\n")
    with (
        patch("charlm.data.cards.shipped", return_value=tmp_path),
        pytest.raises(CorpusError) as caught,
    ):
        load_card("mine")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("modes", "language", "licence", "source"))


def test_a_card_decides_the_open_fields_of_a_configuration(own_cache):
    build_corpus(
        "agreement",
        to=corpus_files("agreement", load_card("agreement"))["train"],
        parameters={"sentences": 100},
    )
    corpus = opened(Section(text="agreement"))
    assert (corpus.title, corpus.mode) == ("Subject-verb agreement", "records")
    assert {part: len(text.spans) for part, text in corpus.parts.items()} == {
        "train": 80,
        "valid": 10,
        "test": 10,
    }
    assert resolved(Section(text="agreement")).corpus.split == "shuffled"
    section = Section(text="agreement", mode="stream", valid_share=0.5, test_share=0.0)
    mine = opened(section)
    assert (mine.mode, list(mine.parts), resolved(section).corpus.split) == (
        "stream",
        ["train", "valid"],
        "contiguous",
    )


# Kinds of sources


def test_a_text_is_the_same_from_any_kind_of_source(tmp_path, monkeypatch):
    path = write(tmp_path / "story.txt", STORY)
    packed = write(tmp_path / "packed" / "story.txt.gz", gzip.compress(STORY.encode()))
    write(tmp_path / "folder" / "a" / "1.txt", STORY)
    write(tmp_path / "folder" / ".hidden", "not this")
    write(tmp_path / "folder" / ".git" / "index", b"nor\0this")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(STORY.encode())))
    for name in (
        path,
        packed,
        tmp_path / "folder",
        tmp_path / "s*.txt",
        tmp_path / "**" / "1.txt",
        "-",
    ):
        assert whole(name) == [STORY.encode()], name


def test_a_relative_path_becomes_absolute(tmp_path, monkeypatch):
    write(tmp_path / "story.txt", STORY)
    monkeypatch.chdir(tmp_path)
    assert resolved(Section(text="story.txt")).corpus.text == (str(tmp_path / "story.txt"),)


def test_standard_input_is_copied_into_a_file(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(STORY.encode())))
    section = resolved(Section(text="-")).corpus
    assert Path(section.text[0]).read_bytes() == STORY.encode()
    assert resolved(section).corpus == section


def test_files_are_read_in_the_given_order_and_a_folder_in_the_order_of_names(tmp_path):
    for name, text in (("b.txt", "two\n"), ("a.txt", "one\n"), ("c/a.txt", "three\n")):
        write(tmp_path / name, text)
    assert whole(tmp_path / "b.txt", tmp_path / "a.txt") == [b"two\n", b"one\n"]
    assert whole(tmp_path) == [b"one\n", b"two\n", b"three\n"]
    assert whole(tmp_path / "*.txt") == [b"one\n", b"two\n"]


def test_every_file_is_a_document_and_ends_its_last_record(tmp_path):
    first, second = write(tmp_path / "1.txt", "ann\nbob"), write(tmp_path / "2.txt", "carl\fdora")
    assert whole(first, second) == [b"ann\nbob", b"carl\fdora"]
    assert whole(first, second, separator="\f") == [b"ann\nbob", b"carl", b"dora"]
    assert whole(first, second, mode="records") == [b"ann", b"bob", b"carl", b"dora"]


def test_empty_files_among_others_are_skipped(tmp_path):
    files = [
        write(tmp_path / f"{number}.txt", text)
        for number, text in enumerate(("", "ab\n", "", "cd\n", ""))
    ]
    assert whole(*files) == [b"ab\n", b"cd\n"]


def test_a_fraction_beside_a_separate_text_is_reported_to_have_no_effect(tmp_path):
    path, other = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("ann\n" * 50, encoding="utf-8")
    other.write_text("bob\n" * 50, encoding="utf-8")
    for part in ("valid", "test"):
        section = Section.model_validate({"text": str(path), f"{part}_text": str(other)})
        assert opened(section).warnings == ()
        section = section.model_copy(update={f"{part}_share": 0.2})
        (warning,) = opened(section).warnings
        assert warning.startswith(
            f"corpus.{part}_share: 0.2 has no effect beside a separate text, "
        )
        assert warning.endswith(f"b.txt (corpus.{part}_text); remove one of the two")


def test_a_separator_separates_documents_and_empty_ones_are_skipped(tmp_path):
    path = write(tmp_path / "text.txt", "--one--two\n----three")
    assert whole(path, separator="--") == [b"one", b"two\n", b"three"]


def test_records_are_lines_without_line_ends_and_empty_ones_are_skipped(tmp_path):
    path = write(tmp_path / "names.txt", "anna\r\n\r\n\nbo\rb\n zoé \ncarl")
    assert whole(path, mode="records") == [b"anna", b"bo", b"b", " zoé ".encode(), b"carl"]
    earlier = whole(path, mode="records", rules=1)
    assert earlier == [b"anna", b"bo\rb", " zoé ".encode(), b"carl"]


def test_records_may_be_longer_than_a_block(tmp_path):
    lines = ["x" * 7, "y" * 20, "z", "w" * 8]
    path = write(tmp_path / "names.txt", "\r\n".join(lines))
    with patch("charlm.data.corpus.BLOCK_BYTES", 8):
        assert whole(path, mode="records") == [line.encode() for line in lines]


def test_a_byte_order_mark_is_removed_from_each_file(tmp_path):
    first, second = write(tmp_path / "1.txt", "\ufeffab\n"), write(tmp_path / "2.txt", "\ufeffcd\n")
    assert whole(first) == [b"ab\n"]
    assert whole(first, second) == [b"ab\n", b"cd\n"]


def test_a_byte_order_mark_after_the_first_block_is_part_of_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 4)
    assert whole(write(tmp_path / "text.txt", "abcd\ufeffe")) == ["abcd\ufeffe".encode()]


def test_a_text_in_another_encoding_is_converted(tmp_path):
    for encoding in ("latin-1", "utf-16", "cp1252"):
        path = write(tmp_path / f"{encoding}.txt", "naïve café\n".encode(encoding))
        assert whole(path, encoding=encoding) == ["naïve café\n".encode()], encoding


def test_an_unknown_encoding_is_an_error(tmp_path):
    message = "Python has no encoding 'utf-99'; try utf-8 or cp1252"
    for name in ("text.txt", "text.txt.gz"):
        path = write(tmp_path / name, gzip.compress(b"some text"))
        with pytest.raises(CorpusError, match=message):
            whole(path, encoding="utf-99")


def test_raw_bytes_are_read_unchanged(tmp_path):
    data = b"\xef\xbb\xbf\0\xff\xfe\r\n"
    assert whole(write(tmp_path / "image.bin", data), raw=True) == [data]


# Errors


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"caf\xe9 au lait",
            r"byte 3 \(0xe9\) is not utf-8; .*corpus\.encoding=cp1252, .*tokenizer\.level=byte",
        ),
        (b"ab\0cd", "has a NUL character, so it is not text; .*tokenizer.level=byte"),
        (b"caf\xc3", r"byte 3 \(0xc3\) is not utf-8"),
        (b"", "is empty; give at least two characters"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"a", "has a single character"),
        ("é".encode(), "has a single character"),
        ("👩".encode(), "has a single character"),
    ],
)
def test_a_file_that_is_not_text_is_an_error_of_one_line(data, message, tmp_path):
    path = write(tmp_path / "text.txt", data)
    with pytest.raises(CorpusError, match=f"^{path}: {message}") as caught:
        whole(path)
    assert "\n" not in str(caught.value)


def test_a_text_of_nothing_but_separators_is_an_error_of_one_line(tmp_path):
    path = write(tmp_path / "text.txt", "\n\n\n")
    for fields in ({"mode": "records"}, {"mode": "stream", "separator": "\n"}):
        with pytest.raises(CorpusError, match=f"^{path}: contains nothing but [^\n]+; [^\n]+$"):
            whole(path, **fields)


def test_a_character_may_cross_the_boundary_of_two_blocks(tmp_path):
    data = b"x" * (BLOCK_BYTES - 1) + "日本\n".encode()
    assert whole(write(tmp_path / "text.txt", data)) == [data]
    assert whole(write(tmp_path / "text.txt.gz", gzip.compress(data, 1))) == [data]


def test_the_offset_of_an_invalid_byte_is_right_after_a_block_boundary(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 100)
    for before in (99, 98, 97):
        for broken in (b"\xff", b"\xe6\x97x"):
            data = b"x" * before + "日".encode() + broken
            message = rf"byte {before + 3} \(0x{broken[0]:02x}\) is not utf-8"
            with pytest.raises(CorpusError, match=message):
                whole(write(tmp_path / "text.txt", data))


def test_the_offset_of_a_character_cut_by_a_block_boundary_is_its_start(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "BLOCK_BYTES", 100)
    data = b"x" * 99 + b"\xe6x"
    with pytest.raises(CorpusError, match=r"byte 99 \(0xe6\) is not utf-8"):
        whole(write(tmp_path / "text.txt", data))


def test_a_missing_text_is_an_error_of_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, problem in (
        ("missing.txt", "no such text"),
        ("no/*.csv", "no such text"),
        ("empty", "contains no file"),
    ):
        message = f"{re.escape(name)}: {problem}; correct the path; charlm corpus list"
        with pytest.raises(CorpusError, match=message):
            whole(tmp_path / name)


def test_a_damaged_gzip_file_is_an_error_of_one_line(tmp_path):
    for data in (b"no gzip", gzip.compress(STORY.encode() * 99)[:-20]):
        with pytest.raises(CorpusError, match=r"text\.gz: cannot be read: [^\n]+$"):
            whole(write(tmp_path / "text.gz", data))


def test_a_device_is_an_error():
    with pytest.raises(CorpusError, match="/dev/null: is not a regular file; pipe it in instead"):
        whole("/dev/null")


def test_the_error_of_a_corpus_that_is_not_downloaded_has_the_command_for_it():
    for name in ("tinyshakespeare", "names", "ptb"):
        message = f"{name}: is not on this machine yet; run: charlm corpus fetch {name}$"
        with pytest.raises(CorpusError, match=message):
            opened(Section(text=name))


# Parts


alphabet = st.characters(exclude_categories=("Cs",), exclude_characters="\0\ufeff")
shares = st.sampled_from(
    [(0.1, 0.0), (0.1, 0.1), (0.05, 0.05), (0.3, 0.3), (0.0, 0.0), (0.0, 0.25), (0.33, 0.34)]
)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(alphabet, min_size=2, max_size=60),
    held_out=shares,
    separator=st.sampled_from([None, "a", "\n"]),
)
def test_contiguous_parts_joined_are_the_text(text, held_out, separator, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("text") / "text.txt", text)
    pieces = text.split(separator) if separator else [text]
    fields = {"valid_share": held_out[0], "test_share": held_out[1], "separator": separator}
    if len("".join(pieces)) < 4:  # A small fraction of fewer characters is empty.
        return
    parts = parts_of(path, **fields)
    joined = b"".join(
        document for part in ("train", "valid", "test") for document in parts.get(part, [])
    )
    assert joined == "".join(pieces).encode()
    for documents in parts.values():
        assert documents and all(document.decode() for document in documents)  # Whole characters.


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text("aé日", min_size=1, max_size=3), min_size=3, max_size=40),
    held_out=shares,
    split=st.sampled_from(["shuffled", "contiguous", "documents"]),
    seed=st.integers(0, 9),
)
def test_every_record_is_in_exactly_one_part(lines, held_out, split, seed, tmp_path_factory):
    records = [f"{number} {line}" for number, line in enumerate(lines)]
    path = write(tmp_path_factory.mktemp("text") / "text.txt", "\n".join(records))
    parts = parts_of(
        path,
        mode="records",
        valid_share=held_out[0],
        test_share=held_out[1],
        split=split,
        split_seed=seed,
    )
    joined = [record.decode() for part in parts.values() for record in part]
    assert sorted(joined) == sorted(records)
    assert len(parts["train"]) == round((1.0 - sum(held_out)) * len(records))
    if split != "shuffled":
        assert joined == records


def test_the_first_nine_tenths_are_the_training_part(tmp_path):
    for size in (2, 3, 7, 10, 99, 100, 1000, 1009):
        text = ("0123456789" * 101)[:size]
        parts = parts_of(write(tmp_path / "text.txt", text))
        cut = size * 9 // 10
        assert parts == {"train": [text[:cut].encode()], "valid": [text[cut:].encode()]}, size


def test_a_fraction_that_is_not_exact_in_binary_loses_no_byte(tmp_path):
    # 1 - (0.1 + 0.2) and 0.7 + 0.1 are slightly less than 0.7 and 0.8.
    parts = parts_of(write(tmp_path / "text.txt", "0123456789"), valid_share=0.1, test_share=0.2)
    assert parts == {"train": [b"0123456"], "valid": [b"7"], "test": [b"89"]}


def test_a_cut_document_continues_in_the_next_part(tmp_path):
    path = write(tmp_path / "text.txt", "abcd|efgh")
    section = Section(text=(str(path),), separator="|", valid_share=0.25)
    corpus = opened(section)
    assert {part: contents(text) for part, text in corpus.parts.items()} == {
        "train": [b"abcd", b"ef"],
        "valid": [b"gh"],
    }
    assert {part: text.is_cut for part, text in corpus.parts.items()} == {
        "train": True,
        "valid": False,
    }
    halves = opened(section.model_copy(update={"valid_share": 0.5}))
    assert not halves.parts["train"].is_cut


def test_a_text_too_short_for_its_split_is_an_error_of_one_line(tmp_path):
    path = write(tmp_path / "text.txt", "ab")
    message = r"text\.txt: too short: its split leaves nothing to train on; [^\n]+$"
    for fields in (
        {"mode": "records", "valid_share": 0.4, "test_share": 0.5},
        {"valid_share": 0.9},
    ):
        with pytest.raises(CorpusError, match=message):
            parts_of(path, **fields)


def test_a_cut_inside_the_last_character_leaves_no_empty_part(tmp_path):
    parts = parts_of(write(tmp_path / "text.txt", "0é"), valid_share=0.1)
    assert parts == {"train": ["0é".encode()]}


@settings(max_examples=40, deadline=None)
@given(files=st.lists(st.text("ab\n\r", max_size=8), min_size=2, max_size=4))
def test_the_records_of_several_files_are_those_of_each_file(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [write(folder / str(number), text) for number, text in enumerate(files)]
    lines = [line for text in files for line in re.split("[\r\n]", text)]
    expected = [line.encode() for line in lines if line]
    if expected and sum(map(len, files)) > 1:
        assert whole(*paths, mode="records") == expected


def test_a_shuffled_split_depends_only_on_its_seed(tmp_path):
    path = write(tmp_path / "names.txt", "\n".join(map(str, range(200))))
    first, again, other = (parts_of(path, mode="records", split_seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert len(first["valid"]) == len(other["valid"]) == 20
    assert first["valid"] != other["valid"]


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(st.text("ab", min_size=1, max_size=3), min_size=2, max_size=60),
    held_out=shares,
    seed=st.integers(0, 9),
)
def test_all_copies_of_a_record_are_in_one_part(records, held_out, seed, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("text") / "text.txt", "\n".join(records))
    fields = {"valid_share": held_out[0], "test_share": held_out[1], "split_seed": seed}
    section = Section(text=(str(path),), mode="records", **fields)
    try:
        corpus = opened(section)
    except CorpusError:  # Nearly all records are the same one.
        return
    parts = {part: contents(text) for part, text in corpus.parts.items()}
    joined = [record for part in parts.values() for record in part]
    assert sorted(joined) == sorted(record.encode() for record in records)
    assert sum(len(set(part)) for part in parts.values()) == len(set(records))
    assert set(corpus.shares_in_training().values()) <= {0.0}


def test_held_out_records_that_are_also_in_training_are_counted(tmp_path):
    train = write(tmp_path / "train.txt", "anna\nemma\nnoah\n")
    valid = write(tmp_path / "valid.txt", "anna\nmia\nanna\nleo\n")
    section = Section(text=(str(train),), valid_text=(str(valid),), mode="records")
    assert opened(section).shares_in_training() == {"valid": 0.5}
    stream = section.model_copy(update={"mode": "stream"})
    assert opened(stream).shares_in_training() == {}
    whole_split = Section(text=(str(train),), mode="records", test_share=0.3, valid_share=0.3)
    assert opened(whole_split).shares_in_training() == {"valid": 0.0, "test": 0.0}


def test_copies_that_are_kept_apart_are_split_as_earlier_versions_did(tmp_path):
    records = [f"{number % 7}" for number in range(40)]
    path = write(tmp_path / "names.txt", "\n".join(records))
    parts = parts_of(path, mode="records", copies="apart", valid_share=0.25, split_seed=3)
    order = np.random.default_rng(3).permutation(40)
    expected = [records[number].encode() for number in sorted(order[:30])]
    assert parts["train"] == expected
    section = Section(text=(str(path),), mode="records", copies="apart", valid_share=0.25)
    assert opened(section).shares_in_training() == {"valid": 1.0}


def test_the_frequency_of_a_record_does_not_decide_its_part(tmp_path):
    records = ["often"] * 30 + [str(number) for number in range(70)]
    path = write(tmp_path / "names.txt", "\n".join(records))
    for seed in range(4):
        parts = parts_of(path, mode="records", valid_share=0.2, test_share=0.1, split_seed=seed)
        for part, size in {"train": 70, "valid": 20, "test": 10}.items():
            assert abs(len(parts[part]) - size) <= 30, (seed, part)


def test_a_shuffled_part_is_in_reading_order(tmp_path):
    path = write(tmp_path / "names.txt", "\n".join(map(str, range(200))))
    for part in parts_of(path, mode="records", test_share=0.2).values():
        numbers = [int(record) for record in part]
        assert numbers == sorted(numbers)


def test_validation_and_test_fractions_are_held_out(tmp_path):
    parts = parts_of(write(tmp_path / "text.txt", "0123456789"), valid_share=0.2, test_share=0.3)
    assert parts == {"train": [b"01234"], "valid": [b"56"], "test": [b"789"]}


def test_a_fraction_of_zero_makes_no_part(tmp_path):
    assert list(parts_of(write(tmp_path / "text.txt", STORY), valid_share=0.0)) == ["train"]


def test_a_separate_text_replaces_a_fraction(tmp_path):
    path, other = write(tmp_path / "text.txt", "0123456789"), write(tmp_path / "other.txt", "other")
    assert parts_of(path, valid_text=str(other)) == {"valid": [b"other"], "train": [b"0123456789"]}
    assert parts_of(path, test_text=str(other)) == {
        "test": [b"other"],
        "train": [b"012345678"],
        "valid": [b"9"],
    }


def test_the_parts_are_in_one_order_where_a_text_is_separate_too(tmp_path):
    path, other = write(tmp_path / "text.txt", "0123456789"), write(tmp_path / "other.txt", "other")
    for fields in ({"valid_text": str(other), "test_share": 0.2}, {"test_text": str(other)}):
        assert list(parts_of(path, **fields)) == ["train", "valid", "test"], fields


def test_another_text_is_read_like_the_corpus_and_not_split(tmp_path):
    path = write(tmp_path / "names.txt", "ann\nbob\n")
    like = resolved(Section(text=(str(path),), mode="records"))
    other = write(tmp_path / "others.txt", "carl\r\ndora\n")
    assert contents(read_text([str(other)], like)) == [b"carl", b"dora"]


def test_a_fingerprint_depends_on_the_text_and_on_its_documents(tmp_path):
    def fingerprint(data: str, **fields: object) -> str:
        section = Section(
            text=(str(write(tmp_path / "text.txt", data)),), valid_share=0.0, **fields
        )
        return opened(section).parts["train"].fingerprint

    prints = [
        fingerprint("ab\ncd"),
        fingerprint("ab\nce"),
        fingerprint("ab\ncd", separator="\n"),
        fingerprint("ab\ncd", separator="b"),
    ]
    assert len(set(prints)) == 4
    assert fingerprint("ab\ncd") == prints[0]


@settings(max_examples=60, deadline=None)
@given(
    text=st.text("aé日\n", min_size=2, max_size=60),
    size=st.integers(1, 20),
    reach=st.integers(1, 20),
)
def test_joined_blocks_are_the_text_cut_between_characters(text, size, reach, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("text") / "text.txt", text)
    whole_text = opened(Section(text=(str(path),), valid_share=0.0)).parts["train"]
    with patch("charlm.data.corpus.BLOCK_BYTES", reach):
        blocks = list(whole_text.blocks(size))
    assert "".join(block.decode() for block, _ in blocks) == text
    assert [ends for _, ends in blocks] == [False] * (len(blocks) - 1) + [True]
    assert all(len(block) < size + reach + 3 for block, _ in blocks)


@settings(max_examples=100, deadline=None)
@given(
    files=st.lists(st.text("aé日\n|", max_size=30), min_size=1, max_size=5),
    size=st.integers(1, 40),
    separator=st.sampled_from([None, "|"]),
    mode=st.sampled_from(["stream", "records"]),
    valid_share=st.sampled_from([0.0, 0.3]),
)
def test_joined_slices_are_the_text(files, size, separator, mode, valid_share, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(files):
        write(folder / f"{number}.txt", text)
    section = Section(text=(str(folder),), separator=separator, mode=mode, valid_share=valid_share)
    try:
        text = opened(section).parts["train"]
    except CorpusError:  # Too small, or nothing but separators.
        return
    with patch("charlm.data.corpus.BLOCK_BYTES", 3):
        slices = text.slices(size)
        joined, ends = b"", []
        for part in slices:
            for block, ends_document in part.blocks():
                joined += block
                ends += [len(joined)] if ends_document else []
            assert (
                len({file.path for file in part.files}) == len(part.files) == part.spans[-1, 0] + 1
            )
            assert part.size <= size + 6 or len(part.files) == 1
    assert joined == b"".join(contents(text))
    whole_ends = np.cumsum([len(document) for document in contents(text)]).tolist()
    assert ends == (whole_ends[:-1] if text.is_cut else whole_ends)


def test_making_slices_measures_each_file_once(tmp_path):
    num_files = 40
    for number in range(num_files):
        write(tmp_path / "texts" / f"{number}.txt", "a short text\n")
    text = opened(Section(text=(str(tmp_path / "texts"),), valid_share=0.0)).parts["train"]
    with patch("charlm.data.corpus._num_bytes", side_effect=corpora._num_bytes) as measure:
        slices = text.slices(10_000)
    assert len(slices) == 1
    assert measure.call_count == num_files


def test_an_added_file_changes_no_other_slice(tmp_path):
    def prints() -> list[str]:
        text = opened(Section(text=(str(tmp_path / "texts"),), valid_share=0.0)).parts["train"]
        return [part.fingerprint for part in text.slices(10)]

    for name in "acd":
        write(tmp_path / "texts" / name, f"text {name} " * 3)
    before = prints()
    write(tmp_path / "texts" / "b", "text b " * 4)
    after = prints()
    assert len(before) == 3 and len(after) == 4
    assert set(before) < set(after)


def test_whole_documents_at_the_end_are_held_out(tmp_path):
    path = write(tmp_path / "text.txt", "|".join(["a", "bbbbbbbbbb", "c", "d", "ee"]))
    parts = parts_of(path, separator="|", split="documents", valid_share=0.4)
    assert parts == {"train": [b"a", b"bbbbbbbbbb", b"c"], "valid": [b"d", b"ee"]}


def test_a_plain_file_is_read_in_place_and_a_compressed_one_is_converted_once(
    own_cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(sources, "_MIN_CACHED_BYTES", 10)
    path, packed = (
        write(tmp_path / "s.txt", STORY),
        write(tmp_path / "p.gz", gzip.compress(STORY.encode())),
    )
    section = Section(text=(str(path), str(packed)), valid_share=0.0)
    text = opened(section).parts["train"]
    assert text.files[0].path == path and text.files[1].path.parent == own_cache / "texts"
    with patch.object(sources, "utf8_blocks", side_effect=AssertionError("read again")):
        assert opened(section).parts["train"].fingerprint == text.fingerprint
    write(packed, gzip.compress(b"another story"))
    assert contents(opened(section).parts["train"])[1] == b"another story"
    for note in (own_cache / "texts").iterdir():
        note.write_bytes(b"[1]")  # A damaged cache is ignored.
    assert contents(opened(section).parts["train"]) == [STORY.encode(), b"another story"]


# Built and downloaded corpora


def test_a_corpus_is_built_with_the_given_parameters(tmp_path):
    path = build_corpus(
        "agreement", to=tmp_path / "few.txt", parameters={"sentences": 12, "seed": 3}
    )
    assert path == tmp_path / "few.txt"
    assert len(set(path.read_text(encoding="utf-8").splitlines())) == 12


def test_an_unknown_parameter_of_a_builder_is_an_error(tmp_path):
    with pytest.raises(
        CorpusError, match=r"agreement: .*'sentence'.*; charlm corpus show agreement lists"
    ):
        build_corpus("agreement", to=tmp_path / "few.txt", parameters={"sentence": 12})
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_is_built_when_it_is_first_read(monkeypatch):
    names = ["LATIN SMALL LETTER A WITH GRAVE", "PILE OF POO"] * 9
    monkeypatch.setitem(BUILDERS, "unicode-names", lambda: iter(names))
    assert not corpus_files("unicode-names", load_card("unicode-names"))["train"].exists()
    corpus = opened(Section(text="unicode-names"))
    records = [name.decode() for part in corpus.parts.values() for name in contents(part)]
    assert sorted(records) == sorted(names)


def test_a_corpus_is_either_built_or_downloaded():
    with pytest.raises(
        CorpusError, match="names: is downloaded, not built; run: charlm corpus fetch names"
    ):
        build_corpus("names")
    with pytest.raises(
        CorpusError, match="agreement: has nothing to download; run: charlm corpus build agreement"
    ):
        fetch_corpus("agreement")


def test_a_copy_with_a_wrong_checksum_is_an_error(tmp_path, own_cache):
    copy = write(tmp_path / "names.txt", "emma\nolivia\n")
    with pytest.raises(FetchError, match=r"sha256 is [0-9a-f]{64}, expected 0a30b555"):
        fetch_corpus("names", source=copy)
    assert list(own_cache.iterdir()) == []


def test_a_missing_copy_is_an_error(tmp_path):
    with pytest.raises(
        CorpusError, match=r"copy\.txt: no such file; give a copy of the download of names"
    ):
        fetch_corpus("names", source=tmp_path / "copy.txt")


def test_a_copy_is_copied_to_the_cache(tmp_path):
    card = load_card("names").model_copy(update={"sha256": None})
    copy = write(tmp_path / "names.txt", "emma\nolivia\nava\n" * 9)
    with patch("charlm.data.cards.load_card", return_value=card):
        (path,) = fetch_corpus("names", source=copy)
    assert path.read_bytes() == copy.read_bytes()
    assert opened(Section(text="names")).mode == "records"


def penn_treebank(folder: Path) -> Path:
    """Return an archive with the members of Penn Treebank."""
    archive = folder / "simple-examples.tgz"
    with tarfile.open(archive, "w:gz") as file:
        for part in ("train", "valid", "test"):
            data = f" the {part} <unk> \n a mat \n".encode()
            entry = tarfile.TarInfo(f"./simple-examples/data/ptb.{part}.txt")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return archive


def test_an_archive_is_unpacked_into_the_parts_of_its_corpus(tmp_path):
    archive = penn_treebank(tmp_path)
    paths = fetch_corpus("ptb", source=archive)
    assert [path.name for path in paths] == ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"]
    corpus: Corpus = opened(Section(text="ptb"))
    assert {part: contents(text) for part, text in corpus.parts.items()} == {
        part: [f" the {part} <unk> ".encode(), b" a mat "] for part in ("train", "valid", "test")
    }
    assert resolved(Section(text="ptb")).corpus.valid_text == (str(paths[1]),)


def test_penn_treebank_by_characters_has_no_space_at_the_ends_of_a_line(tmp_path):
    fetch_corpus("ptb-characters", source=penn_treebank(tmp_path))
    corpus = opened(Section(text="ptb-characters"))
    assert {part: contents(text) for part, text in corpus.parts.items()} == {
        part: [f"the {part} <unk>".encode(), b"a mat"] for part in ("train", "valid", "test")
    }


def test_an_archive_without_a_part_is_an_error(tmp_path):
    archive = tmp_path / "simple-examples.tgz"
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(FetchError, match=r"no member '\./simple-examples/data/ptb\.train\.txt'"):
        fetch_corpus("ptb", source=archive)


def test_a_file_that_is_read_twice_is_reported(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.csv"
    one.write_text("some text\n" * 20, encoding="utf-8")
    two.write_text("text\na row of a table\n", encoding="utf-8")
    for names, valid, expected in (
        ((tmp_path,), None, []),
        ((tmp_path, one), None, ["corpus.text: names 1 file more than once"]),
        ((one, two, tmp_path / "*"), None, ["corpus.text: names 2 files more than once"]),
        ((one,), two, []),
        ((tmp_path,), two, ["corpus.valid_text: has 1 file that corpus.text has too"]),
    ):
        valid_text = None if valid is None else (str(valid),)
        section = Section(text=tuple(map(str, names)), valid_text=valid_text)
        warnings = opened(section).warnings
        assert [line.partition(",")[0] for line in warnings] == expected, (names, valid)


def test_the_warning_about_a_missing_separator_names_that_of_other_line_ends(tmp_path):
    path = tmp_path / "poems.txt"
    path.write_bytes(b"one\r\n\r\ntwo\r\n\r\nthree\r\n" * 9)
    (warning,) = opened(Section(text=(str(path),), separator="\n\n")).warnings
    assert warning.endswith(r"the lines end with CR LF: use '\r\n\r\n'")
    assert not opened(Section(text=(str(path),), separator="\r\n\r\n")).warnings


def test_a_part_that_its_fraction_leaves_empty_is_reported(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("".join(f"name{number}\n" for number in range(50)), encoding="utf-8")
    for fraction, expected in ((0.1, False), (0.005, True), (0.0, False)):
        found = opened(Section(text=(str(path),), mode="records", valid_share=fraction))
        assert ("valid" in found.parts) == (fraction == 0.1)
        begin = "corpus.valid_share: 0.005 of this text leaves the valid part empty, "
        assert [line.startswith(begin) for line in found.warnings] == [True] * expected
