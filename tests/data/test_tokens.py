"""Ids on disk: the same in small blocks as in one piece, <EOS> where it belongs, never encoded twice."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.schema import Mode
from charlm.config.schema import Tokenizer as Section
from charlm.data import corpus as corpora
from charlm.data import tokens
from charlm.data.corpus import Text
from charlm.data.shards import ShardedIds
from charlm.data.sources import PlainFile
from charlm.data.tokenizer import EOS, Tokenizer, learn_tokenizer
from charlm.data.tokens import Counts, count_ids, encode_text, learn_or_load_tokenizer
from charlm.data.windows import Position, record_spans, record_windows, stream_windows
from charlm.errors import CorpusError

LEVELS = {
    "char": {"level": "char"},
    "byte": {"level": "byte"},
    "word": {"level": "word"},
    "whitespace": {"level": "word", "words": "whitespace"},
    "bpe": {"level": "bpe", "vocabulary_size": 270},
}
ENDS = ["document", "line", "sentence", "none"]
LEARNT = "a bb ccc. “日本語” é 👩\u200d🚀!\r\n\n The end? Yes."
lines = st.lists(
    st.sampled_from(
        ["a", " bb", "  ccc.", '. "', "日本語。", "é", "👩\u200d🚀", "!", "\r", "?) ", "z"]
    ),
    max_size=9,
)
documents = st.lists(
    st.lists(lines.map("".join), max_size=5).map("\n".join).filter(bool), min_size=1, max_size=3
)


@pytest.fixture(autouse=True, scope="module")
def no_fsync() -> Iterator[None]:
    """Leave out what takes most of the time and changes nothing here: waiting for the disk."""
    with patch("charlm.storage.atomic.os.fsync"):
        yield


def write(folder: Path, parts: Sequence[str], *, is_cut: bool = False) -> Text:
    """Return a text of these documents, with a form feed between them."""
    path = folder / "text.txt"
    path.write_bytes("\f".join(parts).encode())
    ends = np.cumsum([len(part.encode()) + 1 for part in parts]) - 1
    starts = ends - [len(part.encode()) for part in parts]
    spans = np.stack([np.zeros_like(ends), starts, ends], axis=1).astype(np.int64)
    data = path.read_bytes()
    file = PlainFile(path, len(data), hashlib.sha256(data).hexdigest(), np.array([len(data)]))
    return Text((file,), spans, raw=False, is_cut=is_cut)


def learn(text: str = LEARNT, **fields: object) -> Tokenizer:
    return learn_tokenizer([text], Section(**fields))


def spelled(text: Text, tokenizer: Tokenizer, folder: Path, mode: Mode = "stream") -> str:
    """Return the tokens of a text, with | for <EOS> and a comma between words."""
    ids = encode_text(text, tokenizer, mode=mode, cache=folder).ids
    pieces = ["|" if index == EOS else tokenizer.token_bytes[index].decode() for index in ids]
    return ("," if tokenizer.section.level == "word" else "").join(pieces)


def in_small_blocks(size: int, *, reach: int) -> ExitStack:
    """Read blocks of `size` bytes, looking for a line's end in the next `reach`; gather hardly any pieces."""
    stack = ExitStack()
    stack.enter_context(patch.object(Text.blocks, "__defaults__", (size,)))
    stack.enter_context(patch.object(corpora, "BLOCK_BYTES", reach))
    stack.enter_context(patch.object(tokens, "BLOCK_BYTES", size))
    stack.enter_context(patch.object(tokens, "_PIECES_AT_ONCE", 2))
    return stack


@pytest.mark.parametrize(
    # In words between spaces the end of a line is <EOS>: sentences are refused there.
    ("level", "eos"),
    [pair for pair in product(LEVELS, ENDS) if pair != ("whitespace", "sentence")],
)
@settings(max_examples=20, deadline=None)
@given(parts=documents, size=st.integers(1, 12), is_cut=st.booleans())
def test_small_blocks_give_the_ids_of_one_piece(level, eos, parts, size, is_cut, tmp_path_factory):
    tokenizer = learn(**LEVELS[level], eos=eos)
    folder = tmp_path_factory.mktemp("tokens")
    text = write(folder, parts, is_cut=is_cut)
    whole = encode_text(text, tokenizer, mode="stream", cache=folder / "whole")
    # Characters and bytes have no line's end to look for; sentences, words and subwords may not be cut.
    reach = size if level in ("char", "byte") and eos != "sentence" else 1 << 20
    with in_small_blocks(size, reach=reach):
        pieces = encode_text(text, tokenizer, mode="stream", cache=folder / "pieces")
    assert pieces.ids.tolist() == whole.ids.tolist()
    assert pieces.counts == whole.counts


