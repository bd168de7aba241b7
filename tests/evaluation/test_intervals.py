"""Student's t, and the intervals of a ratio over long blocks of a text."""

import math

import numpy as np
import pytest

from charlm.evaluation.intervals import BLOCKS, ratio_interval, t_quantile


def test_the_quantiles_of_student_are_those_of_a_printed_table():
    # Two-sided; Abramowitz and Stegun 1964, table 26.10.
    for degrees, percent_95, percent_99 in [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (7, 2.365, 3.499),
        (10, 2.228, 3.169),
        (15, 2.131, 2.947),
        (30, 2.042, 2.750),
        (120, 1.980, 2.617),
    ]:
        assert t_quantile(0.95, degrees) == pytest.approx(percent_95, abs=6e-4), degrees
        assert t_quantile(0.99, degrees) == pytest.approx(percent_99, abs=6e-4), degrees
    assert t_quantile(0.5, 1) == pytest.approx(1)  # The quartile of Cauchy's distribution.


def test_the_interval_of_two_pieces_by_hand():
    # The mean is 2 and its standard error 1; with one degree of freedom, 12.706 of them.
    interval = ratio_interval(np.array([1.0, 3]), np.ones(2))
    assert interval == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)


def test_the_widest_of_the_intervals_over_3_4_8_and_16_blocks_is_taken():
    # Four quarters of levels 0, 2, 0, 2: the blocks of a quarter vary most.
    values = np.repeat([0.0, 2, 0, 2], 100)
    error = t_quantile(0.95, 3) * math.sqrt(4 / 3) / 2
    assert ratio_interval(values, np.ones(400)) == pytest.approx((1 - error, 1 + error))
    # Four equal quarters, in which only eighths differ.
    values = np.tile(np.repeat([0.0, 2], 50), 4)
    error = t_quantile(0.95, 7) * math.sqrt(8 / 7) / math.sqrt(8)
    assert ratio_interval(values, np.ones(400)) == pytest.approx((1 - error, 1 + error))


def test_pieces_of_any_size_are_collected_into_blocks_of_about_equal_size():
    sizes = np.array([1.0, 1, 1, 1, 2, 2, 4, 4])
    values = 3 * sizes + np.array([1.0, -1, 1, -1, 1, -1, 1, -1])
    low, high = ratio_interval(values, sizes)
    assert (low + high) / 2 == pytest.approx(3)
    assert ratio_interval(np.ones(1), np.ones(1)) is None


@pytest.mark.parametrize("length", [1, 40])
def test_nineteen_of_twenty_intervals_contain_the_truth_even_where_neighbours_are_alike(length):
    # A moving average over `length` pieces: what percentiles over single pieces do not see.
    random = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        noise = random.normal(size=640 + length - 1)
        values = np.convolve(noise, np.ones(length) / length, mode="valid")
        low, high = ratio_interval(values, np.ones(640))
        covered.append(low <= 0 <= high)
    assert 0.93 <= np.mean(covered) <= 1
    assert max(BLOCKS) * length <= 640
