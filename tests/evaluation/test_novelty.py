"""Novelty of a text: by hand, and against a search for every n-gram."""

import numpy as np
import pytest
from conftest import small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import opened

from charlm.data.tokenizer import UNK
from charlm.data.vocabulary import learn_tokenizer
from charlm.data.written_form import written_form
from charlm.errors import CorpusError
from charlm.evaluation.novelty.compare import compare_with_training, split_sentences
from charlm.evaluation.novelty.measure import held_out_like
from charlm.evaluation.novelty.results import Novelty
from charlm.evaluation.novelty.units import WordIds

TEXTS = st.text(alphabet="abé𝄞 .\n", max_size=40)


def compare_stream(sample: str, training: str, held_out: str = "") -> Novelty:
    return compare_with_training(
        [sample.encode()], [held_out.encode()], training.encode(), records=False
    )


def compare_records(
    sample: list[str], training: list[str], held_out: tuple[str, ...] = ()
) -> Novelty:
    text = "".join(f"{record}\n" for record in training)
    return compare_with_training(
        [record.encode() for record in sample],
        [record.encode() for record in held_out],
        text.encode(),
        records=True,
    )


@settings(max_examples=60)
@given(sample=TEXTS.filter(len), training=TEXTS)
def test_the_longest_copy_is_that_of_trying_every_passage(sample, training):
    lengths = [
        end - start
        for start in range(len(sample))
        for end in range(start + 1, len(sample) + 1)
        if sample[start:end] in training
    ]
    copy = compare_stream(sample, training).sample.longest_copy
    assert (copy.characters if copy else 0) == max(lengths, default=0)
    if copy:
        assert sample[copy.sample_character :].startswith(copy.text)
        assert training.find(copy.text) == copy.training_character
        assert training[: copy.training_character].count("\n") + 1 == copy.training_line
        assert len(copy.text) == copy.characters


@settings(max_examples=60)
@given(sample=TEXTS.filter(len), training=TEXTS)
def test_overlap_is_that_of_counting_every_ngram(sample, training):
    overlap = compare_stream(sample, training).sample.overlap
    assert len(overlap) == 16
    for length, fraction in enumerate(overlap, start=1):
        ngrams = [sample[start : start + length] for start in range(len(sample) - length + 1)]
        known = sum(ngram in training for ngram in ngrams)
        assert fraction == (known / len(ngrams) if ngrams else None)


@settings(max_examples=40)
@given(sample=TEXTS.filter(len), held_out=TEXTS)
def test_repetition_is_that_of_counting_ngrams_in_as_much_text_as_both_sides_have(sample, held_out):
    sample, held_out = sample * 3, held_out * 4
    result = compare_stream(sample, "", held_out)
    size = min(len(sample), len(held_out)) if held_out else len(sample)
    for side, text in ((result.sample, sample), (result.held_out, held_out)):
        if side is None:
            assert not text
            continue
        ngrams = [text[:size][start : start + 16] for start in range(size - 15)]
        repeated = sum(ngram in ngrams[:number] for number, ngram in enumerate(ngrams))
        assert side.repeated_share == (repeated / len(ngrams) if ngrams else None)


def test_repetition_is_counted_across_texts_as_far_as_the_held_out_text_goes():
    first, second = "abcdefghijklmnop", "qrstuvwxyz012345"
    result = compare_records([first, first, first], [], held_out=(first, second))
    # 32 characters of both count: of the sample's two 16-grams one repeats, of the held-out ones none.
    assert result.settings["repeated_within"] == 32
    assert (result.sample.repeated_share, result.held_out.repeated_share) == (1 / 2, 0)


def test_overlap_by_hand():
    result = compare_stream("abxab", "ab ba", "bax")
    # a, b, a, b of five; ab twice of ab bx xa ab; none of three; held out: b a of three, ba of two.
    assert result.sample.overlap[:3] == [4 / 5, 2 / 4, 0]
    assert result.sample.overlap[5] is None
    assert result.held_out.overlap[:4] == [2 / 3, 1 / 2, 0, None]


def test_a_sentence_is_novel_if_it_is_nowhere_in_the_training_text():
    sample = "The cat sat. A dog ran!\nThe cat sat.\n"
    side = compare_stream(sample, "Then: The cat sat. Then it ran.\n").sample
    assert (side.pieces, side.novel_share, side.distinct_share) == (3, 1 / 3, 2 / 3)


def test_a_record_is_novel_if_it_is_not_a_whole_record_of_the_training_text():
    side = compare_records(["anna", "ann", "nna", "bob", "bob"], ["anna", "bob", "joanna"]).sample
    # anna and both bobs are known; ann and nna are only parts of records.
    assert (side.pieces, side.novel_share, side.distinct_share) == (5, 2 / 5, 4 / 5)
    assert (side.longest_copy.text, side.longest_copy.training_line) == ("anna", 1)


def test_nothing_is_compared_across_the_end_of_a_record():
    side = compare_records(["ab", "cd"], ["abcd"]).sample
    assert side.longest_copy.characters == 2
    assert side.overlap[:3] == [1, 1, None]
    assert compare_records(["xab", "cd"], ["ab", "cdx"]).sample.longest_copy.characters == 2


