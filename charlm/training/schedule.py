"""The learning-rate schedule."""

import math
from collections.abc import Callable

from charlm.config.training import Training as TrainingSection

_SHORT_WARM_UP = 0.1  # Fraction of the budget that a warm-up takes which would not end within it.
_FRACTION_TO_ESTIMATE = 0.05
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

    A warm-up that would not end within the budget is shortened.

    Args:
        section: Peak rate, warm-up and schedule.
        step: Number of steps before this one.
        fraction_done: Fraction of the budget (time, steps or epochs) spent before this step.
        stalls: Number of evaluations so far without a new best. With schedule `plateau` each one
            quarters the rate, as in PyTorch's example word_language_model.
        halvings: Number of times that the rate was halved after a divergence.
    """
    warm_up = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    if is_warm_up_shortened(section, step=step, fraction_done=fraction_done):
        warm_up = min(1.0, max(warm_up, fraction_done / _SHORT_WARM_UP))
    if section.schedule == "plateau":
        decay = 4.0**-stalls
    else:
        decay = _DECAYS[section.schedule](min(fraction_done, 1.0))
    return section.learning_rate * warm_up * decay * 0.5**halvings


def is_warm_up_shortened(section: TrainingSection, *, step: int, fraction_done: float) -> bool:
    """Return whether the budget would end before the warm-up, which is then a tenth of the budget.

    The number of steps in the budget is estimated when a twentieth of it is spent.

    Args:
        section: Warm-up.
        step: Number of steps so far.
        fraction_done: Fraction of the budget that they took.
    """
    is_known = fraction_done >= _FRACTION_TO_ESTIMATE
    return is_known and step < fraction_done * section.warmup_steps


# Fraction of the budget that is spent → fraction of the peak rate.
_DECAYS: dict[str, Callable[[float], float]] = {
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
    "trapezoid": lambda done: min(1.0, (1 - done) / _FINAL_DECAY),
}
