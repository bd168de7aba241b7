"""Options of drawing a token: the filters of its distribution, checked in one place.

This module does not import torch; charlm/sampling/filters.py applies the filters.
"""

from dataclasses import dataclass
from functools import cached_property

from charlm.config.values import (
    check_at_least,
    check_counts,
    check_fraction,
    check_magnitude,
    checked,
)
from charlm.errors import OptionError

# At 1, one improbable token in a few words spoils the text of most models; see docs/sample.md.
DEFAULT_TEMPERATURE = 0.8
# Order in which filters are applied.
FILTER_ORDER: tuple[str, ...] = (
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "no_repeat_ngram",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical",
    "epsilon",
    "eta",
)
# Values, besides None, at which a filter changes nothing.
_NEUTRAL: dict[str, object] = {
    "logit_bias": (),
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "temperature": 1,
    "top_p": 1,
    "min_p": 0,
    "typical": 1,
    "epsilon": 0,
    "eta": 0,
}
_READS_HISTORY = ("presence_penalty", "frequency_penalty", "repetition_penalty", "no_repeat_ngram")
# Largest absolute values, as in the API of OpenAI.
_MAX_PENALTY = 2
_MAX_BIAS = 100
_MIN_DIVISOR = 1e-6  # A logit that is divided by it stays finite.


@checked
@dataclass(frozen=True)
class Filters:
    """How the distribution of the next token is changed before a token is drawn; None is off.

    Attributes:
        temperature: Divisor of the logits; 1 leaves them as they are, and 0 takes the most probable
            token.
        top_k: Number of most probable tokens to draw from.
        top_p: Probability that the most probable tokens to draw from have together.
        min_p: Minimum probability of a token, as a fraction of the most probable token's.
        typical: Probability that the most typical tokens to draw from have together.
        epsilon: Probability that a token must exceed.
        eta: Like `epsilon`, but lower where the distribution is flat.
        repetition_penalty: Divisor of the logits of tokens that the text already has; 1 is off.
        repetition_window: Number of last tokens that the penalty applies to; None for all.
        no_repeat_ngram: Length of the n-grams that may not occur twice, in tokens.
        presence_penalty: Number subtracted from the logit of each token that the new text already
            has; between -2 and 2.
        frequency_penalty: Number subtracted from the logit of a token for each time that the new
            text has it; between -2 and 2.
        logit_bias: Pairs of an id and the number that is added to its logit, between -100 and 100,
            before everything else.

    Raises:
        OptionError: A value is out of its range, or has no effect.
    """

    temperature: float = DEFAULT_TEMPERATURE
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical: float | None = None
    epsilon: float | None = None
    eta: float | None = None
    repetition_penalty: float | None = None
    repetition_window: int | None = None
    no_repeat_ngram: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_at_least(0, temperature=self.temperature)
        check_counts(
            top_k=self.top_k,
            repetition_window=self.repetition_window,
            no_repeat_ngram=self.no_repeat_ngram,
        )
        check_fraction(
            top_p=self.top_p,
            min_p=self.min_p,
            typical=self.typical,
            epsilon=self.epsilon,
            eta=self.eta,
        )
        check_magnitude(
            _MAX_PENALTY,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )
        for token, bias in self.logit_bias:
            check_at_least(0, logit_bias=token)
            check_magnitude(_MAX_BIAS, logit_bias=bias)
        check_at_least(_MIN_DIVISOR, repetition_penalty=self.repetition_penalty)
        if self.repetition_window is not None and self.repetition_penalty is None:
            raise OptionError(
                "repetition_window", "has no effect without {}", others=["repetition_penalty"]
            )

    @cached_property
    def active(self) -> tuple[str, ...]:
        """Names of the filters that change anything, in their order."""
        names = FILTER_ORDER
        if self.temperature == 0:  # The most probable token passes all filters that follow.
            names = names[: names.index("temperature")]
        return tuple(
            name for name in names if getattr(self, name) not in (None, _NEUTRAL.get(name))
        )

    @cached_property
    def reads_history(self) -> bool:
        """Whether a filter needs the text so far."""
        return any(name in self.active for name in _READS_HISTORY)
