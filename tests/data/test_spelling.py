"""The cost of what the tokens of a text leave out."""

import itertools
import math

import numpy as np
import pytest
from conftest import small_config

from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.corpus import read_text
from charlm.data.resolve import resolve
from charlm.data.spelling import (
    ByteModel,
    Restoration,
    restoration_of,
    restoration_of_line_ends,
)
from charlm.data.vocabulary import learn_tokenizer

LEARNED = "the cat sat on the mat.\nthe dog sat on the cat.\n"
WHITESPACE = Section(level="word", words="whitespace")


def restoration(tmp_path, text: str, section: Section, mode: str = "stream") -> Restoration:
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode())
    config = resolve(small_config(path, f"corpus.mode={mode}"))
    return restoration_of(read_text([str(path)], config), learn_tokenizer([LEARNED], section), mode)


def test_the_probabilities_of_spellings_by_hand():
    assert ByteModel().nats(b"ab") == pytest.approx(3 * math.log(257))
    # After "a", the start and nothing: one symbol each, seen once, so half of the weight is left.
    # p(a) = 1/2 + 1/2 (1/4 + 2/4 / 257), where the empty context has seen a and the end.
    letter = 1 / 2 + 1 / 2 * (1 / 4 + 2 / 4 / 257)
    end = 1 / 2 + 1 / 2 * (1 / 2 + 1 / 2 * (1 / 4 + 2 / 4 / 257))
    assert ByteModel([b"a"]).nats(b"a") == pytest.approx(-math.log(letter * end))


def test_the_probabilities_of_short_spellings_sum_to_less_than_one():
    model = ByteModel([b"to", b"toe", b"a"])
    singles = sum(math.exp(-model.nats(bytes([byte]))) for byte in range(256))
    assert 0.2 < math.exp(-model.nats(b"")) + singles < 1


def test_the_first_unknown_word_costs_its_bytes_and_a_repetition_less(tmp_path):
    tokenizer = learn_tokenizer([LEARNED], Section(level="word"))
    words = [tokenizer.token_bytes[index] for index in range(2, tokenizer.vocabulary_size)]
    once = restoration(tmp_path, "the owl sat", Section(level="word"))
    assert once.nats == pytest.approx(ByteModel(words).nats(b" owl"))
    nats = restoration(tmp_path, "the owl\nthe owl\nthe mat\n", Section(level="word")).nats_of_lines
    assert nats[0] == pytest.approx(once.nats)
    assert 0 < nats[1] < nats[0] / 5
    assert nats[2] == 0


@pytest.mark.parametrize(
    "section",
    [
        Section(level="char"),
        Section(level="byte"),
        Section(level="word"),
        Section(level="word", lowercase=True, normalization="nfc"),
        Section(level="char", eos="line", normalization="nfd"),
        Section(level="word", eos="sentence"),
        Section(level="bpe", vocabulary_size=300, lowercase=True),
        WHITESPACE,
    ],
)
def test_a_text_of_which_the_tokens_leave_nothing_out_costs_nothing(tmp_path, section):
    for mode in ("stream", "records"):
        result = restoration(tmp_path, "the cat sat on the mat.\nthe dog sat\n", section, mode)
        assert (result.nats, len(result.nats_of_lines), result.problem) == (0, 0, None)
        assert result.bits_per(10, 5.0) == 5.0 / (math.log(2) * 10)


@pytest.mark.parametrize(
    ("section", "text"),
    [
        (Section(level="char"), "the büg"),
        (Section(level="word"), "the owl sat"),
        (Section(level="bpe", vocabulary_size=300, lowercase=True), "the Cat sat"),
        (Section(level="char", lowercase=True), "THE CAT"),
        (WHITESPACE, "the  cat\n"),
        (WHITESPACE, " the cat \n"),
        (WHITESPACE, "the cat\r\nthe dog\r\n"),
        (WHITESPACE, "the <unk> sat\n"),
        (WHITESPACE, "the\u00a0cat\n"),
    ],
)
def test_each_kind_of_loss_costs_at_least_a_bit(tmp_path, section, text):
    result = restoration(tmp_path, text, section)
    assert result.nats > math.log(2)
    assert result.bits_per(10, 5.0) == (5.0 + result.nats) / (math.log(2) * 10)


def test_the_texts_with_the_same_tokens_have_probabilities_that_sum_to_at_most_one(tmp_path):
    section = Section(level="char", lowercase=True)
    patterns = itertools.product(*[(letter, letter.upper()) for letter in "cat sat"])
    texts = {"".join(letters) for letters in patterns} - {"cat sat"}
    total = sum(math.exp(-restoration(tmp_path, text, section).nats) for text in texts)
    assert 0.5 < total < 1
    gaps = ["".join(gap) for gap in itertools.product(" \t", repeat=2)] + ["\t", "   ", "\u00a0"]
    texts = [
        f"{first}the{gap}cat{last}" for gap in gaps for first in ("", " ") for last in ("", " ")
    ]
    total = sum(math.exp(-restoration(tmp_path, text, WHITESPACE).nats) for text in texts)
    assert 0 < total < 1


def test_what_cannot_be_restored_by_these_rules_is_named(tmp_path):
    for section, text, problem in [
        (Section(level="char", normalization="nfc"), "e\u0301", "normalization nfc changes"),
        (Section(level="word", normalization="nfkc"), "ﬁ", "normalization nfkc changes"),
        (Section(level="char", lowercase=True), "İstanbul", "lowercase changes"),
        (Section(level="char", lowercase=True), "\u212a", "lowercase changes"),  # Kelvin.
    ]:
        result = restoration(tmp_path, text + "the cat", section)
        assert result.problem.startswith(problem)
        assert result.nats is None and result.bits_per(7, 1.0) is None


def test_each_line_that_is_read_has_its_own_cost(tmp_path):
    text = "the owl\n\nthe cat\nan owl sat"
    for section, mode, expected in [
        (Section(level="word"), "stream", [1, 0, 0, 1]),
        (Section(level="word", eos="sentence"), "stream", [1, 0, 0, 1]),
        (Section(level="word"), "records", [1, 0, 1]),
        (WHITESPACE, "stream", [1, 0, 0, 1]),
    ]:
        nats = restoration(tmp_path, text, section, mode).nats_of_lines
        assert np.sign(nats).tolist() == expected, (section, mode)


def test_a_model_of_lines_pays_for_empty_lines_and_unusual_line_ends():
    for lines in ([], ["a\n", "b\n"], ["a\n", "b"]):
        assert restoration_of_line_ends(lines).nats == 0, lines
    for lines in (["a\n", "\n", "b\n"], ["a\r\n", "b\n"], ["\n", "a\n"], ["a\n", "\n"]):
        result = restoration_of_line_ends(lines)
        assert result.nats > math.log(2), lines
        assert len(result.nats_of_lines) == sum(line.strip() != "" for line in lines), lines
    poem = restoration_of_line_ends(["a line\n", "\n"] * 50).nats_of_lines
    assert poem[-1] < 0.1 < poem[0]


def test_costs_of_the_same_lines_are_added():
    nothing, one, other = Restoration(), Restoration(np.ones(2)), Restoration(np.array([2.0, 3]))
    assert (one + other).nats_of_lines.tolist() == [3, 4]
    assert (
        (nothing + one).nats_of_lines.tolist() == (one + nothing).nats_of_lines.tolist() == [1, 1]
    )
    assert (nothing + nothing).nats == 0
    assert (Restoration(problem="a reason") + one).nats is None
