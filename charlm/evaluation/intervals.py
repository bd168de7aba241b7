"""Confidence intervals of a ratio of sums over consecutive pieces of a text.

A text is cut into a few long blocks, whose values are taken as independent, and Student's t allows
for their small number: the method of batch means (Schmeiser 1982, "Batch Size Effects in the
Analysis of Simulation Output"). Neighbouring pieces of a text are alike over thousands of
characters, so short blocks would make the interval too narrow (`benchmarks/coverage.py`).
"""

import math
from collections.abc import Sequence

import numpy as np

from charlm.evaluation.static_model import Floats

BLOCKS = (3, 4, 8, 16)  # The widest interval of these counts is taken.
CONFIDENCE = 0.95


def ratio_interval(
    values: Floats,
    sizes: Floats,
    *,
    blocks: Sequence[int] = BLOCKS,
) -> tuple[float, float] | None:
    """Return the 95 % interval of sum(values) / sum(sizes).

    The pieces are collected into 3, 4, 8 and 16 blocks of about equal size, and the widest of these
    intervals is returned. Few long blocks see how whole parts of the text differ; many short
    ones are not misled by three blocks that happen to be equal. An interval contains the true ratio
    with that probability if the blocks are independent and have one distribution.

    Args:
        values: Value of each piece, in the order of the text, (pieces,).
        sizes: Size of each piece, (pieces,).
        blocks: Numbers of blocks.

    Returns:
        Lower and upper end; None if there are fewer than two blocks.
    """
    total = float(sizes.sum())
    ratio = float(values.sum()) / total
    residuals = values - ratio * sizes
    middles = (np.cumsum(sizes) - sizes / 2) / total
    widths = []
    for count in blocks:
        numbers = np.unique((count * middles).astype(np.int64), return_inverse=True)[1]
        sums = np.bincount(numbers, weights=residuals)
        if len(sums) > 1:
            variance = len(sums) / (len(sums) - 1) * float((sums**2).sum())
            widths.append(t_quantile(CONFIDENCE, len(sums) - 1) * math.sqrt(variance) / total)
    return (ratio - max(widths), ratio + max(widths)) if widths else None


def t_quantile(confidence: float, degrees: int) -> float:
    """Return q such that |t| <= q with the given probability, for Student's t distribution.

    The distribution function is the finite sum of Abramowitz and Stegun 1964, 26.7.3 and 26.7.4,
    which is exact for whole degrees of freedom. It is inverted by bisection.

    >>> round(t_quantile(0.95, 3), 3)
    3.182
    """
    low, high = 0.0, math.pi / 2  # Bounds of the angle whose tangent is t / sqrt(degrees).
    while True:
        angle = (low + high) / 2
        if angle in (low, high):
            return math.tan(angle) * math.sqrt(degrees)
        if _t_probability(angle, degrees) < confidence:
            low = angle
        else:
            high = angle


def _t_probability(angle: float, degrees: int) -> float:
    """Return the probability that |t| <= tan(angle) sqrt(degrees)."""
    is_odd = degrees % 2
    term = math.cos(angle) if is_odd else 1.0
    total = 0.0
    for number in range(2 + is_odd, degrees + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (number - 1) / number
    if is_odd:
        return 2 / math.pi * (angle + math.sin(angle) * total)
    return math.sin(angle) * total
