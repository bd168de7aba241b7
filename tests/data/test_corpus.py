"""Whatever a text is given as, it is the same text; its parts hold all of it and share nothing."""

import gzip
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import opened, resolved

from charlm.config.schema import Corpus as Section
from charlm.data import sources
from charlm.data.cards import build_corpus, card_names, corpus_files, fetch_corpus, load_card
from charlm.data.corpus import Corpus, Text, read_text
from charlm.errors import CorpusError, FetchError
from charlm.storage.memory_maps import BLOCK_BYTES

STORY = "Once upon a time\nthere was a naïve 日本 fox.\r\n\nThe end.\n"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give each test a cache of its own, and spare it the wait for the disk."""
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


@pytest.mark.parametrize("name", card_names())
def test_every_shipped_card_is_valid(name):
    card = load_card(name)
    assert card.title and card.licence and card.source
    assert (card.valid_share or 0) + (card.test_share or 0) < 1


def test_a_misspelled_corpus_names_the_nearest():
    with pytest.raises(
        CorpusError, match=r"tinyshakespear: no such corpus; did you mean tinyshakespeare\?"
    ):
        load_card("tinyshakespear")
    with pytest.raises(
        CorpusError,
        match=r"tinyshakespear: no such text; did you mean the corpus tinyshakespeare\?",
    ):
        whole("tinyshakespear")


def test_a_name_like_none_tells_where_the_names_are():
    with pytest.raises(
        CorpusError, match="zzz: no such corpus; charlm corpus list shows the names"
    ):
        load_card("zzz")


def test_a_card_with_mistakes_tells_all_of_them(tmp_path):
    write(tmp_path / "mine.yaml", "title: Mine\nkind: python\nbuilder: nobody\nmodes: stream\n")
    with (
        patch("charlm.data.cards.shipped", return_value=tmp_path),
        pytest.raises(CorpusError) as caught,
    ):
        load_card("mine")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ("modes", "language", "licence", "source"))


def test_a_card_decides_what_the_configuration_leaves_open(own_cache):
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


# What a text may be given as


def test_a_text_is_the_same_whatever_it_is_given_as(tmp_path, monkeypatch):
    path = write(tmp_path / "story.txt", STORY)
    packed = write(tmp_path / "packed" / "story.txt.gz", gzip.compress(STORY.encode()))
    write(tmp_path / "folder" / "a" / "1.txt", STORY)
    write(tmp_path / "folder" / ".hidden", "not this")
    write(tmp_path / "folder" / ".git" / "index", b"nor\0this")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(STORY.encode())))
    forms = [path, packed, tmp_path / "folder", tmp_path / "s*.txt", tmp_path / "**" / "1.txt", "-"]
    assert [whole(form) for form in forms] == [[STORY.encode()]] * len(forms)


def test_a_path_may_be_relative_and_is_remembered_as_absolute(tmp_path, monkeypatch):
    write(tmp_path / "story.txt", STORY)
    monkeypatch.chdir(tmp_path)
    assert resolved(Section(text="story.txt")).corpus.text == (str(tmp_path / "story.txt"),)


def test_standard_input_is_kept_to_be_read_again(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(STORY.encode())))
    section = resolved(Section(text="-")).corpus
    assert Path(section.text[0]).read_bytes() == STORY.encode()
    assert resolved(section).corpus == section


def test_several_files_are_read_in_the_order_given_and_a_folder_by_name(tmp_path):
    for name, text in (("b.txt", "two\n"), ("a.txt", "one\n"), ("c/a.txt", "three\n")):
        write(tmp_path / name, text)
    assert whole(tmp_path / "b.txt", tmp_path / "a.txt") == [b"two\n", b"one\n"]
    assert whole(tmp_path) == [b"one\n", b"two\n", b"three\n"]
    assert whole(tmp_path / "*.txt") == [b"one\n", b"two\n"]


def test_each_file_is_a_document_and_ends_its_last_record(tmp_path):
    first, second = write(tmp_path / "1.txt", "ann\nbob"), write(tmp_path / "2.txt", "carl\fdora")
    assert whole(first, second) == [b"ann\nbob", b"carl\fdora"]
    assert whole(first, second, separator="\f") == [b"ann\nbob", b"carl", b"dora"]
    assert whole(first, second, mode="records") == [b"ann", b"bob", b"carl\fdora"]


def test_an_empty_file_among_others_is_passed_over(tmp_path):
    files = [
        write(tmp_path / f"{number}.txt", text)
        for number, text in enumerate(("", "ab\n", "", "cd\n", ""))
    ]
    assert whole(*files) == [b"ab\n", b"cd\n"]


def test_a_separator_sets_documents_apart_and_empty_ones_are_left_out(tmp_path):
    path = write(tmp_path / "text.txt", "--one--two\n----three")
    assert whole(path, separator="--") == [b"one", b"two\n", b"three"]


def test_records_are_lines_without_their_ends_and_blank_ones_are_left_out(tmp_path):
    path = write(tmp_path / "names.txt", "anna\r\n\r\n\nbo\rb\n zoé \ncarl")
    assert whole(path, mode="records") == [b"anna", b"bo\rb", " zoé ".encode(), b"carl"]


def test_records_longer_than_a_block_are_found(tmp_path):
    lines = ["x" * 7, "y" * 20, "z", "w" * 8]
    path = write(tmp_path / "names.txt", "\r\n".join(lines))
    with patch("charlm.data.corpus.BLOCK_BYTES", 8):
        assert whole(path, mode="records") == [line.encode() for line in lines]


def test_a_byte_order_mark_is_removed_from_each_file(tmp_path):
    first, second = write(tmp_path / "1.txt", "\ufeffab\n"), write(tmp_path / "2.txt", "\ufeffcd\n")
    assert whole(first) == [b"ab\n"]
    assert whole(first, second) == [b"ab\n", b"cd\n"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "cp1252"])
def test_another_encoding_is_read_where_it_is_named(encoding, tmp_path):
    path = write(tmp_path / "text.txt", "naïve café\n".encode(encoding))
    assert whole(path, encoding=encoding) == ["naïve café\n".encode()]


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz"])
def test_an_unknown_encoding_is_refused(name, tmp_path):
    path = write(tmp_path / name, gzip.compress(b"some text"))
    with pytest.raises(CorpusError, match="Python has no encoding 'utf-99'; try utf-8 or latin-1"):
        whole(path, encoding="utf-99")


def test_raw_bytes_are_taken_as_they_are(tmp_path):
    data = b"\xef\xbb\xbf\0\xff\xfe\r\n"
    assert whole(write(tmp_path / "image.bin", data), raw=True) == [data]


# What cannot be read


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            b"caf\xe9 au lait",
            r"byte 3 \(0xe9\) is not utf-8; .*corpus\.encoding=latin-1.*tokenizer\.level=byte",
        ),
        (b"ab\0cd", "has a NUL character, so it is not text; .*tokenizer.level=byte"),
        (b"caf\xc3", r"byte 3 \(0xc3\) is not utf-8"),
        (b"", "is empty; a text needs"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"a", "has a single character"),
        ("é".encode(), "has a single character"),
        ("👩".encode(), "has a single character"),
    ],
)
def test_what_is_no_text_is_told_in_one_line(data, message, tmp_path):
    path = write(tmp_path / "text.txt", data)
    with pytest.raises(CorpusError, match=f"^{path}: {message}") as caught:
        whole(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("mode", "separator"), [("records", None), ("stream", "\n")])
def test_a_text_of_nothing_but_separators_is_told_in_one_line(mode, separator, tmp_path):
    path = write(tmp_path / "text.txt", "\n\n\n")
    with pytest.raises(CorpusError, match=f"^{path}: holds nothing but [^\n]+; [^\n]+$"):
        whole(path, mode=mode, separator=separator)


def test_a_character_over_the_seam_of_two_blocks_is_one_character(tmp_path):
    data = b"x" * (BLOCK_BYTES - 1) + "日本\n".encode()
    assert whole(write(tmp_path / "text.txt", data)) == [data]
    assert whole(write(tmp_path / "text.txt.gz", gzip.compress(data, 1))) == [data]


@pytest.mark.parametrize("before", [BLOCK_BYTES - 1, BLOCK_BYTES - 2, BLOCK_BYTES - 3])
@pytest.mark.parametrize("broken", [b"\xff", b"\xe6\x97x"])
def test_the_offset_of_a_wrong_byte_is_right_beyond_the_seam(before, broken, tmp_path):
    data = b"x" * before + "日".encode() + broken
    with pytest.raises(CorpusError, match=rf"byte {before + 3} \(0x{broken[0]:02x}\) is not utf-8"):
        whole(write(tmp_path / "text.txt", data))


def test_the_offset_of_a_character_broken_by_the_seam_is_where_it_begins(tmp_path):
    data = b"x" * (BLOCK_BYTES - 1) + b"\xe6x"
    with pytest.raises(CorpusError, match=rf"byte {BLOCK_BYTES - 1} \(0xe6\) is not utf-8"):
        whole(write(tmp_path / "text.txt", data))


@pytest.mark.parametrize("name", ["missing.txt", "no/*.csv", "empty"])
def test_a_missing_text_is_told_in_one_line(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        CorpusError,
        match=f"{name.replace('*', '.')}: (no such text|contains no file); charlm corpus list",
    ):
        whole(tmp_path / name)


def test_a_damaged_gz_is_told_in_one_line(tmp_path):
    for data in (b"no gzip", gzip.compress(STORY.encode() * 99)[:-20]):
        with pytest.raises(CorpusError, match=r"text\.gz: cannot be read: [^\n]+$"):
            whole(write(tmp_path / "text.gz", data))


def test_what_is_no_file_is_refused():
    with pytest.raises(CorpusError, match="/dev/null: is not a regular file; pipe it in instead"):
        whole("/dev/null")


@pytest.mark.parametrize("name", ["tinyshakespeare", "names", "ptb"])
def test_a_corpus_that_is_not_here_yet_tells_how_to_fetch_it(name):
    with pytest.raises(
        CorpusError, match=f"{name}: is not on this machine yet; run: charlm corpus fetch {name}$"
    ):
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
def test_contiguous_parts_of_a_text_are_all_of_it_in_order(
    text, held_out, separator, tmp_path_factory
):
    path = write(tmp_path_factory.mktemp("text") / "text.txt", text)
    pieces = text.split(separator) if separator else [text]
    fields = {"valid_share": held_out[0], "test_share": held_out[1], "separator": separator}
    if len("".join(pieces)) < 4:  # Two characters, say, of which a share of 0.01 is none.
        return
    parts = parts_of(path, **fields)
    joined = b"".join(
        document for part in ("train", "valid", "test") for document in parts.get(part, [])
    )
    assert joined == "".join(pieces).encode()
    for documents in parts.values():
        assert documents and all(
            document.decode() for document in documents
        )  # No character is cut in two.


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.text("aé日", min_size=1, max_size=3), min_size=3, max_size=40),
    held_out=shares,
    split=st.sampled_from(["shuffled", "contiguous", "documents"]),
    seed=st.integers(0, 9),
)
def test_parts_of_records_are_all_of_them_once(lines, held_out, split, seed, tmp_path_factory):
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


@pytest.mark.parametrize("size", [2, 3, 7, 10, 99, 100, 1000, 1009])
def test_the_first_nine_tenths_are_the_training_part(size, tmp_path):
    text = ("0123456789" * 101)[:size]
    parts = parts_of(write(tmp_path / "text.txt", text))
    cut = size * 9 // 10
    assert parts == {"train": [text[:cut].encode()], "valid": [text[cut:].encode()]}


def test_a_document_that_is_cut_goes_on_in_the_next_part(tmp_path):
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


@pytest.mark.parametrize(
    "fields", [{"mode": "records", "valid_share": 0.4, "test_share": 0.5}, {"valid_share": 0.9}]
)
def test_a_text_too_short_for_its_split_is_told_in_one_line(fields, tmp_path):
    path = write(tmp_path / "text.txt", "ab")
    with pytest.raises(
        CorpusError,
        match=r"text\.txt: is so short that its split leaves nothing to train on; [^\n]+$",
    ):
        parts_of(path, **fields)


def test_a_cut_inside_the_last_character_leaves_no_empty_part(tmp_path):
    parts = parts_of(write(tmp_path / "text.txt", "0é"), valid_share=0.1)
    assert parts == {"train": ["0é".encode()]}


@settings(max_examples=40, deadline=None)
@given(files=st.lists(st.text("ab\n\r", max_size=8), min_size=2, max_size=4))
def test_the_records_of_several_files_are_those_of_each(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [write(folder / str(number), text) for number, text in enumerate(files)]
    lines = [line.removesuffix("\r") for text in files for line in text.split("\n")]
    expected = [line.encode() for line in lines if line]
    if expected and sum(map(len, files)) > 1:
        assert whole(*paths, mode="records") == expected


def test_a_shuffled_split_is_drawn_by_its_seed(tmp_path):
    path = write(tmp_path / "names.txt", "\n".join(map(str, range(200))))
    first, again, other = (parts_of(path, mode="records", split_seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert len(first["valid"]) == len(other["valid"]) == 20
    assert first["valid"] != other["valid"]


def test_a_shuffled_part_keeps_the_order_of_reading(tmp_path):
    path = write(tmp_path / "names.txt", "\n".join(map(str, range(200))))
    for part in parts_of(path, mode="records", test_share=0.2).values():
        numbers = [int(record) for record in part]
        assert numbers == sorted(numbers)


def test_valid_and_test_shares_are_both_held_out(tmp_path):
    parts = parts_of(write(tmp_path / "text.txt", "0123456789"), valid_share=0.2, test_share=0.3)
    assert parts == {"train": [b"01234"], "valid": [b"56"], "test": [b"789"]}


def test_no_share_means_no_part(tmp_path):
    assert list(parts_of(write(tmp_path / "text.txt", STORY), valid_share=0.0)) == ["train"]


def test_a_separate_text_takes_the_place_of_a_share(tmp_path):
    path, other = write(tmp_path / "text.txt", "0123456789"), write(tmp_path / "other.txt", "other")
    assert parts_of(path, valid_text=str(other)) == {"valid": [b"other"], "train": [b"0123456789"]}
    assert parts_of(path, test_text=str(other)) == {
        "test": [b"other"],
        "train": [b"012345678"],
        "valid": [b"9"],
    }


def test_a_text_to_score_is_read_as_the_corpus_was_and_not_split(tmp_path):
    path = write(tmp_path / "names.txt", "ann\nbob\n")
    like = resolved(Section(text=(str(path),), mode="records"))
    other = write(tmp_path / "others.txt", "carl\r\ndora\n")
    assert contents(read_text([str(other)], like)) == [b"carl", b"dora"]


def test_a_fingerprint_changes_with_the_text_and_with_its_documents(tmp_path):
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
def test_blocks_are_the_text_cut_between_characters(text, size, reach, tmp_path_factory):
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
def test_slices_put_together_are_the_text(
    files, size, separator, mode, valid_share, tmp_path_factory
):
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


def test_a_file_that_joins_the_others_changes_no_other_slice(tmp_path):
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


def test_the_last_documents_are_held_out_whole(tmp_path):
    path = write(tmp_path / "text.txt", "|".join(["a", "bbbbbbbbbb", "c", "d", "ee"]))
    parts = parts_of(path, separator="|", split="documents", valid_share=0.4)
    assert parts == {"train": [b"a", b"bbbbbbbbbb", b"c"], "valid": [b"d", b"ee"]}


def test_a_plain_file_is_read_where_it_is_and_a_packed_one_is_unpacked_once(
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
    with patch.object(sources, "_utf8_blocks", side_effect=AssertionError("read again")):
        assert opened(section).parts["train"].fingerprint == text.fingerprint
    write(packed, gzip.compress(b"another story"))
    assert contents(opened(section).parts["train"])[1] == b"another story"
    for note in (own_cache / "texts").iterdir():
        note.write_bytes(b"[1]")  # Whatever it is, it is only a note.
    assert contents(opened(section).parts["train"]) == [STORY.encode(), b"another story"]


# Built and fetched corpora


def test_a_corpus_is_built_by_its_parameters(tmp_path):
    path = build_corpus(
        "agreement", to=tmp_path / "few.txt", parameters={"sentences": 12, "seed": 3}
    )
    assert path == tmp_path / "few.txt"
    assert len(set(path.read_text(encoding="utf-8").splitlines())) == 12


def test_a_parameter_that_a_builder_has_not_is_refused(tmp_path):
    with pytest.raises(
        CorpusError, match=r"agreement: .*'sentence'.*; charlm corpus show agreement lists"
    ):
        build_corpus("agreement", to=tmp_path / "few.txt", parameters={"sentence": 12})
    assert list(tmp_path.iterdir()) == []


def test_a_corpus_is_built_when_it_is_first_read():
    assert not corpus_files("unicode-names", load_card("unicode-names"))["train"].exists()
    corpus = opened(Section(text="unicode-names"))
    assert b"LATIN SMALL LETTER A WITH GRAVE" in {
        name for part in corpus.parts.values() for name in contents(part)
    }


def test_what_is_fetched_is_not_built_and_what_is_built_is_not_fetched():
    with pytest.raises(
        CorpusError, match="names: is not built but downloaded; run: charlm corpus fetch names"
    ):
        build_corpus("names")
    with pytest.raises(
        CorpusError, match="agreement: has nothing to download; run: charlm corpus build agreement"
    ):
        fetch_corpus("agreement")


def test_a_copy_with_the_wrong_checksum_is_refused(tmp_path, own_cache):
    copy = write(tmp_path / "names.txt", "emma\nolivia\n")
    with pytest.raises(FetchError, match=r"sha256 is [0-9a-f]{64}, expected 0a30b555"):
        fetch_corpus("names", source=copy)
    assert list(own_cache.iterdir()) == []


def test_a_copy_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CorpusError, match=r"copy\.txt: no such file to take names from"):
        fetch_corpus("names", source=tmp_path / "copy.txt")


def test_a_copy_is_taken_whole(tmp_path):
    card = load_card("names").model_copy(update={"sha256": None})
    copy = write(tmp_path / "names.txt", "emma\nolivia\nava\n" * 9)
    with patch("charlm.data.cards.load_card", return_value=card):
        (path,) = fetch_corpus("names", source=copy)
    assert path.read_bytes() == copy.read_bytes()
    assert opened(Section(text="names")).mode == "records"


def test_an_archive_is_unpacked_to_the_parts_of_its_corpus(tmp_path):
    archive = tmp_path / "simple-examples.tgz"
    with tarfile.open(archive, "w:gz") as file:
        for part in ("train", "valid", "test"):
            data = f" the {part} <unk> \n a mat \n".encode()
            entry = tarfile.TarInfo(f"./simple-examples/data/ptb.{part}.txt")
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    paths = fetch_corpus("ptb", source=archive)
    assert [path.name for path in paths] == ["ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"]
    corpus: Corpus = opened(Section(text="ptb"))
    assert {part: contents(text) for part, text in corpus.parts.items()} == {
        part: [f" the {part} <unk> ".encode(), b" a mat "] for part in ("train", "valid", "test")
    }
    assert resolved(Section(text="ptb")).corpus.valid_text == (str(paths[1]),)


def test_an_archive_without_a_part_is_refused(tmp_path):
    archive = tmp_path / "simple-examples.tgz"
    with tarfile.open(archive, "w:gz"):
        pass
    with pytest.raises(FetchError, match=r"no member '\./simple-examples/data/ptb\.train\.txt'"):
        fetch_corpus("ptb", source=archive)
