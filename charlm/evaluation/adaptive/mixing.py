"""Predictors mixed by fixed weights, as Jelinek and Mercer 1980 interpolate models; fitted on held-out text."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_HALVINGS = 40  # Of the weight's range: exact to 1e-12.
_ROUNDS, _NEARNESS = 2000, 1e-7
_LARGEST_RATIO = 700.0  # exp of it is still a number.


def mix(log_p: Floats, log_q: Floats, weight: float) -> Floats:
    """Return log((1 - w) p + w q) of each token, (tokens,), w being `weight`, 0 to 1."""
    return mix_all(np.stack([log_p, log_q]), np.array([1 - weight, weight]))


def mix_all(log_probabilities: Floats, weights: Floats) -> Floats:
    """Return log Σ_k w_k p_k of each token.

    Args:
        log_probabilities: Of each predictor, (predictors, tokens).
        weights: (predictors,), of sum one.
    """
    with np.errstate(divide="ignore"):
        found: Floats = np.logaddexp.reduce(log_probabilities + np.log(weights)[:, None], axis=0)
    return found


def fit_weight(log_p: Floats, log_q: Floats) -> float:
    """Return the weight w, 0 to 1, at which Σ log((1 - w) p + w q) is largest.

    The sum is concave in w: its slope, Σ (r - 1) / (1 + w (r - 1)) with r = q / p, is halved in on.

    Args:
        log_p: What the first predictor gives each token, (tokens,).
        log_q: What the second one gives.
    """
    possible = np.isfinite(log_p) | np.isfinite(
        log_q
    )  # What both rule out no weight makes possible.
    gain = np.expm1(np.clip(log_q[possible] - log_p[possible], None, _LARGEST_RATIO))

    def slope(weight: float) -> float:
        with np.errstate(divide="ignore"):
            return float((gain / (1 + weight * gain)).sum())

    if slope(0.0) <= 0:
        return 0.0
    if slope(1.0) >= 0:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return (low + high) / 2


def fit_weights(log_probabilities: Floats) -> Floats:
    """Return the weights, of sum one, at which Σ log Σ_k w_k p_k is largest.

    For more than two predictors by expectation maximization: a weight becomes the mean share that its predictor has in
    the tokens' probabilities, which never makes the sum smaller (Dempster et al. 1977).

    Args:
        log_probabilities: Of each predictor, (predictors, tokens).
    """
    count = len(log_probabilities)
    if count == 1:
        return np.ones(1)
    if count == 2:
        weight = fit_weight(*log_probabilities)
        return np.array([1 - weight, weight])
    best = log_probabilities.max(axis=0)
    possible = np.isfinite(best)
    p = np.exp(log_probabilities[:, possible] - best[possible])
    weights = np.full(count, 1 / count)
    for _ in range(_ROUNDS if possible.any() else 0):
        before = weights
        weights = weights * (p / (weights @ p)).mean(axis=1)
        if np.abs(weights - before).max() < _NEARNESS:
            break
    weights[weights < 1e-4] = 0  # What only ever falls reaches zero too slowly.
    found: Floats = weights / weights.sum()
    return found
