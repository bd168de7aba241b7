"""Filters on logits, worked by hand and as laws."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.sampling.filters import apply_temperature, keep_top_k, keep_top_p

rows = st.lists(st.floats(-30, 30), min_size=1, max_size=12).map(lambda row: torch.tensor([row], dtype=torch.float64))


def log(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def kept(logits: torch.Tensor) -> list[int]:
    """Return the tokens of the first row that may still be drawn."""
    return torch.nonzero(logits[0] > -math.inf)[:, 0].tolist()


def test_temperature_one_half_squares_the_odds():
    probabilities = apply_temperature(log(0.2, 0.8), 0.5).softmax(dim=-1)
    torch.testing.assert_close(probabilities, torch.tensor([[1 / 17, 16 / 17]], dtype=torch.float64))


def test_temperature_one_changes_nothing():
    probabilities = apply_temperature(log(0.2, 0.8), 1.0).softmax(dim=-1)
    torch.testing.assert_close(probabilities, torch.tensor([[0.2, 0.8]], dtype=torch.float64))


def test_no_temperature_is_too_small_to_divide_by():
    assert apply_temperature(log(0.2, 0.8), 1e-320).softmax(dim=-1).tolist() == [[0, 1]]


def test_top_k_keeps_the_k_most_probable():
    assert kept(keep_top_k(log(0.1, 0.4, 0.2, 0.3), 2)) == [1, 3]
    assert kept(keep_top_k(log(0.1, 0.4, 0.2, 0.3), 1)) == [1]


def test_top_k_keeps_what_is_as_probable_as_the_last():
    assert kept(keep_top_k(log(0.1, 0.3, 0.3, 0.3), 2)) == [1, 2, 3]


def test_top_p_keeps_the_fewest_that_reach_it():
    logits = log(0.125, 0.5, 0.125, 0.25)
    assert kept(keep_top_p(logits, 0.5)) == [1]
    assert kept(keep_top_p(logits, 0.51)) == [1, 3]
    assert kept(keep_top_p(logits, 0.75)) == [1, 3]
    assert kept(keep_top_p(logits, 0.76)) == [0, 1, 3]


def test_each_row_is_filtered_by_itself():
    logits = torch.cat([log(0.7, 0.2, 0.1), log(0.1, 0.2, 0.7)])
    for filtered in (keep_top_k(logits, 1), keep_top_p(logits, 0.6)):
        assert (filtered > -math.inf).tolist() == [[True, False, False], [False, False, True]]


@settings(max_examples=100, deadline=None)
@given(logits=rows, k=st.integers(1, 15), p=st.floats(0, 1), temperature=st.floats(0.01, 50))
def test_some_token_is_always_left_and_what_is_left_is_unchanged(logits, k, p, temperature):
    cooled = apply_temperature(logits, temperature)
    filtered = keep_top_p(keep_top_k(cooled, k), p)
    left = kept(filtered)
    assert logits[0, left].max() >= logits.max() - 1e-9
    assert torch.equal(filtered[0, left], cooled[0, left])
    assert filtered.softmax(dim=-1).isfinite().all()


@settings(max_examples=100, deadline=None)
@given(logits=rows, extra=st.integers(0, 5))
def test_a_k_of_the_whole_vocabulary_or_more_is_off(logits, extra):
    assert torch.equal(keep_top_k(logits, logits.shape[1] + extra), logits)


@settings(max_examples=100, deadline=None)
@given(logits=rows, p=st.floats(0.01, 0.99))
def test_what_top_p_keeps_reaches_p_and_would_not_without_its_last(logits, p):
    probabilities = logits.softmax(dim=-1)[0]
    left = sorted(probabilities[kept(keep_top_p(logits, p))].tolist())
    assert sum(left) >= p - 1e-9
    assert sum(left[1:]) < p + 1e-9


@pytest.mark.parametrize("filter_", [keep_top_k, keep_top_p])
def test_a_filter_leaves_its_input_alone(filter_):
    logits = log(0.1, 0.2, 0.7)
    filter_(logits, 1)
    assert torch.equal(logits, log(0.1, 0.2, 0.7))
