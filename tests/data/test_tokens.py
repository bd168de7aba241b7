"""Ids on disk: the same for any block size, with <EOS> in the right places, encoded only once."""

import hashlib
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.corpus import Mode
from charlm.config.tokenizer import Tokenizer as Section
from charlm.data import corpus as corpora
from charlm.data import tokens
from charlm.data.corpus import Text
from charlm.data.shards import ShardedIds
from charlm.data.sources import PlainFile
from charlm.data.tokenizer import EOS, Tokenizer
from charlm.data.tokens import Counts, count_ids, encode_text, learn_or_load_tokenizer
from charlm.data.vocabulary import learn_tokenizer
from charlm.data.windows.directions import record_spans
from charlm.data.windows.records import record_windows
from charlm.data.windows.streams import stream_windows
from charlm.data.windows.window import Position
from charlm.errors import CorpusError

LEVELS = {
    "char": {"level": "char"},
    "byte": {"level": "byte"},
    "word": {"level": "word"},
    "whitespace": {"level": "word", "words": "whitespace"},
    "bpe": {"level": "bpe", "vocabulary_size": 270},
}
ENDS = ["document", "line", "sentence", "none"]
TRAINING_TEXT = "a bb ccc. “日本語” é 👩\u200d🚀!\r\n\n The end? Yes."
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
    """Skip waiting for the disk, which takes most of the time and changes nothing here."""
    with patch("charlm.storage.atomic.os.fsync"):
        yield


def write(folder: Path, parts: Sequence[str], *, is_cut: bool = False) -> Text:
    """Return a text of these documents, separated by form feeds in the file."""
    path = folder / "text.txt"
    path.write_bytes("\f".join(parts).encode())
    ends = np.cumsum([len(part.encode()) + 1 for part in parts]) - 1
    starts = ends - [len(part.encode()) for part in parts]
    spans = np.stack([np.zeros_like(ends), starts, ends], axis=1).astype(np.int64)
    data = path.read_bytes()
    file = PlainFile(path, len(data), hashlib.sha256(data).hexdigest(), np.array([len(data)]))
    return Text((file,), spans, raw=False, is_cut=is_cut)


def learn(text: str = TRAINING_TEXT, **fields: object) -> Tokenizer:
    return learn_tokenizer([text], Section(**fields))


TOKENIZERS = {
    (level, eos): learn(**fields, eos=eos)
    for level, fields in LEVELS.items()
    for eos in ENDS
    if (level, eos) != ("whitespace", "sentence")
}


def tokens_of(text: Text, tokenizer: Tokenizer, folder: Path, mode: Mode = "stream") -> str:
    """Return the tokens of a text as a string, with | for <EOS> and a comma between words."""
    ids = encode_text(text, tokenizer, mode=mode, cache=folder).ids
    pieces = ["|" if index == EOS else tokenizer.token_bytes[index].decode() for index in ids]
    return ("," if tokenizer.section.level == "word" else "").join(pieces)


