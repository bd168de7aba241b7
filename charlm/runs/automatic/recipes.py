"""Recipes: how size, rate, dropout and weight decay follow from a text and a budget.

They are fits to measurements (docs/results.md): good to a few hundredths of a nat, but not laws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from charlm.config.corpus import Mode
from charlm.runs.automatic.text import TextFacts

HIDDEN_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 640, 768, 1024, 1280, 1536, 2048)
# N-grams of characters help up to this number of passes (docs/lab/2026-11-28.md).
_MAX_PASSES_WITH_NGRAMS = 2.5
_MAX_LEARNING_RATE = 4.0e-2
FEW_PASSES, _MANY_PASSES = 2.0, 6.0
# From this number of steps on, the peak rate falls with this power of the steps. The first pair is
# for at most FEW_PASSES over the text, and the second one from _MANY_PASSES on; between them, the
# rate is a geometric mean of both (docs/lab/2026-11-28.md).
_FALL_IN_FEW_PASSES, _FALL_IN_MANY_PASSES = (600, 0.6), (4000, 0.3)
# In the same minutes, a small network reads more tokens than a large one, and new tokens are worth
# more than repeated ones. So in at most one pass, a size needs this factor times the tokens. The
# factor falls to 1 at FEW_PASSES (docs/lab/2026-11-28.md).
_TOKENS_FACTOR_OF_NEW_TEXT = 10.0
MIN_WEIGHT_DECAY = 0.1
_PASSES_PER_DECAY = 80.0  # The weight decay is 0.1 up to 8 passes, and 0.3 from 24 passes on.
# Weights are an average of their updates over the last 1 / (rate x decay) steps (Wang and Aitchison
# 2024, arXiv:2405.13698). A training of many passes is best if it has about this number of such
# times (docs/lab/2026-11-27.md).
_AVERAGING_TIMES = 30.0
# Steps so large that the same device measured twice leads to the same settings: passes differ by
# a quarter between two values of dropout, and by a factor of two between two rates.
_DROPOUT_STEP = 0.05
_DECAY_STEP = 0.05
_RATES_PER_DECADE = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How settings follow from the size of the text and from the budget.

    Attributes:
        tokens_are_words: Whether tokens are words or parts of words, rather than characters.
        optimizer: Name of the optimizer.
        batch_size: Number of streams or records per step, for a text that has enough of them.
        window: Tokens per window.
        tokens_for_256_units: Number of training tokens from which 256 units are the best size. It
            grows in proportion to the number of parameters.
        learning_rate: Peak rate for 256 units and a few thousand steps.
        depends_on_passes: Whether the rate is lower if the text is read a few times at most, and
            in a budget of minutes also the batch larger and the network smaller.
        dropout_per_doubling: Output dropout added by each doubling of the passes over the text.
        passes_without_dropout: Number of passes up to which there is no dropout.
        passes_with_ngrams: Number of passes up to which the input has n-grams. In further passes
            their tables memorize the text.
        max_weight_decay: Weight decay for many passes over the text.
    """

    tokens_are_words: bool = False
    optimizer: str
    batch_size: int
    window: int
    tokens_for_256_units: float
    learning_rate: float
    depends_on_passes: bool = False
    dropout_per_doubling: float
    passes_without_dropout: float
    max_weight_decay: float
    passes_with_ngrams: float = 0.0

    def hidden_size(
        self, text: TextFacts, trained_tokens: Callable[[int], float], *, in_minutes: bool
    ) -> int:
        """Return the largest size that the budget can train and the text is large enough for.

        Args:
            text: The text.
            trained_tokens: Function from the hidden size to the number of tokens in the budget.
            in_minutes: Whether the budget is minutes, in which a larger network reads fewer tokens.
        """
        largest = 72 * (text.tokens / 3000) ** 0.4

        def has_enough_tokens(size: int) -> bool:
            tokens = trained_tokens(size)
            factor = 1.0
            if in_minutes and self.depends_on_passes:
                factors = (_TOKENS_FACTOR_OF_NEW_TEXT, 1.0)
                factor = float(np.interp(tokens / text.tokens, (1.0, FEW_PASSES), factors))
            return tokens >= factor * self.tokens_for_256_units * (size / 256) ** 2

        sizes = [size for size in HIDDEN_SIZES if size <= largest and has_enough_tokens(size)]
        return max(sizes, default=HIDDEN_SIZES[0])

    def peak_rate(self, hidden_size: int, steps: float, passes: float) -> float:
        """Return the peak learning rate.

        It falls with the number of steps and, except with muon, with the width of the network.
        """
        width = 1.0 if self.optimizer == "muon" else (256 / hidden_size) ** 0.5
        rate = self.learning_rate * width * self._fall(steps, passes)
        return _round_rate(min(rate, _MAX_LEARNING_RATE))

    def _fall(self, steps: float, passes: float) -> float:
        """Return the factor of the peak rate for a number of steps and of passes over the text."""
        few, many = (
            math.pow(min(1.0, first / steps), power)
            for first, power in (_FALL_IN_FEW_PASSES, _FALL_IN_MANY_PASSES)
        )
        if not self.depends_on_passes:
            return many
        weight = min(1.0, max(0.0, (_MANY_PASSES - passes) / (_MANY_PASSES - FEW_PASSES)))
        return math.pow(few, weight) * math.pow(many, 1 - weight)

    def output_dropout(self, passes: float) -> float:
        """Return the output dropout for a number of passes over the text."""
        doublings = math.log2(max(passes, 1e-9) / self.passes_without_dropout)
        dropout = min(0.5, max(0.0, self.dropout_per_doubling * doublings))
        return _round(dropout, _DROPOUT_STEP)

    def weight_decay(self, passes: float, steps: float, rate: float) -> float:
        """Return the weight decay, which rises with the passes, and falls with steps and rate.

        Args:
            passes: Number of passes over the text.
            steps: Number of steps.
            rate: Peak learning rate.
        """
        wanted = min(passes / _PASSES_PER_DECAY, _AVERAGING_TIMES / (rate * steps))
        decay = min(self.max_weight_decay, max(MIN_WEIGHT_DECAY, wanted))
        return _round(decay, _DECAY_STEP)


