"""A text is novel if it is neither in the corpus nor a repetition."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.tokenizer import EOS
from charlm.sampling.novelty import NoveltyFilter

KINDS = ["uint8", "uint16", "uint32"]


def novelty(*parts: list[int], records: bool, kind: str = "uint8") -> NoveltyFilter:
    return NoveltyFilter([np.array(part, dtype=kind) for part in parts], records=records)


def test_only_a_whole_record_is_known():
    for kind in KINDS:
        known = novelty([5, 6, 7, EOS, 8, EOS], [9, 9, EOS], records=True, kind=kind)
        for ids in ([5, 6, 7], [8], [9, 9]):
            assert not known.is_novel(ids), (kind, ids)
        for ids in ([5, 6], [6, 7], [9], [7, 8]):
            assert known.is_novel(ids), (kind, ids)


def test_a_record_is_known_with_its_eos_and_without():
    assert not novelty([5, 6, EOS], records=True).is_novel([5, 6, EOS])


def test_a_text_anywhere_in_a_part_is_known():
    for kind in KINDS:
        known = novelty([5, 6, 7, 8], [9, 2], records=False, kind=kind)
        for ids in ([5, 6], [6, 7, 8], [9, 2]):
            assert not known.is_novel(ids), (kind, ids)
        for ids in ([8, 9], [6, 8], [7, 6]):
            assert known.is_novel(ids), (kind, ids)


def test_a_text_across_the_end_of_a_document_is_known():
    known = novelty([5, 6, EOS, 7, 8], records=False)
    for ids in ([6, EOS, 7], [EOS, 7]):
        assert not known.is_novel(ids), ids
    for ids in ([6, 7], [5, EOS]):
        assert known.is_novel(ids), ids


def test_a_match_that_begins_within_an_id_does_not_count():
    known = novelty([0x0201, 0x0403, 0x0605], records=False, kind="uint16")
    assert known.is_novel([0x0302])
    assert known.is_novel([0x0504])
    assert not known.is_novel([0x0403])


def test_a_match_after_one_that_begins_within_an_id_is_found():
    known = novelty([0x0201, 0x0103, 0x0302], records=False, kind="uint16")
    assert not known.is_novel([0x0302])


def test_a_repetition_is_not_novel():
    for records in (True, False):
        known = novelty([5, 6, EOS], records=records)
        assert [known.is_novel(ids) for ids in ([7, 8], [7, 9], [7, 8])] == [True, True, False]


def test_without_a_corpus_only_repetitions_are_known():
    for records in (True, False):
        known = NoveltyFilter([], records=records)
        assert [known.is_novel(ids) for ids in ([7, 8], [7, 8], [7])] == [True, False, True]


@settings(max_examples=150, deadline=None)
@given(
    corpus=st.lists(st.integers(0, 3), max_size=30),
    ids=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    kind=st.sampled_from(KINDS),
)
def test_a_text_is_novel_if_it_is_nowhere_in_the_corpus(corpus, ids, kind):
    occurs = any(corpus[start : start + len(ids)] == ids for start in range(len(corpus)))
    assert novelty(corpus, records=False, kind=kind).is_novel(ids) is not occurs


def test_a_match_across_the_boundary_of_two_blocks_is_found(monkeypatch):
    monkeypatch.setattr("charlm.sampling.novelty.BLOCK_BYTES", 4)
    corpus = [2, 3, 4, 5, 6, 7, 8, 9, 2, 2]
    for kind in KINDS:
        known = novelty(corpus, records=False, kind=kind)
        assert not any(known.is_novel(corpus[start : start + 3]) for start in range(8)), kind
        assert not known.is_novel(corpus), kind
        assert known.is_novel([*corpus, 2]), kind


def test_a_corpus_on_disk_is_not_loaded_into_memory(tmp_path):
    path = tmp_path / "ids"
    np.zeros(64 << 20, dtype=np.uint8).tofile(path)
    ids = np.memmap(path, dtype=np.uint8, mode="r")
    tracemalloc.start()
    try:
        assert NoveltyFilter([ids], records=False).is_novel([0] * 100 + [1])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
