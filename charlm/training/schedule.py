"""The learning-rate schedule."""

import math
from collections.abc import Callable

from charlm.config.schema import Training as TrainingSection

_FINAL_DECAY = 0.2  # Fraction of the budget over which a trapezoid falls (Hägele et al. 2024).


def learning_rate(
    section: TrainingSection,
    *,
    step: int,
    fraction_done: float,
    stalls: int = 0,
    halvings: int = 0,
) -> float:
    """Return the learning rate of a step.

    Args:
        section: Peak rate, warm-up and schedule.
        step: Number of steps before this one.
        fraction_done: Fraction of the budget (time, steps or epochs) spent before this step.
        stalls: Number of evaluations so far without a new best. With schedule `plateau` each one
            quarters the rate, as in PyTorch's example word_language_model.
        halvings: Number of times that the rate was halved after a divergence.
    """
    warm_up = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    if section.schedule == "plateau":
        decay = 4.0**-stalls
    else:
        decay = _DECAYS[section.schedule](min(fraction_done, 1.0))
    return section.learning_rate * warm_up * decay * 0.5**halvings


# Fraction of the budget that is spent → fraction of the peak rate.
_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
    "trapezoid": lambda done: min(1.0, (1 - done) / _FINAL_DECAY),
}