def _round(value: float, step: float) -> float:
    """Return the nearest multiple of a step of hundredths."""
    return round(round(value / step) * step, 2)


def _round_rate(rate: float) -> float:
    """Return the nearest of ten rates per decade, as 0.0316 to 0.032."""
    exponent = round(_RATES_PER_DECADE * math.log10(rate)) / _RATES_PER_DECADE
    return float(f"{10**exponent:.2g}")


STREAM = Recipe(
    optimizer="muon",
    batch_size=32,
    window=64,
    tokens_for_256_units=1.6e6,
    learning_rate=4.0e-2,
    depends_on_passes=True,
    dropout_per_doubling=0.15,
    passes_without_dropout=3.0,
    passes_with_ngrams=_MAX_PASSES_WITH_NGRAMS,
    max_weight_decay=0.3,
)


RECORDS = Recipe(
    optimizer="adamw",
    batch_size=64,
    window=64,
    tokens_for_256_units=2.0e6,
    learning_rate=8.0e-3,
    dropout_per_doubling=0.1,
    passes_without_dropout=2.0,
    max_weight_decay=MIN_WEIGHT_DECAY,
)


WORDS = Recipe(
    tokens_are_words=True,
    optimizer="muon",
    batch_size=16,
    window=32,
    tokens_for_256_units=0.8e6,
    learning_rate=2.0e-2,
    dropout_per_doubling=0.15,
    passes_without_dropout=0.5,
    max_weight_decay=0.3,
)


_RECIPES: dict[tuple[Mode, bool], Recipe] = {
    ("stream", False): STREAM,
    ("records", False): RECORDS,
    ("stream", True): WORDS,
    ("records", True): replace(WORDS, batch_size=64, max_weight_decay=MIN_WEIGHT_DECAY),
}


def recipe_for(text: TextFacts) -> Recipe:
    """Return the recipe for a text."""
    return _RECIPES[text.mode, text.level in ("word", "bpe")]
