"""A text is novel if it is neither in the corpus nor a repetition."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import EOS, UNK, Tokenizer
from charlm.data.vocabulary import learn_tokenizer
from charlm.sampling.novelty import NoveltyFilter

LETTERS = learn_tokenizer(["abcdefgh"], Section(level="char"))


def ids_of(text: str, tokenizer: Tokenizer = LETTERS) -> list[int]:
    """Return the ids of a text in which | stands for <EOS>."""
    parts = [tokenizer.encode(part).tolist() for part in text.split("|")]
    return [token for part in parts for token in [*part, EOS]][:-1]


def novelty(*parts: str, records: bool, tokenizer: Tokenizer = LETTERS) -> NoveltyFilter:
    ids = [np.array(ids_of(part, tokenizer), dtype="uint16") for part in parts]
    return NoveltyFilter(ids, tokenizer, records=records)


def test_only_a_whole_record_is_known():
    known = novelty("abc|d|", "ee|", records=True)
    for text in ("abc", "d", "ee", "abc|"):
        assert not known.is_novel(ids_of(text)), text
    for text in ("ab", "bc", "e", "cd"):
        assert known.is_novel(ids_of(text)), text


def test_a_text_anywhere_in_a_part_is_known():
    known = novelty("abcd", "eh", records=False)
    for text in ("ab", "bcd", "eh"):
        assert not known.is_novel(ids_of(text)), text
    for text in ("de", "bd", "cb"):
        assert known.is_novel(ids_of(text)), text


def test_a_text_across_the_end_of_a_document_is_known():
    known = novelty("ab|cd", records=False)
    for text in ("b|c", "|c"):
        assert not known.is_novel(ids_of(text)), text
    for text in ("bc", "a|"):
        assert known.is_novel(ids_of(text)), text


@pytest.mark.parametrize("records", [True, False])
def test_another_division_of_a_known_text_into_subwords_is_known(records):
    section = Section(level="bpe", vocabulary_size=262)
    tokenizer = learn_tokenizer(["the cat then the hen sat there"], section)
    known = novelty("the cat|then|", records=records, tokenizer=tokenizer)
    letters = [tokenizer.token_bytes.index(letter.encode()) for letter in "then"]
    assert letters != ids_of("then", tokenizer)
    assert not known.is_novel(letters)
    assert known.is_novel(ids_of("hen cat", tokenizer))


def test_unknown_tokens_of_the_corpus_are_not_nothing():
    ids = np.array([*ids_of("a"), UNK, *ids_of("b"), EOS])
    for records in (True, False):
        assert NoveltyFilter([ids], LETTERS, records=records).is_novel(ids_of("ab"))


def test_a_repetition_is_not_novel():
    for records in (True, False):
        known = novelty("ab|", records=records)
        assert [known.is_novel(ids_of(text)) for text in ("cd", "ce", "cd")] == [True, True, False]


def test_without_a_corpus_only_repetitions_are_known():
    for records in (True, False):
        known = NoveltyFilter([], LETTERS, records=records)
        assert [known.is_novel(ids_of(text)) for text in ("cd", "cd", "c")] == [True, False, True]


@settings(max_examples=150, deadline=None)
@given(corpus=st.text("abc|", max_size=30), text=st.text("abc|", min_size=1, max_size=4))
def test_a_text_is_novel_if_it_is_nowhere_in_the_corpus(corpus, text):
    assert novelty(corpus, records=False).is_novel(ids_of(text)) is (text not in corpus)


def test_a_match_across_the_boundary_of_two_blocks_is_found(monkeypatch):
    monkeypatch.setattr("charlm.sampling.novelty._BLOCK_IDS", 4)
    monkeypatch.setattr("charlm.sampling.novelty._KEPT_IDS", 0)
    corpus = "abcdefghaa"
    known = novelty(corpus, records=False)
    assert not any(known.is_novel(ids_of(corpus[start : start + 3])) for start in range(8))
    assert not known.is_novel(ids_of(corpus))
    assert known.is_novel(ids_of(corpus + "b"))


def test_a_large_corpus_on_disk_is_not_loaded_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("charlm.sampling.novelty._KEPT_IDS", 1 << 20)
    path = tmp_path / "ids"
    np.full(8 << 20, 2, dtype=np.uint8).tofile(path)
    ids = np.memmap(path, dtype=np.uint8, mode="r")
    tracemalloc.start()
    try:
        assert NoveltyFilter([ids], LETTERS, records=False).is_novel([2] * 100 + [3])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
