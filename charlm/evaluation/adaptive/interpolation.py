"""Linear interpolation of predictors (Jelinek and Mercer 1980), fitted on held-out text."""

import numpy as np

from charlm.evaluation.static_model import Floats

_BISECTIONS = 40  # The weight of a pair is exact to 1e-12.
_MAX_ITERATIONS = 2000
_TOLERANCE = 1e-7  # Expectation maximization stops when no weight changes by more.
_MIN_WEIGHT = 1e-4  # A smaller weight becomes zero: expectation maximization would take too long.
_MAX_LOG_RATIO = 700.0  # exp(700) is still a finite number.


def interpolate(log_probabilities: Floats, weights: Floats) -> Floats:
    """Return log Σ_k w_k p_k of each token, (tokens,).

    Args:
        log_probabilities: log p_k of each token, (predictors, tokens).
        weights: w_k, (predictors,); their sum is one.
    """
    with np.errstate(divide="ignore"):
        weighted = log_probabilities + np.log(weights)[:, None]
    log_p: Floats = np.logaddexp.reduce(weighted, axis=0)
    return log_p


def interpolate_pair(log_p: Floats, log_q: Floats, weight: float) -> Floats:
    """Return log((1 - w) p + w q) of each token, (tokens,), where w is `weight`, from 0 to 1."""
    return interpolate(np.stack([log_p, log_q]), np.array([1 - weight, weight]))


def fit_pair_weight(log_p: Floats, log_q: Floats) -> float:
    """Return the weight w, from 0 to 1, that maximizes Σ log((1 - w) p + w q).

    The sum is concave in w. Bisection finds the zero of its slope Σ (r - 1) / (1 + w (r - 1)),
    where r = q / p.

    Args:
        log_p: log p of each token by the first predictor, (tokens,).
        log_q: log q of each token by the second predictor, (tokens,).
    """
    # A token of probability zero by both stays impossible with any weight.
    possible = np.isfinite(log_p) | np.isfinite(log_q)
    gain = np.expm1(np.clip(log_q[possible] - log_p[possible], None, _MAX_LOG_RATIO))

    def slope(weight: float) -> float:
        with np.errstate(divide="ignore"):
            return float((gain / (1 + weight * gain)).sum())

    if slope(0.0) <= 0:
        return 0.0
    if slope(1.0) >= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2


def fit_weights(log_probabilities: Floats) -> Floats:
    """Return the weights w_k, with sum one, that maximize Σ log Σ_k w_k p_k.

    Args:
        log_probabilities: log p_k of each token, (predictors, tokens).
    """
    if len(log_probabilities) == 1:
        return np.ones(1)
    if len(log_probabilities) == 2:
        weight = fit_pair_weight(*log_probabilities)
        return np.array([1 - weight, weight])
    return _maximize_expectation(log_probabilities)


def _maximize_expectation(log_probabilities: Floats) -> Floats:
    """Return the weights of any number of predictors by expectation maximization.

    In each iteration a weight becomes the mean posterior probability of its predictor over the
    tokens, which never lowers the likelihood (Dempster et al. 1977).
    """
    best = log_probabilities.max(axis=0)
    possible = np.isfinite(best)
    p = np.exp(log_probabilities[:, possible] - best[possible])
    weights = np.full(len(log_probabilities), 1 / len(log_probabilities))
    for _ in range(_MAX_ITERATIONS if possible.any() else 0):
        before = weights
        weights = weights * (p / (weights @ p)).mean(axis=1)
        if np.abs(weights - before).max() < _TOLERANCE:
            break
    weights[weights < _MIN_WEIGHT] = 0
    normalized: Floats = weights / weights.sum()
    return normalized
