"""How new a text is: by hand, and against looking everywhere."""

import numpy as np
import pytest
from conftest import small_config
from hypothesis import given
from hypothesis import strategies as st
from reading import opened

from charlm.data.tokenizer import UNK, learn_tokenizer
from charlm.data.written_form import written_form
from charlm.errors import CorpusError
from charlm.evaluation.novelty import (
    Words,
    held_out_like,
    measure_novelty,
    sentences,
)

TEXTS = st.text(alphabet="abé𝄞 .\n", max_size=40)


def stream(sample: str, training: str, held_out: str = ""):
    return measure_novelty([sample.encode()], [held_out.encode()], training.encode(), records=False)


def record_novelty(sample, training, held_out=()):
    text = "".join(f"{record}\n" for record in training)
    return measure_novelty(
        [record.encode() for record in sample],
        [record.encode() for record in held_out],
        text.encode(),
        records=True,
    )


@given(sample=TEXTS.filter(len), training=TEXTS)
def test_the_longest_copy_is_that_of_trying_every_stretch(sample, training):
    lengths = [
        b - a
        for a in range(len(sample))
        for b in range(a + 1, len(sample) + 1)
        if sample[a:b] in training
    ]
    copy = stream(sample, training).sample.longest_copy
    assert (copy.characters if copy else 0) == max(lengths, default=0)
    if copy:
        assert sample[copy.sample_character :].startswith(copy.text)
        assert training.find(copy.text) == copy.training_character
        assert training[: copy.training_character].count("\n") + 1 == copy.training_line
        assert len(copy.text) == copy.characters


@given(sample=TEXTS.filter(len), training=TEXTS)
def test_overlap_is_that_of_counting_every_ngram(sample, training):
    overlap = stream(sample, training).sample.overlap
    assert len(overlap) == 16
    for size, share in enumerate(overlap, start=1):
        grams = [sample[at : at + size] for at in range(len(sample) - size + 1)]
        assert share == (sum(gram in training for gram in grams) / len(grams) if grams else None)


@given(sample=TEXTS.filter(len), held_out=TEXTS)
def test_repetition_is_that_of_counting_ngrams_over_the_size_of_both(sample, held_out):
    found = stream(sample * 3, "", held_out * 4)
    most = min(len(sample * 3), len(held_out * 4)) if held_out else len(sample * 3)
    for side, text in ((found.sample, sample * 3), (found.held_out, held_out * 4)):
        if side is None:
            assert not text
            continue
        grams = [text[:most][at : at + 16] for at in range(most - 15)]
        again = sum(gram in grams[:at] for at, gram in enumerate(grams))
        assert side.repeated_share == (again / len(grams) if grams else None)


def test_repetition_is_counted_over_texts_and_only_as_far_as_the_held_out_text_goes():
    once, other = "abcdefghijklmnop", "qrstuvwxyz012345"
    found = record_novelty([once, once, once], [], held_out=[once, other])
    # Both have 32 characters that count: of the sample's two 16-grams one is a repeat, of the held-out text's none.
    assert found.settings["repeated_within"] == 32
    assert (found.sample.repeated_share, found.held_out.repeated_share) == (1 / 2, 0)


def test_ngrams_by_hand():
    found = stream("abxab", "ab ba", "bax")
    # a, b, a, b of five; ab twice of ab bx xa ab; none of three; held out: b a of three, ba of two.
    assert found.sample.overlap[:3] == [4 / 5, 2 / 4, 0]
    assert found.sample.overlap[5] is None
    assert found.held_out.overlap[:4] == [2 / 3, 1 / 2, 0, None]


def test_a_sentence_is_novel_if_it_stands_nowhere_in_the_text():
    found = stream(
        "The cat sat. A dog ran!\nThe cat sat.\n", "Then: The cat sat. Then it ran.\n"
    ).sample
    assert (found.pieces, found.novel_share, found.distinct_share) == (3, 1 / 3, 2 / 3)


def test_a_record_is_novel_if_it_is_no_whole_record():
    found = record_novelty(["anna", "ann", "nna", "bob", "bob"], ["anna", "bob", "joanna"]).sample
    # anna and both bobs are known; ann and nna stand only within a record.
    assert (found.pieces, found.novel_share, found.distinct_share) == (5, 2 / 5, 4 / 5)
    assert (found.longest_copy.text, found.longest_copy.training_line) == ("anna", 1)


def test_nothing_is_compared_over_the_end_of_a_record():
    found = record_novelty(["ab", "cd"], ["abcd"])
    assert found.sample.longest_copy.characters == 2
    assert found.sample.overlap[:3] == [1, 1, None]
    assert record_novelty(["xab", "cd"], ["ab", "cdx"]).sample.longest_copy.characters == 2


