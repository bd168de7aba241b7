"""What is new: neither in the corpus nor written before."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.tokenizer import EOS
from charlm.sampling.novelty import NoveltyFilter

KINDS = ["uint8", "uint16", "uint32"]


def novelty(*parts: list[int], records: bool, kind: str = "uint8") -> NoveltyFilter:
    return NoveltyFilter([np.array(part, dtype=kind) for part in parts], records=records)


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_known_only_as_a_whole(kind):
    known = novelty([5, 6, 7, EOS, 8, EOS], [9, 9, EOS], records=True, kind=kind)
    assert [
        known.is_novel(ids) for ids in ([5, 6, 7], [8], [9, 9], [5, 6], [6, 7], [9], [7, 8])
    ] == [
        False,
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_a_record_is_known_with_its_eos_and_without():
    assert not novelty([5, 6, EOS], records=True).is_novel([5, 6, EOS])


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_known_wherever_it_stands(kind):
    known = novelty([5, 6, 7, 8], [9, 2], records=False, kind=kind)
    assert [known.is_novel(ids) for ids in ([5, 6], [6, 7, 8], [9, 2], [8, 9], [6, 8], [7, 6])] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_text_over_the_end_of_a_document_is_known():
    known = novelty([5, 6, EOS, 7, 8], records=False)
    assert [known.is_novel(ids) for ids in ([6, EOS, 7], [EOS, 7], [6, 7], [5, EOS])] == [
        False,
        False,
        True,
        True,
    ]


def test_bytes_that_match_between_two_ids_are_no_match():
    known = novelty([0x0201, 0x0403, 0x0605], records=False, kind="uint16")
    assert known.is_novel([0x0302])
    assert known.is_novel([0x0504])
    assert not known.is_novel([0x0403])


def test_a_match_after_one_between_two_ids_is_found():
    known = novelty([0x0201, 0x0103, 0x0302], records=False, kind="uint16")
    assert not known.is_novel([0x0302])


@pytest.mark.parametrize("records", [True, False])
def test_a_repeat_is_not_new(records):
    known = novelty([5, 6, EOS], records=records)
    assert [known.is_novel(ids) for ids in ([7, 8], [7, 9], [7, 8])] == [True, True, False]


@pytest.mark.parametrize("records", [True, False])
def test_without_a_corpus_only_repeats_are_known(records):
    known = NoveltyFilter([], records=records)
    assert [known.is_novel(ids) for ids in ([7, 8], [7, 8], [7])] == [True, False, True]


@settings(max_examples=150, deadline=None)
@given(
    corpus=st.lists(st.integers(0, 3), max_size=30),
    ids=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    kind=st.sampled_from(KINDS),
)
def test_a_text_is_new_if_no_place_of_the_corpus_holds_it(corpus, ids, kind):
    found = any(corpus[at : at + len(ids)] == ids for at in range(len(corpus)))
    assert novelty(corpus, records=False, kind=kind).is_novel(ids) is not found


@pytest.mark.parametrize("kind", KINDS)
def test_a_match_over_the_seam_of_two_blocks_is_found(kind, monkeypatch):
    monkeypatch.setattr("charlm.sampling.novelty.BLOCK_BYTES", 4)
    corpus = [2, 3, 4, 5, 6, 7, 8, 9, 2, 2]
    known = novelty(corpus, records=False, kind=kind)
    assert not any(known.is_novel(corpus[at : at + 3]) for at in range(8))
    assert not known.is_novel(corpus)
    assert known.is_novel([*corpus, 2])


def test_a_text_on_disk_is_not_taken_into_memory(tmp_path):
    path = tmp_path / "ids"
    np.zeros(64 << 20, dtype=np.uint8).tofile(path)
    ids = np.memmap(path, dtype=np.uint8, mode="r")
    tracemalloc.start()
    try:
        assert NoveltyFilter([ids], records=False).is_novel([0] * 100 + [1])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
