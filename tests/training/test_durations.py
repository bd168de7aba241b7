"""Durations: a gap in which the process was suspended counts as the usual duration."""

import pytest

from charlm.training.durations import Durations


def count(*seconds: float, factor: float = 1.0) -> list[float]:
    durations = Durations(factor=factor)
    return [durations.counted(value) for value in seconds]


def test_a_gap_counts_as_the_mean_and_does_not_change_it():
    usual = [0.01, 0.02, 0.03, 0.02]
    assert count(*usual, 8.0, 0.02, 8.0) == pytest.approx([*usual, 0.02, 0.02, 0.02])


def test_work_that_becomes_slow_counts_in_full_from_its_second_time_on():
    assert count(0.01, 0.01, 0.01, 5.0, 5.0, 5.0) == pytest.approx([0.01] * 4 + [5.0] * 2)


def test_slow_first_steps_and_ordinary_differences_count_in_full():
    for seconds in ([30.0, 0.01, 0.01, 0.9], [9.0, 9.0, 9.0, 90.0]):
        assert count(*seconds) == seconds


def test_a_wait_for_a_gpu_after_many_steps_is_no_gap():
    assert count(*[0.5] * 5, 30.0, factor=32) == [*[0.5] * 5, 30.0]
