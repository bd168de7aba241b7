"""Filters on logits: each a pure function of (batch, vocabulary), composed in one order.

The order is that of `FILTERS`: what the text so far says (repetition penalty, no-repeat n-gram), the temperature, then
what is cut off (top k, top p, min p, typical, epsilon, eta). Bans, and constraints such as a pattern, come before all
of them, so that every share and every threshold is of what may be written at all; each filter sees the distribution
that the ones before it left, renormalized.

None leaves an empty support: what would be cut off whole keeps its most probable token, and with `keep_typical` its
most typical one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypedDict

import torch
from torch import Tensor

from charlm.errors import CharlmError


class Filters(TypedDict, total=False):
    """The fields of `Settings`, for a function that takes them as keywords."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical: float | None
    epsilon: float | None
    eta: float | None
    repetition_penalty: float | None
    repetition_window: int | None
    no_repeat_ngram: int | None


@dataclass(frozen=True)
class Settings:
    """How a token is drawn. None is off.

    Attributes:
        temperature: 0 takes the most probable token.
        top_k: Draw from this many most probable tokens.
        top_p: Draw from the most probable tokens that together have this probability.
        min_p: Draw from the tokens that have at least this share of the most probable one's probability.
        typical: Draw from the most typical tokens that together have this probability.
        epsilon: Draw from the tokens more probable than this.
        eta: The same, with less asked of a token where the distribution is flat.
        repetition_penalty: What the logits of tokens that the text has already are divided by; 1 is off.
        repetition_window: How many tokens back that looks; None is the whole text.
        no_repeat_ngram: No so many tokens in a row that the text has already.

    Raises:
        CharlmError: One is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical: float | None = None
    epsilon: float | None = None
    eta: float | None = None
    repetition_penalty: float | None = None
    repetition_window: int | None = None
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, (fits, told) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not fits(value):
                raise CharlmError(f"{name} must {told}, got {value}")

    @cached_property
    def active(self) -> tuple["Filter", ...]:
        """The filters that change anything, in their order; at temperature 0 those before the temperature."""
        names = list(FILTERS)
        if self.temperature == 0:  # The most probable token survives all that follow.
            names = names[: names.index("temperature")]
        return tuple(
            FILTERS[name] for name in names if getattr(self, name) not in (None, _OFF.get(name))
        )

    @property
    def reads_history(self) -> bool:
        """Whether a filter asks for the text so far."""
        return any(
            FILTERS[name] in self.active for name in ("repetition_penalty", "no_repeat_ngram")
        )


def apply_filters(logits: Tensor, history: Tensor, settings: Settings) -> Tensor:
    """Apply all filters of `settings`, in the order of `FILTERS`.

    Args:
        logits: (batch, vocabulary).
        history: Ids of the text so far, (batch, tokens).
        settings: Which, and how strong.

    Returns:
        Logits, those of tokens not to be drawn minus infinity, (batch, vocabulary).
    """
    for filter_ in settings.active:
        logits = filter_(logits, history, settings)
    return logits


def penalize_repetition(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Make tokens that occur in the history less probable.

    Keskar et al. 2019 (arXiv:1909.05858), section 4.1: a logit is divided by the penalty. Where it is negative it is
    multiplied instead, or the token would become more probable. Below 1, repetition is favoured.

    Args:
        logits: (batch, vocabulary).
        history: Ids of the text so far, as far back as it counts, (batch, tokens).
        penalty: Above 0.
    """
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, history, True)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def forbid_repeated_ngrams(logits: Tensor, history: Tensor, n: int) -> Tensor:
    """Forbid each token that would complete n tokens in a row which the history has already.

    Paulus et al. 2018 (arXiv:1705.04304), section 2.5, for trigrams in beam search. Where every token would, the most
    probable stays.

    Args:
        logits: (batch, vocabulary).
        history: Ids of the text so far, (batch, tokens).
        n: 1 or more; with 1 no token comes twice.
    """
    if history.shape[-1] < n:
        return logits
    ngrams = history.unfold(-1, n, 1)  # (batch, places, n)
    last = history[:, None, history.shape[-1] - (n - 1) :]
    again = (ngrams[..., :-1] == last).all(dim=-1)
    counts = torch.zeros_like(logits, dtype=torch.int64).scatter_add(
        -1, ngrams[..., -1], again.long()
    )
    return _without(logits, counts > 0)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature: below 1 the probable becomes more so, above 1 less; must not be 0."""
    # With the largest at zero, which changes no probability, no temperature is too small to divide by.
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens, and those as probable as the last of them.

    Fan et al. 2018 (arXiv:1805.04833), section 5.4.
    """
    k = min(k, logits.shape[-1])
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens, one or more, whose probabilities sum to p.

    Holtzman et al. 2020 (arXiv:1904.09751), section 3.1: the nucleus.
    """
    probabilities, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    return logits.masked_fill(_beyond(probabilities, order, p), -torch.inf)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Keep the tokens that have at least this share of the most probable one's probability.

    Nguyen et al. 2024 (arXiv:2407.01082), section 3.
    """
    if share == 0:
        return logits
    return logits.masked_fill(
        logits < logits.amax(dim=-1, keepdim=True) + math.log(share), -torch.inf
    )


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most typical tokens, one or more, whose probabilities sum to p.

    Meister et al. 2023 (arXiv:2202.00666), section 4: typical is a token whose surprise, -log p, is near the entropy of
    the distribution. The most probable token need not be.
    """
    surprise = -logits.log_softmax(dim=-1)
    probabilities = (-surprise).exp()
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    order = (surprise - entropy).abs().sort(dim=-1, stable=True).indices
    return logits.masked_fill(_beyond(probabilities.gather(-1, order), order, p), -torch.inf)


def cut_epsilon(logits: Tensor, epsilon: float) -> Tensor:
    """Keep the tokens more probable than epsilon; where there is none, the most probable.

    Hewitt et al. 2022 (arXiv:2210.15191), section 4.
    """
    return _without(logits, logits.softmax(dim=-1) <= epsilon)


def cut_eta(logits: Tensor, epsilon: float) -> Tensor:
    """Keep the tokens more probable than eta = min(epsilon, sqrt(epsilon) exp(-entropy)), or else the most probable.

    Hewitt et al. 2022 (arXiv:2210.15191), section 4, with their alpha = sqrt(epsilon).
    """
    probabilities = logits.softmax(dim=-1)
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    eta = (math.sqrt(epsilon) * (-entropy).exp()).clamp(max=epsilon)
    return _without(logits, probabilities <= eta)


def _beyond(probabilities: Tensor, order: Tensor, p: float) -> Tensor:
    """Return which tokens are not among the first, one or more, in `order` whose probabilities sum to p."""
    before = probabilities.cumsum(dim=-1) - probabilities  # Of the first, 0: it is kept whatever p.
    dropped = before >= max(p, torch.finfo(torch.float64).tiny)
    return torch.empty_like(dropped).scatter_(-1, order, dropped)


def _without(logits: Tensor, dropped: Tensor) -> Tensor:
    """Return the logits without what is dropped, but with the most probable token where nothing else is left."""
    left = logits.masked_fill(dropped, -torch.inf)
    best = logits.amax(dim=-1, keepdim=True)
    alone = torch.zeros_like(dropped).scatter(-1, logits.argmax(dim=-1, keepdim=True), True)
    return torch.where(alone & (left.amax(dim=-1, keepdim=True) == -torch.inf), best, left)


def _recent(history: Tensor, window: int | None) -> Tensor:
    return history if window is None else history[:, -window:]


Filter = Callable[[Tensor, Tensor, Settings], Tensor]
# The order, by the setting that turns each on.
FILTERS: Mapping[str, Filter] = {
    "repetition_penalty": lambda logits, history, settings: penalize_repetition(
        logits, _recent(history, settings.repetition_window), settings.repetition_penalty or 1.0
    ),
    "no_repeat_ngram": lambda logits, history, settings: forbid_repeated_ngrams(
        logits, history, settings.no_repeat_ngram or 1
    ),
    "temperature": lambda logits, history, settings: apply_temperature(
        logits, settings.temperature
    ),
    "top_k": lambda logits, history, settings: keep_top_k(logits, settings.top_k or 1),
    "top_p": lambda logits, history, settings: keep_top_p(logits, settings.top_p or 0.0),
    "min_p": lambda logits, history, settings: keep_min_p(logits, settings.min_p or 0.0),
    "typical": lambda logits, history, settings: keep_typical(logits, settings.typical or 0.0),
    "epsilon": lambda logits, history, settings: cut_epsilon(logits, settings.epsilon or 0.0),
    "eta": lambda logits, history, settings: cut_eta(logits, settings.eta or 0.0),
}
# Where a filter changes nothing, beside None.
_OFF = {
    "repetition_penalty": 1,
    "temperature": 1,
    "top_p": 1,
    "min_p": 0,
    "typical": 1,
    "epsilon": 0,
    "eta": 0,
}
_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value < math.inf, "be 0 or more"),
    "top_k": (lambda value: value >= 1, "be 1 or more"),
    "top_p": (lambda value: 0 <= value <= 1, "lie from 0 to 1"),
    "min_p": (lambda value: 0 <= value <= 1, "lie from 0 to 1"),
    "typical": (lambda value: 0 <= value <= 1, "lie from 0 to 1"),
    "epsilon": (lambda value: 0 <= value <= 1, "lie from 0 to 1"),
    "eta": (lambda value: 0 <= value <= 1, "lie from 0 to 1"),
    "repetition_penalty": (lambda value: 0 < value < math.inf, "be above 0"),
    "repetition_window": (lambda value: value >= 1, "be 1 or more"),
    "no_repeat_ngram": (lambda value: value >= 1, "be 1 or more"),
}