def in_small_blocks(size: int, *, reach: int) -> ExitStack:
    """Read blocks of `size` bytes that end at a line end in the next `reach` bytes, in small batches."""
    stack = ExitStack()
    stack.enter_context(patch.object(Text.blocks, "__defaults__", (size,)))
    stack.enter_context(patch.object(corpora, "BLOCK_BYTES", reach))
    stack.enter_context(patch.object(tokens, "BLOCK_BYTES", size))
    stack.enter_context(patch.object(tokens, "_BATCH_PIECES", 2))
    return stack


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=25, deadline=None)
@given(parts=documents, size=st.integers(1, 12), is_cut=st.booleans())
def test_ids_do_not_depend_on_the_size_of_blocks(level, parts, size, is_cut, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    text = write(folder, parts, is_cut=is_cut)
    for eos in ENDS:
        if (level, eos) == ("whitespace", "sentence"):
            continue  # This combination is refused: <EOS> is the end of a line there.
        tokenizer = TOKENIZERS[level, eos]
        whole = encode_text(text, tokenizer, mode="stream", cache=folder / "whole")
        # Blocks of characters and bytes may end anywhere; other levels need a line end in reach.
        reach = size if level in ("char", "byte") and eos != "sentence" else 1 << 20
        with in_small_blocks(size, reach=reach):
            pieces = encode_text(text, tokenizer, mode="stream", cache=folder / "pieces")
        assert pieces.ids.tolist() == whole.ids.tolist(), eos
        assert pieces.counts == whole.counts, eos


def test_blocks_have_about_the_given_size(tmp_path):
    text = write(tmp_path, ["aé日\nbb\n" * 9])
    with in_small_blocks(2, reach=2):
        blocks = [block for block, _ in text.blocks()]
    assert b"".join(blocks) == text.files[0].path.read_bytes()
    assert max(map(len, blocks)) <= 4
    assert [block.decode() for block in blocks[:4]] == ["aé", "日\n", "bb\n", "aé"]


def test_a_line_longer_than_a_block_has_one_end(tmp_path):
    text = write(tmp_path, ["aa bb cc dd ee\nff gg hh"])
    tokenizer = learn("aa", level="word", words="whitespace")
    for size in (1, 2, 3, 5, 7, 100):
        with in_small_blocks(size, reach=size):
            ids = encode_text(text, tokenizer, mode="stream", cache=tmp_path / str(size)).ids
        assert (ids == EOS).sum() == 2, size


def test_eos_follows_each_document_line_or_sentence(tmp_path):
    parts = ['Hi! Go.")\n\nNo', "So."]
    for eos, expected in (
        ("document", 'Hi! Go.")\n\nNo|So.|'),
        ("line", 'Hi! Go.")\n|\n|No|So.|'),
        ("sentence", 'Hi! |Go.")\n|\nNo|So.|'),
        ("none", 'Hi! Go.")\n\nNoSo.'),
    ):
        tokenizer = learn("".join(parts), eos=eos)
        assert tokens_of(write(tmp_path, parts), tokenizer, tmp_path) == expected, eos


def test_a_cut_document_has_no_eos_yet(tmp_path):
    text = write(tmp_path, ["One", "Tw"], is_cut=True)
    for eos in ("document", "line", "sentence"):
        assert tokens_of(text, learn("OneTw", eos=eos), tmp_path) == "One|Tw", eos
    words = learn("One Tw", level="word", words="whitespace")
    assert tokens_of(text, words, tmp_path) == "One,|,Tw"


def test_a_line_at_the_end_of_a_document_has_one_eos(tmp_path):
    text = write(tmp_path, ["a.\nb.\n", "c.\n"])
    for eos in ("line", "sentence"):
        assert tokens_of(text, learn("abc.\n", eos=eos), tmp_path) == "a.\n|b.\n|c.\n|", eos


def test_a_full_width_mark_ends_a_sentence_without_a_space(tmp_path):
    sentence = "日。本語。a.b"
    tokenizer = learn(sentence, eos="sentence")
    assert tokens_of(write(tmp_path, [sentence]), tokenizer, tmp_path) == "日。|本語。|a.b|"


def test_eos_of_words_between_spaces_is_the_end_of_a_line(tmp_path):
    tokenizer = learn("a b\n\n c <unk>", level="word", words="whitespace")
    text = write(tmp_path, ["a b\n\n c <unk>", "b"])
    assert tokens_of(text, tokenizer, tmp_path) == "a,b,|,|,c,<UNK>,|,b,|"


def test_eos_follows_records_and_nothing_else_in_records_mode(tmp_path):
    parts = ["One. Two.", "x", "Three!"]
    text = write(tmp_path, parts)
    for eos in ENDS:
        tokenizer = learn("".join(parts), eos=eos)
        assert tokens_of(text, tokenizer, tmp_path, "records") == "One. Two.|x|Three!|", eos


def test_counts_include_unknown_characters(tmp_path):
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


def test_a_text_is_encoded_once(tmp_path):
    text, tokenizer = write(tmp_path, ["a bb"]), learn()
    first = encode_text(text, tokenizer, mode="stream", cache=tmp_path)
    with patch.object(tokens, "encode_to_file", side_effect=AssertionError("encoded again")):
        second = encode_text(text, tokenizer, mode="stream", cache=tmp_path)
    assert second.ids.tolist() == first.ids.tolist()
    assert second.counts == first.counts


def test_another_text_tokenizer_or_mode_is_encoded_again(tmp_path):
    tokenizer, text = learn(), write(tmp_path, ["a bb", "a"])
    encode_text(text, tokenizer, mode="stream", cache=tmp_path)
    others = [
        (replace(text, spans=text.spans[:1]), tokenizer, "stream"),
        (replace(text, is_cut=True), tokenizer, "stream"),
        (text, learn(eos="none"), "stream"),
        (text, learn(level="byte"), "stream"),
        (text, tokenizer, "records"),
    ]
    with patch.object(tokens, "encode_to_file", wraps=tokens.encode_to_file) as encode:
        for other, other_tokenizer, mode in others:
            encode_text(other, other_tokenizer, mode=mode, cache=tmp_path)
    assert encode.call_count == len(others)


def test_a_damaged_cache_is_encoded_again(tmp_path):
    text, tokenizer, cache = write(tmp_path, ["a bb ccc."]), learn(), tmp_path / "cache"
    first = encode_text(text, tokenizer, mode="stream", cache=cache)
    expected = first.ids.tolist()
    for suffix in (".ids", ".json"):
        (path,) = cache.glob(f"*{suffix}")
        data = path.read_bytes()
        flipped = [
            data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
            for offset in range(0, len(data), 1 if suffix == ".ids" else 5)
        ]
        for damaged in [*flipped, b"", data[:5], None]:
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            second = encode_text(text, tokenizer, mode="stream", cache=cache)
            assert second.ids.tolist() == expected, damaged
            assert second.counts == first.counts, damaged
            assert path.read_bytes() == data, damaged


def test_ids_on_disk_have_the_smallest_unsigned_type(tmp_path):
    text = write(tmp_path, ["a bb"])
    for level, dtype in (("char", "uint8"), ("byte", "uint16")):
        cache = tmp_path / level
        encoded = encode_text(text, learn(level=level), mode="stream", cache=cache)
        assert encoded.ids.dtype == np.dtype(dtype)
        (path,) = cache.glob("*.ids")
        assert path.stat().st_size == 5 * np.dtype(dtype).itemsize, level


def test_a_text_without_tokens_is_no_error(tmp_path):
    text = write(tmp_path, [" "])
    encoded = encode_text(
        text, learn(level="word", words="whitespace"), mode="stream", cache=tmp_path
    )
    assert encoded.ids.tolist() == [EOS]
    nothing = replace(text, spans=text.spans[:0])
    assert encode_text(nothing, learn(), mode="stream", cache=tmp_path).ids.tolist() == []


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_the_ids_of_slices_are_those_of_the_whole(mode, tmp_path, monkeypatch):
    lines = ["a bb ccc. é", "日本語。 The end? ", "", " bb"] * 5
    text = write(tmp_path, lines if mode == "records" else ["\n".join(lines), TRAINING_TEXT])
    for level, fields in LEVELS.items():
        tokenizer = learn(**fields)
        whole = encode_text(text, tokenizer, mode=mode, cache=tmp_path / level / "whole")
        sizes: list[int] = []
        with monkeypatch.context() as patched:
            patched.setattr(tokens, "SLICE_BYTES", 40)
            patched.setattr(corpora, "BLOCK_BYTES", 60)  # How far a line end is searched for.
            cache = tmp_path / level / "sliced"
            sliced = encode_text(text, tokenizer, mode=mode, cache=cache, report=sizes.append)
        assert len(list(cache.glob("*.ids"))) > 3 and sum(sizes) == text.size
        assert np.asarray(sliced.ids).tolist() == whole.ids.tolist(), level
        assert sliced.counts == whole.counts, level
        for read in (partial(record_windows, seed=1), stream_windows):
            a, b = (
                read(ids, batch_size=2, window=3, start=Position())
                for ids in (whole.ids, sliced.ids)
            )
            for one, other in islice(zip(a, b, strict=True), 30):
                assert one.inputs.tolist() == other.inputs.tolist(), level
                assert one.targets.tolist() == other.targets.tolist(), level
        assert count_ids(sliced.ids, 300).tolist() == count_ids(whole.ids, 300).tolist(), level


def test_several_processes_write_the_same_files_as_one_and_continue_after_a_stop(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tokens, "SLICE_BYTES", 30)
    text, tokenizer = write(tmp_path, ["a bb ccc.\n" * 20]), learn()
    one = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "one")
    two = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "two", workers=2)
    assert np.asarray(two.ids).tolist() == np.asarray(one.ids).tolist() and two.counts == one.counts
    names = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert names == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    for path in sorted((tmp_path / "two").glob("*.ids"))[:2]:
        path.unlink()
    with patch.object(tokens, "encode_to_file", wraps=tokens.encode_to_file) as encode:
        encode_text(text, tokenizer, mode="stream", cache=tmp_path / "two")
    assert encode.call_count == 2