def test_held_out_text_is_measured_as_the_sample_is():
    found = record_novelty(["zz"], ["anna", "bob"], held_out=["anna", "eve"])
    assert (found.sample.novel_share, found.held_out.novel_share) == (1, 1 / 2)
    assert found.held_out.longest_copy.text == "anna"
    assert found.sample.longest_copy is None


def test_without_held_out_text_there_is_none_beside():
    assert stream("abc", "abc").held_out is None


@pytest.mark.parametrize("sample", [[], [b""], [b"", b""]])
def test_a_sample_of_no_character_is_refused(sample):
    with pytest.raises(CorpusError, match="has no character"):
        measure_novelty(sample, [], b"text", records=True)


def test_a_sample_of_spaces_has_no_sentence():
    found = stream(" \n", "text").sample
    assert (found.pieces, found.novel_share, found.distinct_share) == (0, None, None)


def words(training: str):
    section = small_config("x", "tokenizer.level=word").tokenizer
    tokenizer = learn_tokenizer([training], section)
    return Words(tokenizer.encode(training), tokenizer.encode)


def test_ngrams_of_words_are_whole_words():
    training = " a cat saw a dog\n"
    found = measure_novelty(
        [b"x\n a cat saw"], [b" saw a do"], training.encode(), records=False, words=words(training)
    )
    assert found.settings["ngrams_of"] == "words"
    # x is <UNK>, and n-grams with it are not counted: the end of the line, " a", " cat", " saw".
    assert found.sample.overlap[:5] == [1, 2 / 3, 1 / 2, 0, None]
    # " do" is no word, though " saw a do" stands in the text.
    assert found.held_out.overlap[:3] == [1, 1, None]
    assert found.held_out.longest_copy.characters == 9


@given(
    st.lists(st.sampled_from([UNK, 2, 3, 4]), min_size=1, max_size=20),
    st.lists(st.sampled_from([UNK, 2, 3, 4]), max_size=20),
)
def test_overlap_of_words_is_that_of_counting(ids, training):
    kept = Words(np.array(training, dtype=np.uint16), lambda text: np.array(ids))
    overlap = measure_novelty([b"any"], [], b"any", records=False, words=kept).sample.overlap
    for size, share in enumerate(overlap, start=1):
        grams = [ids[at : at + size] for at in range(len(ids) - size + 1)]
        grams = [gram for gram in grams if UNK not in gram]
        places = [training[at : at + size] for at in range(len(training) - size + 1)]
        assert share == (sum(gram in places for gram in grams) / len(grams) if grams else None)


def test_sentences_end_at_marks_and_lines():
    text = 'He said "No." Then: 3.5 and e.g. this\nO! (Yes.) \n\n你好。再见。'
    assert [sentence.decode() for sentence in sentences(text.encode())] == [
        'He said "No."',
        "Then: 3.5 and e.g.",
        "this",
        "O!",
        "(Yes.)",
        "你好。",
        "再见。",
    ]


def test_held_out_records_are_taken_evenly_and_text_from_the_beginning():
    records = b"".join(b"%d\n" % number for number in range(10))
    assert held_out_like([b"a", b"", b"b"], records, records=True) == [b"0", b"5"]
    assert len(held_out_like([b"a"] * 20, records, records=True)) == 10
    assert held_out_like(["éé".encode()], "aéé".encode(), records=False) == ["aé".encode()]
    assert held_out_like([b"long enough"], b"abc", records=False) == [b"abc"]
    assert held_out_like([b"any"], b"", records=False) == [b""]


@pytest.mark.parametrize(
    ("overrides", "text", "written"),
    [
        ([], "Ab\n\nc", "Ab\n\nc"),
        (["tokenizer.eos=line"], "Ab\nc\n", "Ab\nc\n"),
        (["corpus.separator=XX"], "AbXXc", "Ab\nc"),
        (["corpus.separator=XX", "tokenizer.eos=none"], "AbXXc", "Abc"),
        (["corpus.mode=records"], "Ab\n\nc", "Ab\nc\n"),
        (["tokenizer.lowercase=true"], "ÀB\n", "àb\n"),
        (["tokenizer.level=word", "tokenizer.words=whitespace"], " a  b \n\nc", "a b\n\nc"),
    ],
)
def test_a_text_is_compared_as_the_model_writes_it(tmp_path, overrides, text, written):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    config = small_config(path, "corpus.valid_share=0", *overrides)
    corpus = opened(config.corpus)
    tokenizer = learn_tokenizer([text], config.tokenizer)
    assert (
        written_form(corpus.parts["train"], tokenizer, records=corpus.mode == "records").decode()
        == written
    )