def test_small_blocks_are_small(tmp_path):
    text = write(tmp_path, ["aé日\nbb\n" * 9])
    with in_small_blocks(2, reach=2):
        blocks = [block for block, _ in text.blocks()]
    assert b"".join(blocks) == text.files[0].path.read_bytes()
    assert max(map(len, blocks)) <= 4
    assert [block.decode() for block in blocks[:4]] == ["aé", "日\n", "bb\n", "aé"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_a_line_longer_than_a_block_ends_once(size, tmp_path):
    text = write(tmp_path, ["aa bb cc dd ee\nff gg hh"])
    tokenizer = learn("aa", level="word", words="whitespace")
    with in_small_blocks(size, reach=size):
        ids = encode_text(text, tokenizer, mode="stream", cache=tmp_path / str(size)).ids
    assert (ids == EOS).sum() == 2


@pytest.mark.parametrize(
    ("eos", "expected"),
    [
        ("document", 'Hi! Go.")\n\nNo|So.|'),
        ("line", 'Hi! Go.")\n|\n|No|So.|'),
        ("sentence", 'Hi! |Go.")\n|\nNo|So.|'),
        ("none", 'Hi! Go.")\n\nNoSo.'),
    ],
)
def test_eos_stands_after_each_document_line_or_sentence(eos, expected, tmp_path):
    parts = ['Hi! Go.")\n\nNo', "So."]
    assert spelled(write(tmp_path, parts), learn("".join(parts), eos=eos), tmp_path) == expected


@pytest.mark.parametrize("eos", ["document", "line", "sentence"])
def test_a_document_that_goes_on_in_the_next_part_has_no_eos_yet(eos, tmp_path):
    parts = ["One", "Tw"]
    text = write(tmp_path, parts, is_cut=True)
    assert spelled(text, learn("OneTw", eos=eos), tmp_path) == "One|Tw"
    assert spelled(text, learn("One Tw", level="word", words="whitespace"), tmp_path) == "One,|,Tw"


def test_a_line_that_ends_is_not_ended_again_with_its_document(tmp_path):
    assert (
        spelled(write(tmp_path, ["a.\nb.\n", "c.\n"]), learn("abc.\n", eos="line"), tmp_path)
        == "a.\n|b.\n|c.\n|"
    )
    assert (
        spelled(write(tmp_path, ["a.\nb.\n", "c.\n"]), learn("abc.\n", eos="sentence"), tmp_path)
        == "a.\n|b.\n|c.\n|"
    )


def test_a_full_width_mark_ends_a_sentence_with_no_space_after_it(tmp_path):
    sentence = "日。本語。a.b"
    assert (
        spelled(write(tmp_path, [sentence]), learn(sentence, eos="sentence"), tmp_path)
        == "日。|本語。|a.b|"
    )


def test_the_eos_of_whitespace_words_is_the_end_of_a_line(tmp_path):
    tokenizer = learn("a b\n\n c <unk>", level="word", words="whitespace")
    assert (
        spelled(write(tmp_path, ["a b\n\n c <unk>", "b"]), tokenizer, tmp_path)
        == "a,b,|,|,c,<UNK>,|,b,|"
    )


@pytest.mark.parametrize("eos", ENDS)
def test_every_record_ends_with_eos_and_nothing_else_does(eos, tmp_path):
    parts = ["One. Two.", "x", "Three!"]
    tokenizer = learn("".join(parts), eos=eos)
    assert spelled(write(tmp_path, parts), tokenizer, tmp_path, "records") == "One. Two.|x|Three!|"


def test_counts_are_those_of_the_text_and_not_of_the_vocabulary(tmp_path):
    tokenizer = learn("ab\n", level="char")
    counts = encode_text(
        write(tmp_path, ["aé\nb日", "a"]), tokenizer, mode="stream", cache=tmp_path
    ).counts
    assert counts == Counts(tokens=8, unknown=2, characters=6, bytes=9)
    assert counts.unknown_share == 0.25


def test_the_line_end_of_a_record_counts_as_a_character(tmp_path):
    counts = encode_text(
        replace(write(tmp_path, ["ann", "zoé"]), separator="\n"),
        learn(),
        mode="records",
        cache=tmp_path,
    ).counts
    assert (counts.tokens, counts.characters, counts.bytes) == (8, 8, 9)


def test_normalization_does_not_change_the_count_of_characters(tmp_path):
    tokenizer = learn("cafe\u0301", level="char", normalization="nfc", eos="none")
    counts = encode_text(
        write(tmp_path, ["cafe\u0301"]), tokenizer, mode="stream", cache=tmp_path
    ).counts
    assert (counts.tokens, counts.characters, counts.bytes) == (4, 5, 6)


def test_a_second_call_does_not_encode_again(tmp_path):
    text, tokenizer = write(tmp_path, ["a bb"]), learn()
    first = encode_text(text, tokenizer, mode="stream", cache=tmp_path)
    with patch.object(tokens, "_encode", side_effect=AssertionError("encoded again")):
        second = encode_text(text, tokenizer, mode="stream", cache=tmp_path)
    assert second.ids.tolist() == first.ids.tolist()
    assert second.counts == first.counts


def test_another_text_tokenizer_or_mode_has_ids_of_its_own(tmp_path):
    tokenizer, text = learn(), write(tmp_path, ["a bb", "a"])
    encode_text(text, tokenizer, mode="stream", cache=tmp_path)
    others = [
        (replace(text, spans=text.spans[:1]), tokenizer, "stream"),
        (replace(text, is_cut=True), tokenizer, "stream"),
        (text, learn(eos="none"), "stream"),
        (text, learn(level="byte"), "stream"),
        (text, tokenizer, "records"),
    ]
    with patch.object(tokens, "_encode", wraps=tokens._encode) as encode:
        for other, learnt, mode in others:
            encode_text(other, learnt, mode=mode, cache=tmp_path)
    assert encode.call_count == len(others)


@pytest.mark.parametrize("suffix", [".ids", ".json"])
@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.99])
def test_a_cached_file_with_a_flipped_byte_is_encoded_again(suffix, at, tmp_path):
    text, tokenizer = write(tmp_path, ["a bb ccc."]), learn()
    first = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache")
    expected = first.ids.tolist()
    (path,) = (tmp_path / "cache").glob(f"*{suffix}")
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
    second = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache")
    assert second.ids.tolist() == expected
    assert second.counts == first.counts


