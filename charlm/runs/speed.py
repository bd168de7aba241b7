"""Training speed of this device for any hidden size, measured in a few steps."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import Any

import torch

from charlm.config.load import check_config
from charlm.config.schema import Config
from charlm.data.windows import Position, Window
from charlm.model.language_model import LanguageModel
from charlm.training.devices import Hardware, fast_math
from charlm.training.loop import Progress, TrainingState, train
from charlm.training.objective import LanguageModelObjective
from charlm.training.optimizer import make_optimizer

Speed = Callable[[int], float]  # From the hidden size to the tokens per second of training.

_MEASURED_SIZES = (128, 256, 512)
_SECONDS_PER_SIZE = 0.5
_WARM_UP_STEPS = 3  # The first steps build kernels.


def measured_speed(
    training: Mapping[str, Any],
    *,
    vocabulary_size: int,
    hardware: Hardware,
) -> Speed:
    """Return the speed of a device.

    Three hidden sizes are measured at the first call. The speed of another size is that of the
    nearest one, scaled by the numbers of multiplications.

    Args:
        training: Fields of the section `training`, such as `batch_size` and `window`.
        vocabulary_size: Number of tokens in the vocabulary.
        hardware: Device to measure, and its precision.
    """
    measured: dict[int, float] = {}

    def speed(hidden_size: int) -> float:
        if not measured:
            for size in _MEASURED_SIZES:
                fields = {"model": {"hidden_size": size}, "training": training}
                config = check_config(fields, "measured")
                measured[size] = _measure(config, vocabulary_size, hardware)
        nearest = min(measured, key=lambda size: abs(math.log(size / hidden_size)))
        work = _multiplications(nearest, vocabulary_size)
        return measured[nearest] * work / _multiplications(hidden_size, vocabulary_size)

    return speed


def _multiplications(hidden_size: int, vocabulary_size: int) -> float:
    """Return the approximate number of multiplications per token."""
    return 4 * hidden_size * (hidden_size + 64) + hidden_size * vocabulary_size


def _measure(config: Config, vocabulary_size: int, hardware: Hardware) -> float:
    """Return the tokens per second of a training on random tokens."""
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
    steps = train(
        LanguageModelObjective(model, section, hardware),
        repeat(window),
        make_optimizer(model, section, precision=hardware.precision),
        section,
        state=TrainingState(),
        clock=time.perf_counter,
    )
    with fast_math():
        return _tokens_per_second(steps)


def _tokens_per_second(steps: Iterable[Progress]) -> float:
    """Return the speed of the steps after the first ones."""
    began = time.perf_counter()
    for progress in steps:
        state = progress.state
        if state.step == _WARM_UP_STEPS:
            first_tokens = state.tokens
            first_seconds = state.seconds
        if state.step > _WARM_UP_STEPS and time.perf_counter() - began > _SECONDS_PER_SIZE:
            progress.check_finite()  # Waits for the device.
            break
    return (state.tokens - first_tokens) / (state.seconds - first_seconds)