def test_held_out_text_is_measured_like_the_sample():
    result = compare_records(["zz"], ["anna", "bob"], held_out=("anna", "eve"))
    assert (result.sample.novel_share, result.held_out.novel_share) == (1, 1 / 2)
    assert result.held_out.longest_copy.text == "anna"
    assert result.sample.longest_copy is None
    assert compare_stream("abc", "abc").held_out is None


def test_a_sample_without_characters_is_refused():
    for sample in ([], [b""], [b"", b""]):
        with pytest.raises(CorpusError, match="has no character"):
            compare_with_training(sample, [], b"text", records=True)


def test_a_sample_of_spaces_has_no_sentence():
    side = compare_stream(" \n", "text").sample
    assert (side.pieces, side.novel_share, side.distinct_share) == (0, None, None)


def test_ngrams_of_words_consist_of_whole_words():
    training = " a cat saw a dog\n"
    section = small_config("x", "tokenizer.level=word").tokenizer
    tokenizer = learn_tokenizer([training], section)
    result = compare_with_training(
        [b"x\n a cat saw"],
        [b" saw a do"],
        training.encode(),
        records=False,
        words=WordIds(tokenizer.encode(training), tokenizer.encode),
    )
    assert result.settings["ngrams_of"] == "words"
    # x is <UNK>, and n-grams with it do not count: the end of the line, " a", " cat", " saw".
    assert result.sample.overlap[:5] == [1, 2 / 3, 1 / 2, 0, None]
    # " do" is no word, though " saw a do" is in the text.
    assert result.held_out.overlap[:3] == [1, 1, None]
    assert result.held_out.longest_copy.characters == 9


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([UNK, 2, 3, 4]), min_size=1, max_size=20),
    st.lists(st.sampled_from([UNK, 2, 3, 4]), max_size=20),
)
def test_overlap_of_words_is_that_of_counting_ngrams_without_unknown_words(ids, training):
    words = WordIds(np.array(training, dtype=np.uint16), lambda text: np.array(ids))
    result = compare_with_training([b"any"], [], b"any", records=False, words=words)
    for length, fraction in enumerate(result.sample.overlap, start=1):
        ngrams = [ids[start : start + length] for start in range(len(ids) - length + 1)]
        ngrams = [ngram for ngram in ngrams if UNK not in ngram]
        known = [training[start : start + length] for start in range(len(training) - length + 1)]
        expected = sum(ngram in known for ngram in ngrams) / len(ngrams) if ngrams else None
        assert fraction == expected


def test_sentences_end_at_marks_and_lines():
    text = 'He said "No." Then: 3.5 and e.g. this\nO! (Yes.) \n\n你好。再见。'
    assert [sentence.decode() for sentence in split_sentences(text.encode())] == [
        'He said "No."',
        "Then: 3.5 and e.g.",
        "this",
        "O!",
        "(Yes.)",
        "你好。",
        "再见。",
    ]


def test_held_out_records_are_evenly_spaced_and_text_is_taken_from_the_beginning():
    records = b"".join(b"%d\n" % number for number in range(10))
    assert held_out_like([b"a", b"", b"b"], records, records=True) == [b"0", b"5"]
    assert len(held_out_like([b"a"] * 20, records, records=True)) == 10
    assert held_out_like(["éé".encode()], "aéé".encode(), records=False) == ["aé".encode()]
    assert held_out_like([b"long enough"], b"abc", records=False) == [b"abc"]
    assert held_out_like([b"any"], b"", records=False) == [b""]


def test_a_text_is_compared_in_the_form_in_which_the_model_writes_it(tmp_path):
    path = tmp_path / "text.txt"
    for overrides, text, written in [
        ([], "Ab\n\nc", "Ab\n\nc"),
        (["tokenizer.eos=line"], "Ab\nc\n", "Ab\nc\n"),
        (["corpus.separator=XX"], "AbXXc", "Ab\nc"),
        (["corpus.separator=XX", "tokenizer.eos=none"], "AbXXc", "Abc"),
        (["corpus.mode=records"], "Ab\n\nc", "Ab\nc\n"),
        (["tokenizer.lowercase=true"], "ÀB\n", "àb\n"),
        (["tokenizer.level=word", "tokenizer.words=whitespace"], " a  b \n\nc", "a b\n\nc"),
    ]:
        path.write_text(text, encoding="utf-8")
        config = small_config(path, "corpus.valid_share=0", *overrides)
        corpus = opened(config.corpus)
        tokenizer = learn_tokenizer([text], config.tokenizer)
        records = corpus.mode == "records"
        form = written_form(corpus.parts["train"], tokenizer, records=records)
        assert form.decode() == written, overrides


def test_a_few_known_pieces_are_no_clear_finding():
    training = ["ab", "cd", "ef"]
    new = [f"{number} a" for number in range(200)]
    for known, total, held_out, is_clear in (
        (2, 29, 17, False),
        (20, 29, 17, True),
        (10, 180, 150, True),
    ):
        sample = [*new[: total - known], *training * known][:total]
        finding = next(compare_records(sample, training, tuple(new[:held_out])).lines())
        assert ("has clearly more" in finding) == is_clear, (known, total)