@pytest.mark.parametrize("flipped", range(1, 200, 7))
def test_no_flipped_byte_of_the_counts_is_believed(flipped, tmp_path):
    text, tokenizer = write(tmp_path, ["a bb ccc."]), learn()
    counts = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache").counts
    (path,) = (tmp_path / "cache").glob("*.json")
    data = bytearray(path.read_bytes())
    data[flipped % len(data)] ^= 1
    path.write_bytes(data)
    assert encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache").counts == counts


@pytest.mark.parametrize("suffix", [".ids", ".json"])
@pytest.mark.parametrize("length", [0, 5])
def test_a_truncated_cached_file_is_encoded_again(suffix, length, tmp_path):
    text, tokenizer = write(tmp_path, ["a bb ccc."]), learn()
    expected = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache").ids.tolist()
    (path,) = (tmp_path / "cache").glob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[:length])
    assert (
        encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache").ids.tolist()
        == expected
    )


@pytest.mark.parametrize("suffix", [".ids", ".json"])
def test_a_cached_file_without_its_other_half_is_encoded_again(suffix, tmp_path):
    text, tokenizer = write(tmp_path, ["a bb ccc."]), learn()
    expected = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache").ids.tolist()
    next((tmp_path / "cache").glob(f"*{suffix}")).unlink()
    assert (
        encode_text(text, tokenizer, mode="stream", cache=tmp_path / "cache").ids.tolist()
        == expected
    )


@pytest.mark.parametrize(("level", "kind"), [("char", "uint8"), ("byte", "uint16")])
def test_ids_on_disk_are_of_the_smallest_unsigned_type(level, kind, tmp_path):
    encoded = encode_text(
        write(tmp_path, ["a bb"]), learn(level=level), mode="stream", cache=tmp_path
    )
    assert encoded.ids.dtype == np.dtype(kind)
    (path,) = tmp_path.glob("*.ids")
    assert path.stat().st_size == 5 * np.dtype(kind).itemsize


def test_a_text_without_tokens_is_empty_and_not_an_error(tmp_path):
    text = write(tmp_path, [" "])
    encoded = encode_text(
        text, learn(level="word", words="whitespace"), mode="stream", cache=tmp_path
    )
    assert encoded.ids.tolist() == [EOS]
    nothing = replace(text, spans=text.spans[:0])
    assert encode_text(nothing, learn(), mode="stream", cache=tmp_path).ids.tolist() == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", ["stream", "records"])
def test_slices_are_the_same_ids_as_the_whole(level, mode, tmp_path, monkeypatch):
    lines = ["a bb ccc. é", "日本語。 The end? ", "", " bb"] * 5
    text, tokenizer = (
        write(tmp_path, [*lines] if mode == "records" else ["\n".join(lines), LEARNT]),
        learn(**LEVELS[level]),
    )
    whole = encode_text(text, tokenizer, mode=mode, cache=tmp_path / "whole")
    monkeypatch.setattr(tokens, "SLICE_BYTES", 40)
    monkeypatch.setattr(corpora, "BLOCK_BYTES", 60)  # How far a line's end is looked for.
    sizes: list[int] = []
    sliced = encode_text(text, tokenizer, mode=mode, cache=tmp_path / "sliced", report=sizes.append)
    assert len(list((tmp_path / "sliced").glob("*.ids"))) > 3 and sum(sizes) == text.size
    assert np.asarray(sliced.ids).tolist() == whole.ids.tolist() and sliced.counts == whole.counts
    for read in (record_windows, stream_windows):
        a, b = (
            read(ids, batch_size=2, window=3, seed=1, start=Position())
            for ids in (whole.ids, sliced.ids)
        )
        for _ in range(30):
            one, other = next(a), next(b)
            assert (
                one.inputs.tolist() == other.inputs.tolist()
                and one.targets.tolist() == other.targets.tolist()
            )
    assert count_ids(sliced.ids, 300).tolist() == count_ids(whole.ids, 300).tolist()


