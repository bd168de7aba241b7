"""The learning-rate schedule."""

import math
from collections.abc import Callable

from charlm.config.schema import Training as TrainingSection

_FINAL_DECAY = 0.2  # Share of the budget over which a trapezoid falls (Hägele et al. 2024).


def learning_rate(
    section: TrainingSection, *, step: int, fraction_done: float, stalls: int = 0
) -> float:
    """Return the rate of a step.

    Args:
        section: Peak rate, warm-up and schedule.
        step: Steps taken before this one.
        fraction_done: Fraction of the budget (time, steps or epochs) spent before this step.
        stalls: Evaluations before this one that were no new best: each quarters the rate of a plateau, the rule of
            PyTorch's example word_language_model.
    """
    warmth = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    fall = (
        4.0**-stalls
        if section.schedule == "plateau"
        else _falls[section.schedule](min(fraction_done, 1.0))
    )
    return section.learning_rate * warmth * fall


_falls: dict[str, Callable[[float], float]] = {
    "linear": lambda fraction_done: 1 - fraction_done,
    "cosine": lambda fraction_done: (1 + math.cos(math.pi * fraction_done)) / 2,
    "constant": lambda fraction_done: 1.0,
    "trapezoid": lambda fraction_done: min(1.0, (1 - fraction_done) / _FINAL_DECAY),
}