def test_a_killed_process_is_an_error_and_the_finished_slices_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "SLICE_BYTES", 30)
    # Enough slices that some are left when the first one is reported, on a busy machine too.
    text, tokenizer = write(tmp_path, ["a bb ccc.\n" * 200]), learn()

    def kill(done: int) -> None:
        if done:
            for process in multiprocessing.active_children():
                os.kill(process.pid or 0, signal.SIGKILL)

    message = r"^an encoding process was killed, .*; try fewer workers: [^\n]+$"
    with pytest.raises(CorpusError, match=message):
        encode_text(text, tokenizer, mode="stream", cache=tmp_path / "ids", workers=2, report=kill)
    assert list((tmp_path / "ids").glob("*.json"))
    encoded = encode_text(text, tokenizer, mode="stream", cache=tmp_path / "ids")
    assert len(encoded.ids) == text.size + 1


def test_the_vocabulary_of_a_large_text_is_learned_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "SLICE_BYTES", 10)
    text, section = write(tmp_path, ["a bb ccc.\n" * 20]), Section(level="word")
    cache = tmp_path / "ids"
    first = learn_or_load_tokenizer(text, section, cache=cache)
    with patch.object(tokens, "learn_tokenizer", side_effect=AssertionError("learned again")):
        again = learn_or_load_tokenizer(text, section, cache=cache)
        assert again.to_json() == first.to_json()
    (path,) = cache.iterdir()
    path.write_bytes(path.read_bytes().replace(b"ccc", b"cca"))
    repaired = learn_or_load_tokenizer(text, section, cache=cache)
    assert repaired.to_json() == first.to_json()


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 6), min_size=1, max_size=40), data=st.data())
def test_sharded_ids_are_indexed_like_one_array(ids, data):
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
def test_ids_are_counted_in_blocks_of_any_size(ids, block):
    with patch.object(tokens, "BLOCK_BYTES", block):
        counts = count_ids(np.array(ids, dtype=np.uint8), 7)
    assert counts.tolist() == [ids.count(index) for index in range(7)]


def pages_of_files() -> int:
    """Return the bytes of mapped files that this process has in memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssFile:"))


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux reports the memory of mapped files"
)
def test_reading_a_text_and_counting_its_ids_release_the_pages_they_have_read(tmp_path):
    text = write(tmp_path, ["ab\n" * 2**23])  # 24 megabytes.
    before = pages_of_files()
    most = max(pages_of_files() for _ in text.blocks())
    ids = np.memmap(text.files[0].path, dtype=np.uint8, mode="r")
    assert count_ids(ids, 256).sum() == 3 * 2**23
    assert max(most, pages_of_files()) - before < 8 * 2**20


def test_the_cache_keeps_the_counts_of_texts_with_another_separator_apart(tmp_path):
    """Characters include the separators, so bits per character depend on them."""
    text = write(tmp_path, ["ab", "c"])
    tokenizer = learn("abc")
    characters = [
        encode_text(
            replace(text, separator=separator), tokenizer, mode="records", cache=tmp_path
        ).counts.characters
        for separator in ("", "\f", "###")
    ]
    assert characters == [3, 3 + 2, 3 + 2 * 3]