def test_several_processes_encode_what_one_does_and_go_on_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "SLICE_BYTES", 30)
    text, tokenizer = write(tmp_path, ["a bb ccc.\n" * 20]), learn()
    one = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "one")
    two = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "two", workers=2)
    assert np.asarray(two.ids).tolist() == np.asarray(one.ids).tolist() and two.counts == one.counts
    names = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert names == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    for path in sorted((tmp_path / "two").glob("*.ids"))[:2]:
        path.unlink()
    with patch.object(tokens, "_encode", wraps=tokens._encode) as encode:
        encode_text(text, tokenizer, mode="stream", cache=tmp_path / "two")
    assert encode.call_count == 2


def test_a_process_that_is_killed_is_told_and_what_is_encoded_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "SLICE_BYTES", 30)
    text, tokenizer = write(tmp_path, ["a bb ccc.\n" * 20]), learn()

    def kill(done: int) -> None:
        if done:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGKILL)

    with pytest.raises(
        CorpusError, match=r"^a process that encoded was killed, .*; try fewer workers: [^\n]+$"
    ):
        encode_text(text, tokenizer, mode="stream", cache=tmp_path / "ids", workers=2, report=kill)
    assert list((tmp_path / "ids").glob("*.json"))
    assert (
        len(encode_text(text, tokenizer, mode="stream", cache=tmp_path / "ids").ids)
        == text.size + 1
    )


def test_a_vocabulary_of_a_large_text_is_learnt_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "SLICE_BYTES", 10)
    text, section = write(tmp_path, ["a bb ccc.\n" * 20]), Section(level="word")
    first = learn_or_load_tokenizer(text, section, cache=tmp_path / "ids")
    with patch.object(tokens, "learn_tokenizer", side_effect=AssertionError("learnt again")):
        assert (
            learn_or_load_tokenizer(text, section, cache=tmp_path / "ids").to_json()
            == first.to_json()
        )
    (path,) = (tmp_path / "ids").iterdir()
    path.write_bytes(path.read_bytes().replace(b"ccc", b"cca"))
    assert (
        learn_or_load_tokenizer(text, section, cache=tmp_path / "ids").to_json() == first.to_json()
    )


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 6), min_size=1, max_size=40), data=st.data())
def test_shards_are_read_as_one_array_would_be(ids, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=4)))
    whole = np.array(ids, dtype=np.uint8)
    shards = ShardedIds(np.split(whole, cuts))
    edge = st.none() | st.integers(-50, 50)
    at = slice(data.draw(edge), data.draw(edge), data.draw(st.sampled_from([None, 1, 2, -1])))
    assert shards[at].tolist() == whole[at].tolist() and shards[at].dtype == whole.dtype
    places = np.array(
        data.draw(st.lists(st.integers(-len(ids), len(ids) - 1), min_size=1, max_size=9))
    )
    assert shards[places].tolist() == whole[places].tolist()
    assert shards[places[0]] == whole[places[0]]
    assert (shards == 1).tolist() == (whole == 1).tolist() and (2 + shards).tolist() == (
        2 + whole
    ).tolist()
    assert len(shards) == len(whole) and np.unique(shards).tolist() == np.unique(whole).tolist()
    assert record_spans(shards).tolist() == record_spans(whole).tolist()


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, 6), max_size=40), block=st.integers(1, 9))
def test_ids_are_counted_block_by_block(ids, block):
    with patch.object(tokens, "BLOCK_BYTES", block):
        counts = count_ids(np.array(ids, dtype=np.uint8), 7)
    assert counts.tolist() == [ids.count(index) for index in range(7)]


def pages_of_files() -> int:
    """Return the bytes of files that this process has in memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells what is in memory"
)
def test_reading_a_text_and_counting_its_ids_let_go_of_what_was_read(tmp_path):
    text = write(tmp_path, ["ab\n" * 2**23])  # 24 megabytes.
    before = pages_of_files()
    most = max(pages_of_files() for _ in text.blocks())
    ids = np.memmap(text.files[0].path, dtype=np.uint8, mode="r")
    assert count_ids(ids, 256).sum() == 3 * 2**23
    assert max(most, pages_of_files()) - before < 8 * 2**20
