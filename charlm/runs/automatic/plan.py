"""The plan: size of the network, shape of a step and length of the training."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charlm.config.schema import Config
from charlm.runs.automatic.recipes import FEW_PASSES, recipe_for
from charlm.runs.automatic.text import TextFacts

if TYPE_CHECKING:  # It imports torch.
    from charlm.runs.automatic.speed import Speed

_MIN_STEPS_PER_PASS = 8  # A short text is read in fewer streams.
# From this number of steps on, twice the batch costs no quality and less time per token. The second
# number is for a budget of minutes with at most FEW_PASSES (docs/lab/2026-11-28.md).
MANY_STEPS, _MANY_STEPS_IN_FEW_PASSES = 20_000, 2_000
MAX_PASSES = 60.0
# A longer text has a larger network. With 640 units, the model memorizes a million characters in 60
# passes, and not in 26 (docs/lab/2026-11-28.md).
_MOST_TOKENS_FOR_ALL_PASSES, _TOKENS_FOR_HALF_OF_THEM = 0.4e6, 1.0e6


class BatchShape(NamedTuple):
    """Shape of a step.

    Attributes:
        batch_size: Number of streams or records.
        length: Approximate number of tokens of each of them.
        window: Most tokens of each of them; infinity if records are read whole.
    """

    batch_size: int
    length: int
    window: float

    def steps_per_pass(self, text: TextFacts) -> float:
        """Return the approximate number of steps of a pass over a text."""
        if text.mode == "stream":
            return max(1.0, text.tokens // (self.batch_size * self.length))
        # A batch has records of similar length. The longest decides how many windows it takes.
        starts = np.arange(0, len(text.record_lengths), self.batch_size)
        longest = np.maximum.reduceat(text.record_lengths, starts)
        windows = np.maximum(np.ceil(longest / self.window), 1)
        return math.ceil(text.num_records / self.batch_size) * float(windows.mean())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the network and length of the training, from which the other settings follow.

    Attributes:
        hidden_size: Number of units.
        shape: Shape of a step.
        passes: Number of passes over the text.
        stops_early: Whether the budget would last for more passes.
    """

    hidden_size: int
    shape: BatchShape
    passes: float
    stops_early: bool

    def steps(self, text: TextFacts) -> float:
        """Return the approximate number of steps."""
        return max(1.0, self.passes * self.shape.steps_per_pass(text))


def make_plan(config: Config, text: TextFacts, speed: "Speed") -> Plan:
    """Return the size of the network and the length of the training."""
    training = config.training
    shape = batch_shape(config, text)

    def trained_tokens(hidden_size: int) -> float:
        unit, amount = training.budget
        if unit == "minutes":
            return speed(hidden_size) * amount * 60
        if unit == "steps":
            return amount / shape.steps_per_pass(text) * text.tokens
        return amount * text.tokens

    if "hidden_size" in config.model.model_fields_set:
        hidden_size = config.model.hidden_sizes[0]
    else:
        in_minutes = training.minutes is not None
        hidden_size = recipe_for(text).hidden_size(text, trained_tokens, in_minutes=in_minutes)
    passes = trained_tokens(hidden_size) / text.tokens
    limit = max_passes(text)
    stops_early = training.minutes is not None and passes > limit
    plan = Plan(
        hidden_size=hidden_size,
        shape=shape,
        passes=limit if stops_early else passes,
        stops_early=stops_early,
    )
    is_open = text.mode == "stream" and "batch_size" not in training.model_fields_set
    # In a budget of steps, twice the batch would take twice the time.
    if is_open and training.steps is None and plan.steps(text) > _many_steps(config, text, plan):
        return replace(plan, shape=shape._replace(batch_size=2 * shape.batch_size))
    return plan


def _many_steps(config: Config, text: TextFacts, plan: Plan) -> int:
    """Return the number of steps from which on the batch is doubled."""
    in_minutes = config.training.minutes is not None
    if in_minutes and recipe_for(text).depends_on_passes and plan.passes <= FEW_PASSES:
        return _MANY_STEPS_IN_FEW_PASSES
    return MANY_STEPS


def max_passes(text: TextFacts) -> float:
    """Return the number of passes over a text at which training by minutes stops early."""
    if text.mode == "records" or recipe_for(text).tokens_are_words:
        return MAX_PASSES
    progress = math.log(text.tokens / _MOST_TOKENS_FOR_ALL_PASSES) / math.log(
        _TOKENS_FOR_HALF_OF_THEM / _MOST_TOKENS_FOR_ALL_PASSES
    )
    return round(MAX_PASSES * math.pow(0.5, min(1.0, max(0.0, progress))), 1)


def batch_shape(config: Config, text: TextFacts) -> BatchShape:
    """Return the shape of a step, with fewer streams for a short text, or fewer long records."""
    training = config.training
    is_set = training.model_fields_set
    window = training.window if "window" in is_set else recipe_for(text).window
    length, longest = window, float(window)
    if config.task.has_pairs:  # Pairs are read whole.
        length, longest = text.record_tokens, math.inf
    elif text.mode == "records":
        length = min(window, text.record_tokens)
    if "batch_size" in is_set:
        return BatchShape(training.batch_size, length, longest)
    batch_size = recipe_for(text).batch_size
    most_tokens = math.inf
    if text.mode == "stream":
        most_tokens = text.tokens / _MIN_STEPS_PER_PASS
    elif config.task.has_pairs:
        most_tokens = batch_size * recipe_for(text).window
    while batch_size > 1 and batch_size * length > most_tokens:
        batch_size //= 2
    return BatchShape(batch_size, length, longest)
