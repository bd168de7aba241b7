"""Training speed of this device for any hidden size, measured in a few steps."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import Any

import numpy as np
import torch

from charlm.config.load import check_config
from charlm.config.schema import Config
from charlm.data.windows.window import Position, Window
from charlm.model.language_model import LanguageModel
from charlm.training.devices import Hardware, fast_math
from charlm.training.loop import Progress, TrainingState, train
from charlm.training.objective import make_objective
from charlm.training.optimizer import make_optimizer

Speed = Callable[[int], float]  # From the hidden size to the tokens per second of training.

_MEASURED_SIZES = (128, 256, 512)
_MIN_SIZES = 2  # The speeds of other sizes lie on a line through those of two.
_NUM_SAMPLES = 5
_SECONDS_PER_SAMPLE = 0.1
_WARM_UP_STEPS = 5  # The first steps build kernels, and record CUDA graphs.
_WARM_UP_SECONDS = 0.5  # Longest warm-up of each size, which has at least one step.
# After this time, the largest size is left out; after the same time again, no size that has a
# sample gets another. Networks of usual speed take about half of it.
_MAX_SECONDS = 3.0
_FINE_RESOLUTION = 1e-4  # In seconds. Windows measures the time of a thread more coarsely.


def measured_speed(
    training: Mapping[str, Any],
    *,
    vocabulary_size: int,
    hardware: Hardware,
    network: Callable[[int], Mapping[str, Any]] = lambda size: {"hidden_size": size},
) -> Speed:
    """Return the speed of a device.

    Three hidden sizes are measured at the first call, or two if their steps take seconds. Between
    and beyond them, the seconds per token are linear in the number of multiplications.

    Args:
        training: Fields of the section `training`, such as `batch_size` and `window`.
        vocabulary_size: Number of tokens in the vocabulary.
        hardware: Device to measure, and its precision.
        network: Function from the hidden size to fields of the section `model`.
    """
    measured: dict[int, float] = {}

    def speed(hidden_size: int) -> float:
        if not measured:
            configs = {
                size: check_config({"model": network(size), "training": training}, "speed")
                for size in _MEASURED_SIZES
            }
            measured.update(_measure_sizes(configs, vocabulary_size, hardware))
        work = {size: multiplications(size, vocabulary_size) for size in measured}
        wanted = multiplications(hidden_size, vocabulary_size)
        return 1 / _interpolate(wanted, {work[size]: measured[size] for size in measured})

    return speed


def multiplications(hidden_size: int, vocabulary_size: int) -> float:
    """Return the approximate number of multiplications per token."""
    return 4 * hidden_size * (hidden_size + 64) + hidden_size * vocabulary_size


def _interpolate(work: float, seconds: Mapping[float, float]) -> float:
    """Return the seconds of some work, linear in it between and beyond the measured ones.

    Half the work takes at least half the seconds: where noise makes the line too steep, it would
    otherwise reach zero, and the speed would have no limit.

    Args:
        work: Number of multiplications.
        seconds: Measured seconds by number of multiplications, at least two.
    """
    known = np.array(sorted(seconds))
    index = int(np.clip(np.searchsorted(known, work), 1, len(known) - 1))
    low, high = float(known[index - 1]), float(known[index])
    slope = max(0.0, (seconds[high] - seconds[low]) / (high - low))
    nearest = low if work < high else high
    line = seconds[nearest] + slope * (work - nearest)
    return max(line, seconds[nearest] * min(1.0, work / nearest))


def _measure_sizes(
    configs: Mapping[int, Config], vocabulary_size: int, hardware: Hardware
) -> dict[int, float]:
    """Return the seconds per token of each measured size.

    The sizes are timed in turn in several short samples, and the shortest one counts: what other
    programs take from the device at times then changes nothing.

    If steps are slow, there are fewer samples, at least one of each size.
    """
    clock = _clock(hardware.device)
    with fast_math(hardware.device):
        steps = _warm_up(configs, vocabulary_size, hardware)
        samples: dict[int, list[float]] = {size: [] for size in steps}
        deadline = time.perf_counter() + _MAX_SECONDS
        for _ in range(_NUM_SAMPLES):
            for size, series in samples.items():
                if not series or time.perf_counter() < deadline:
                    series.append(_seconds_per_step(steps[size], clock))
    seconds = {size: min(series) for size, series in samples.items()}
    return {size: seconds[size] / _tokens_of_step(configs[size]) for size in seconds}


def _tokens_of_step(config: Config) -> int:
    return config.training.batch_size * config.training.window


def _warm_up(
    configs: Mapping[int, Config], vocabulary_size: int, hardware: Hardware
) -> dict[int, Iterator[Progress]]:
    """Return endless training steps of each size, after the first ones.

    If steps are slow, each size takes fewer of them, and the largest size may be left out.
    """
    steps: dict[int, Iterator[Progress]] = {}
    deadline = math.inf
    for size, config in configs.items():
        if len(steps) == _MIN_SIZES and time.perf_counter() > deadline:
            break
        steps[size] = _training_steps(config, vocabulary_size, hardware)
        began = time.perf_counter()
        for _ in range(_WARM_UP_STEPS):
            next(steps[size])
            # The very first step also loads libraries, which does not count.
            deadline = min(deadline, time.perf_counter() + _MAX_SECONDS)
            if time.perf_counter() - began > _WARM_UP_SECONDS:
                break
    return steps


def _clock(device: torch.device) -> Callable[[], float]:
    """Return the clock by which steps are timed.

    On a CPU it is the processor time of this thread, which takes part in all of a step. It stands
    still while another program has the core.
    """
    is_fine = time.get_clock_info("thread_time").resolution <= _FINE_RESOLUTION
    return time.thread_time if device.type == "cpu" and is_fine else time.perf_counter


def _training_steps(config: Config, vocabulary_size: int, hardware: Hardware) -> Iterator[Progress]:
    """Return endless training steps on random tokens."""
    section = config.training
    with torch.random.fork_rng(devices=[]):
        model = LanguageModel(config.model, vocabulary_size).to(hardware.device)
        ids = torch.randint(vocabulary_size, (section.window + 1, section.batch_size))
    window = Window(
        inputs=ids[:-1],
        targets=ids[1:],
        resets_state=False,
        next=Position(),
        epochs=0.0,
        global_batch_size=section.batch_size,
    )
    return train(
        make_objective(model, section, hardware),
        repeat(window),
        make_optimizer(model, section, precision=hardware.precision),
        section,
        state=TrainingState(),
        clock=time.perf_counter,
    )


def _seconds_per_step(steps: Iterator[Progress], clock: Callable[[], float]) -> float:
    """Take steps for a short time, and return the mean seconds of one."""
    count = 0
    started, began = time.perf_counter(), clock()
    while count == 0 or time.perf_counter() - started < _SECONDS_PER_SAMPLE:
        progress = next(steps)
        count += 1
    progress.check_finite()  # Waits for the device.
    return (clock() - began) / count
