"""Linear interpolation of predictors, and the weights that fit a text best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.evaluation.adaptive.interpolation import (
    fit_pair_weight,
    fit_weights,
    interpolate,
    interpolate_pair,
)

SEEDS = st.integers(0, 10_000)


def two(seed: int, tokens: int = 40) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return tuple(np.log(random.beta(0.5, 1.5, size=(2, tokens)) + 1e-9))


def test_an_interpolation_by_hand():
    log_p, log_q = np.log([0.5, 0.2]), np.log([0.1, 0.6])
    assert np.exp(interpolate_pair(log_p, log_q, 0.25)) == pytest.approx([0.4, 0.3])


def test_a_weight_by_hand():
    # One token each way: w / (1 - w) makes (1 - w) w largest at a half; two for q and one for p at two thirds.
    certain, impossible = 0.0, -np.inf
    assert fit_pair_weight(
        np.array([certain, impossible]), np.array([impossible, certain])
    ) == pytest.approx(1 / 2)
    assert fit_pair_weight(
        np.array([0, -np.inf, -np.inf]), np.array([-np.inf, 0, 0])
    ) == pytest.approx(2 / 3)


@settings(max_examples=20)
@given(SEEDS)
def test_the_fitted_weight_is_the_best_of_a_fine_grid(seed):
    log_p, log_q = two(seed)
    grid = np.linspace(0, 1, 5_001)[:, None]
    best = grid[np.argmax(np.log((1 - grid) * np.exp(log_p) + grid * np.exp(log_q)).sum(axis=1)), 0]
    assert fit_pair_weight(log_p, log_q) == pytest.approx(best, abs=2e-4)


@settings(max_examples=20)
@given(SEEDS)
def test_a_predictor_that_is_always_worse_has_weight_zero(seed):
    log_p, log_q = two(seed)
    assert fit_weights(np.stack([log_p, log_q, log_p - 0.1]))[2] == 0
    assert fit_pair_weight(log_p, log_p - 0.1) == 0
    assert fit_pair_weight(log_p - 0.1, log_p) == 1
    assert fit_pair_weight(log_p, log_p) == 0
    assert interpolate_pair(log_p, log_p - 0.1, 0.0) == pytest.approx(log_p)


def test_a_token_that_both_rule_out_changes_no_weight():
    log_p, log_q = two(1)
    weight = fit_pair_weight(log_p, log_q)
    ruled_out = np.append(log_p, -np.inf), np.append(log_q, -np.inf)
    assert fit_pair_weight(*ruled_out) == weight
    assert interpolate_pair(*ruled_out, weight)[-1] == -np.inf
    assert fit_weights(np.stack([*ruled_out, ruled_out[0] - 1])) == pytest.approx(
        [1 - weight, weight, 0], abs=1e-3
    )


@settings(max_examples=20)
@given(SEEDS)
def test_three_weights_have_sum_one_and_are_as_good_as_the_best_of_a_grid(seed):
    log_probabilities = np.log(np.random.default_rng(seed).beta(0.5, 1.5, size=(3, 30)) + 1e-9)
    weights = fit_weights(log_probabilities)
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    grid = np.array(
        [(a, b, 1 - a - b) for a in np.linspace(0, 1, 21) for b in np.linspace(0, 1 - a, 21)]
    )
    best = np.log(grid @ np.exp(log_probabilities)).mean(axis=1).max()
    assert interpolate(log_probabilities, weights).mean() > best - 1e-4


def test_two_predictors_have_the_weights_of_a_pair_and_a_single_one_has_all():
    log_p, log_q = two(3)
    weight = fit_pair_weight(log_p, log_q)
    assert fit_weights(np.stack([log_p, log_q])) == pytest.approx([1 - weight, weight])
    assert fit_weights(log_p[None]).tolist() == [1]


def test_an_empty_text_gives_the_first_all_weight():
    nothing = np.zeros(0)
    assert fit_pair_weight(nothing, nothing) == 0
    assert interpolate_pair(nothing, nothing, 0.5).shape == (0,)
