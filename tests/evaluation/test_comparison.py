"""Models beside one another on the same text."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config.schema import Tokenizer as Section
from charlm.data.tokenizer import Tokenizer, learn_tokenizer
from charlm.data.utf8 import split_lines
from charlm.errors import CharlmError
from charlm.evaluation.comparison import (
    block_of_lines,
    difference_intervals,
    nats_of_lines,
)

TEXT = "A b.\n\nC dé\n"


def encoded(text: str, section: Section, learn: str = TEXT) -> tuple[np.ndarray, Tokenizer]:
    tokenizer = learn_tokenizer([learn], section)
    pieces, ends = [text.encode()], [False]
    if tokenizer.separates_by_space or section.eos == "line":
        keep = not tokenizer.separates_by_space
        pieces = [
            (line if keep else line.removesuffix("\n")).encode() for line in split_lines(text)
        ]
        ends = [True] * len(pieces)
    return tokenizer.encode_pieces(pieces, ends), tokenizer


@pytest.mark.parametrize(
    ("section", "tokens"),
    [
        (Section(level="char", eos="none"), [5, 1, 5]),
        (Section(level="byte", eos="none"), [5, 1, 6]),
        (Section(level="word", eos="none"), [4, 1, 3]),
        (Section(level="word", words="whitespace"), [3, 1, 3]),
        (Section(level="bpe", vocabulary_size=300, eos="none"), [4, 1, 4]),
        (Section(level="char", eos="line"), [6, 2, 6]),
    ],
)
def test_each_line_is_paid_for_by_its_own_tokens_whatever_they_are(section, tokens):
    ids, tokenizer = encoded(TEXT, section)
    nats = nats_of_lines(ids, np.full(len(ids), -1.0), tokenizer, split_lines(TEXT), records=False)
    if section.level == "bpe":  # What it has merged is its own affair.
        assert (nats[1], nats.sum()) == (1, len(ids))
    else:
        assert nats.tolist() == tokens


def test_nats_are_those_of_the_tokens_of_the_line():
    ids, tokenizer = encoded("ab\nc", Section(level="char", eos="none"), "abc\n")
    nats = nats_of_lines(
        ids, -np.array([1, 2, 4, 8.0]), tokenizer, split_lines("ab\nc"), records=False
    )
    assert nats.tolist() == [7, 8]


def test_records_do_not_have_the_empty_lines():
    tokenizer = learn_tokenizer(["ab"], Section(level="char"))
    ids = tokenizer.encode_pieces([b"a", b"bb"], [True, True])
    nats = nats_of_lines(
        ids, -np.array([1, 2, 4, 8, 16.0]), tokenizer, split_lines("a\r\n\n\r\nbb\n"), records=True
    )
    assert nats.tolist() == [3, 0, 0, 28]


def test_a_model_that_knows_no_line_end_cannot_be_paired():
    ids, tokenizer = encoded("ab\nab\n", Section(level="char", eos="none"), "ab")
    with pytest.raises(
        CharlmError, match=r"has 2 lines and the tokens of one model have 1, .* know the line's end"
    ):
        nats_of_lines(ids, np.zeros(len(ids)), tokenizer, split_lines("ab\nab\n"), records=False)


@given(
    st.text(st.sampled_from("ab .\n"), max_size=60),
    st.sampled_from(["char", "byte", "word", "bpe"]),
)
def test_lines_keep_every_nat_of_the_text(text, level):
    size = {"vocabulary_size": 300} if level == "bpe" else {}
    ids, tokenizer = encoded(text, Section(level=level, eos="none", **size), "ab ab.\n")
    log_p = -np.arange(1.0, len(ids) + 1)
    nats = nats_of_lines(ids, log_p, tokenizer, split_lines(text), records=False)
    assert len(nats) == len(split_lines(text))
    assert nats.sum() == pytest.approx(-log_p.sum())
    alone = [len(tokenizer.encode(line)) for line in split_lines(text)]
    assert (
        nats_of_lines(
            ids, np.full(len(ids), -1.0), tokenizer, split_lines(text), records=False
        ).tolist()
        == alone
    )


def test_lines_and_blocks_by_hand():
    assert split_lines("a\r\n\n\u2028b") == ["a\r\n", "\n", "\u2028b"]
    assert block_of_lines(["ab", "cd", "ef", "gh", "i"], 4).tolist() == [0, 0, 1, 1, 1]
    assert block_of_lines(["a"], 4).tolist() == [0]
    assert block_of_lines(["aaaa", "b", "bbb"], 4).tolist() == [0, 1, 1]


def test_a_difference_that_is_the_same_in_every_block_is_certain():
    nats = np.array([[1.0, 2, 3], [2, 3, 4]])
    ((low, high),) = difference_intervals(nats, np.array([10.0, 10, 10]), seed=1)
    assert (low, high) == pytest.approx((0.1 / math.log(2), 0.1 / math.log(2)))


def test_two_blocks_give_the_interval_that_can_be_counted():
    # Of two blocks drawn from two, a quarter has the first twice, a quarter the second twice.
    nats = np.array([[0.0, 0], [1, 3]]) * math.log(2)
    assert difference_intervals(nats, np.array([1.0, 1]), seed=1) == [pytest.approx((1, 3))]


def test_a_resample_is_scored_by_its_own_characters():
    # The difference is one bit a character in both blocks, however long.
    nats = np.array([[0.0, 0], [1, 3]]) * math.log(2)
    assert difference_intervals(nats, np.array([1.0, 3]), seed=1) == [pytest.approx((1, 1))]


def test_the_interval_is_that_of_the_normal_distribution_where_blocks_are_many():
    random = np.random.default_rng(3)
    differences = random.normal(0.5, 2.0, size=400)
    nats = np.stack([np.zeros(400), differences]) * math.log(2) * 100
    ((low, high),) = difference_intervals(nats, np.full(400, 100.0), seed=1, resamples=4000)
    error = 1.96 * differences.std() / 20
    assert (low, high) == pytest.approx(
        (differences.mean() - error, differences.mean() + error), abs=0.03
    )


def test_blocks_are_drawn_the_same_for_all_models_and_for_the_same_seed():
    random = np.random.default_rng(3)
    one, characters = random.uniform(100, 200, size=50), np.full(50, 100.0)
    nats = np.stack([one, one + 1.0])
    ((low, high),) = difference_intervals(nats, characters, seed=1)
    assert high - low == pytest.approx(0, abs=1e-9)  # Pairs: what both find hard does not matter.
    other = np.stack([one, one[::-1]])
    found = difference_intervals(other, characters, seed=1)
    assert (
        found
        == difference_intervals(other, characters, seed=1)
        != difference_intervals(other, characters, seed=2)
    )


def test_one_block_gives_no_interval():
    assert difference_intervals(np.array([[1.0], [2], [3]]), np.array([10.0]), seed=1) == [
        None,
        None,
    ]
