"""The measured speed of a device, from which settings are chosen."""

import math
import time
from itertools import repeat
from types import SimpleNamespace

import pytest
import torch

from charlm.runs.automatic import speed
from charlm.runs.automatic.recipes import HIDDEN_SIZES
from charlm.training.devices import Hardware


def test_the_measured_speed_falls_with_the_hidden_size(monkeypatch):
    monkeypatch.setattr(speed, "_SECONDS_PER_SAMPLE", 0.005)
    tokens_per_second = speed.measured_speed(
        {"steps": 10**9, "batch_size": 8, "window": 16},
        vocabulary_size=90,
        hardware=Hardware(torch.device("cpu")),
    )
    assert tokens_per_second(32) > tokens_per_second(256) > tokens_per_second(2048) > 0
    assert math.isfinite(tokens_per_second(64))


def measured_with(monkeypatch, samples: dict[int, list[float]]):
    """Return the measured speed by hidden size, if each sample lasts the given seconds."""
    series = {size: iter(seconds) for size, seconds in samples.items()}
    monkeypatch.setattr(
        speed, "_training_steps", lambda config, *rest: repeat(config.model.hidden_size[0])
    )
    monkeypatch.setattr(speed, "_seconds_per_step", lambda steps, clock: next(series[next(steps)]))
    tokens_per_second = speed.measured_speed(
        {"steps": 10**9, "batch_size": 10, "window": 10},
        vocabulary_size=64,
        hardware=Hardware(torch.device("cpu")),
    )
    tokens_per_second(256)  # It is measured now, and not again.
    return tokens_per_second


@pytest.mark.parametrize(
    ("seconds_per_unit", "sizes"), [(1 / 160, [128, 256, 512]), (1 / 64, [128, 256])]
)
def test_networks_with_slow_steps_are_measured_in_few_of_them(seconds_per_unit, sizes, monkeypatch):
    now = 0.0
    taken = []

    def steps(config, *rest):
        nonlocal now
        size = config.model.hidden_size[0]
        while True:
            now += size * seconds_per_unit
            taken.append(size)
            yield SimpleNamespace(check_finite=lambda: None)

    clock = SimpleNamespace(perf_counter=lambda: now, thread_time=lambda: now)
    clock.get_clock_info = time.get_clock_info
    monkeypatch.setattr(speed, "time", clock)
    monkeypatch.setattr(speed, "_training_steps", steps)
    tokens_per_second = speed.measured_speed(
        {"steps": 10**9, "batch_size": 10, "window": 10},
        vocabulary_size=64,
        hardware=Hardware(torch.device("cpu")),
    )
    for size in sizes:
        assert tokens_per_second(size) == pytest.approx(100 / (size * seconds_per_unit))
    assert 0 < tokens_per_second(512) < tokens_per_second(256)
    assert taken == [*sizes, *sizes]


def test_the_shortest_of_several_samples_counts(monkeypatch):
    idle = {128: [1.0] * 5, 256: [2.5] * 5, 512: [8.0] * 5}
    busy = {128: [9, 9, 1, 9, 9], 256: [2.5, 9, 9, 9, 9], 512: [20, 20, 20, 20, 8.0]}
    expected, actual = (measured_with(monkeypatch, samples) for samples in (idle, busy))
    for size in HIDDEN_SIZES:
        assert actual(size) == expected(size), size
    assert expected(128) == 100 / 1.0 and expected(512) == 100 / 8.0


def test_speeds_of_sizes_that_were_not_measured_lie_on_lines_and_never_rise(monkeypatch):
    # One second of each step is the same for all sizes; the rest is in proportion to the work.
    work = {size: speed.multiplications(size, 64) for size in (32, 128, 256, 384, 512, 1024)}
    exact = {size: 1 + work[size] / work[128] for size in work}
    samples = {size: [exact[size]] * 5 for size in (128, 256, 512)}
    tokens_per_second = measured_with(monkeypatch, samples)
    for size in work:
        assert tokens_per_second(size) == pytest.approx(100 / exact[size]), size
    for noisy in ({128: 1.0, 256: 1.0, 512: 0.9}, {128: 0.1, 256: 5.0, 512: 50.0}):
        rates = measured_with(monkeypatch, {size: [noisy[size]] * 5 for size in noisy})
        below = [rates(size) for size in HIDDEN_SIZES if size <= 128]
        assert below == sorted(below, reverse=True)
        assert 0 < rates(32) <= rates(128) * work[128] / work[32] * (1 + 1e-9)
        assert rates(1024) <= rates(512)


def test_steps_on_a_cpu_are_timed_without_the_time_of_other_programs():
    assert speed._clock(torch.device("cpu")) is time.thread_time
    assert speed._clock(torch.device("cuda")) is time.perf_counter
