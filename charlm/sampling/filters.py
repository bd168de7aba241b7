"""Filters on logits: pure functions of (batch, vocabulary), applied in a fixed order.

The order is `FILTER_ORDER`: first the logit bias, then the filters that depend on the text so far
(penalties, no repeated n-gram), then the temperature, then the filters that cut tokens off (top k,
top p, min p, typical, epsilon, eta). Constraints, such as banned text and regular expressions, come
before all of them, so that every threshold applies to the tokens that may be written at all. Each
filter sees the distribution that the filter before it left, renormalized.

No filter removes every token: if it would, the most probable token stays, or the most typical one
for `keep_typical`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from charlm.sampling.filter_options import Filters


def apply_filters(
    logits: Tensor, history: Tensor, filters: Filters, num_earlier: int = 0
) -> Tensor:
    """Apply all active filters, in the order of `FILTER_ORDER`.

    Args:
        logits: Logits, (batch, vocabulary).
        history: Ids of the text so far, (batch, tokens).
        filters: Strength of each filter.
        num_earlier: Number of ids of the history that are not new text.

    Returns:
        Logits, minus infinity for tokens that may not be drawn, (batch, vocabulary).
    """
    for name in filters.active:
        seen = history
        if name == "repetition_penalty" and filters.repetition_window is not None:
            seen = history[:, -filters.repetition_window :]
        elif name in ("presence_penalty", "frequency_penalty"):
            seen = history[:, num_earlier:]
        logits = _FUNCTIONS[name](logits, seen, getattr(filters, name))
    return logits


def add_bias(logits: Tensor, biases: Sequence[tuple[int, float]]) -> Tensor:
    """Add numbers to the logits of some tokens.

    Args:
        logits: Logits, (batch, vocabulary).
        biases: Pairs of an id and what is added to its logit.
    """
    ids, values = zip(*biases, strict=True)
    index = torch.tensor(ids, device=logits.device)
    return logits.index_add(-1, index, logits.new_tensor(values).expand(len(logits), -1))


def penalize_presence(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Subtract the penalty from the logit of each token that occurs in the history.

    This is `presence_penalty` of OpenAI's API; the arguments are those of `penalize_repetition`.
    """
    return logits - penalty * (_counts(logits, history) > 0)


def penalize_frequency(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Subtract the penalty from the logit of a token for each occurrence in the history.

    This is `frequency_penalty` of OpenAI's API; the arguments are those of `penalize_repetition`.
    """
    return logits - penalty * _counts(logits, history)


def penalize_repetition(logits: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Make tokens that occur in the history less probable.

    Keskar et al. 2019 (arXiv:1909.05858), section 4.1: a logit is divided by the penalty. A
    negative logit is multiplied instead, because division would make the token more probable. A
    penalty below 1 favours repetition.

    Args:
        logits: Logits, (batch, vocabulary).
        history: Ids of the part of the text that counts, (batch, tokens).
        penalty: Divisor, above 0.
    """
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, history, True)
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def forbid_repeated_ngrams(logits: Tensor, history: Tensor, n: int) -> Tensor:
    """Forbid each token that would complete an n-gram which the history already has.

    Paulus et al. 2018 (arXiv:1705.04304), section 2.5, for trigrams in beam search. If that forbids
    every token, the most probable one stays.

    Args:
        logits: Logits, (batch, vocabulary).
        history: Ids of the text so far, (batch, tokens).
        n: Length of the n-grams, at least 1; with 1 no token occurs twice.
    """
    if history.shape[-1] < n:
        return logits
    ngrams = history.unfold(-1, n, 1)  # (batch, positions, n)
    last = history[:, None, history.shape[-1] - (n - 1) :]
    matches = (ngrams[..., :-1] == last).all(dim=-1)
    counts = torch.zeros_like(logits, dtype=torch.int64).scatter_add(
        -1, ngrams[..., -1], matches.long()
    )
    return _without(logits, counts > 0)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature, above 0: below 1 the distribution is sharper, above 1 flatter."""
    # With the largest logit at zero, which changes no probability, even the smallest temperature
    # does not overflow. Where torch flushes denormal numbers to zero, one would be no divisor.
    divisor = max(temperature, torch.finfo(logits.dtype).tiny)
    return (logits - logits.amax(dim=-1, keepdim=True)) / divisor


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens, and those as probable as the last of them.

    Fan et al. 2018 (arXiv:1805.04833), section 5.4.
    """
    k = min(k, logits.shape[-1])
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens, at least one, whose probabilities together reach p.

    Holtzman et al. 2020 (arXiv:1904.09751), section 3.1: the nucleus.
    """
    probabilities, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    return logits.masked_fill(_outside(probabilities, order, p), -torch.inf)


def keep_min_p(logits: Tensor, fraction: float) -> Tensor:
    """Keep the tokens with at least this fraction of the most probable token's probability.

    Nguyen et al. 2024 (arXiv:2407.01082), section 3.
    """
    if fraction == 0:
        return logits
    least = logits.amax(dim=-1, keepdim=True) + math.log(fraction)
    return logits.masked_fill(logits < least, -torch.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most typical tokens, at least one, whose probabilities together reach p.

    Meister et al. 2023 (arXiv:2202.00666), section 4: a token is typical if its surprisal, -log p,
    is near the entropy of the distribution. The most probable token need not be typical.
    """
    surprisal = -logits.log_softmax(dim=-1)
    probabilities = (-surprisal).exp()
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    order = (surprisal - entropy).abs().sort(dim=-1, stable=True).indices
    return logits.masked_fill(_outside(probabilities.gather(-1, order), order, p), -torch.inf)


def cut_epsilon(logits: Tensor, epsilon: float) -> Tensor:
    """Keep the tokens more probable than epsilon; if there is none, the most probable token.

    Hewitt et al. 2022 (arXiv:2210.15191), section 4.
    """
    return _without(logits, logits.softmax(dim=-1) <= epsilon)


def cut_eta(logits: Tensor, epsilon: float) -> Tensor:
    """Keep the tokens more probable than eta; if there is none, the most probable token.

    Hewitt et al. 2022 (arXiv:2210.15191), section 4: eta = min(epsilon, alpha exp(-entropy)), with
    their alpha = sqrt(epsilon).
    """
    probabilities = logits.softmax(dim=-1)
    entropy = torch.special.entr(probabilities).sum(dim=-1, keepdim=True)
    eta = (math.sqrt(epsilon) * (-entropy).exp()).clamp(max=epsilon)
    return _without(logits, probabilities <= eta)


def _counts(logits: Tensor, history: Tensor) -> Tensor:
    """Return how often each token occurs in the history, (batch, vocabulary)."""
    return torch.zeros_like(logits).scatter_add(-1, history, torch.ones_like(history).to(logits))


def _outside(probabilities: Tensor, order: Tensor, p: float) -> Tensor:
    """Return a mask of the tokens to drop, (batch, vocabulary).

    Kept are the first tokens in `order`, at least one, whose probabilities together reach p.

    Args:
        probabilities: Probabilities in that order, (batch, vocabulary).
        order: Ids in the order in which they are kept, (batch, vocabulary).
        p: Probability to reach.
    """
    # 0 for the first token, which is therefore kept whatever p.
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = before >= max(p, torch.finfo(torch.float64).tiny)
    return torch.empty_like(dropped).scatter_(-1, order, dropped)


def _without(logits: Tensor, dropped: Tensor) -> Tensor:
    """Return the logits without the dropped tokens, but at least with the most probable token."""
    left = logits.masked_fill(dropped, -torch.inf)
    best = logits.amax(dim=-1, keepdim=True)
    is_best = torch.zeros_like(dropped).scatter(-1, logits.argmax(dim=-1, keepdim=True), True)
    nothing_left = left.amax(dim=-1, keepdim=True) == -torch.inf
    return torch.where(is_best & nothing_left, best, left)


# From logits, the history that a filter looks at, and the filter's strength to logits.
_FUNCTIONS: Mapping[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "logit_bias": lambda logits, _, biases: add_bias(logits, biases),
    "presence_penalty": penalize_presence,
    "frequency_penalty": penalize_frequency,
    "repetition_penalty": penalize_repetition,
    "no_repeat_ngram": forbid_repeated_ngrams,
    "temperature": lambda logits, _, temperature: apply_temperature(logits, temperature),
    "top_k": lambda logits, _, k: keep_top_k(logits, k),
    "top_p": lambda logits, _, p: keep_top_p(logits, p),
    "min_p": lambda logits, _, fraction: keep_min_p(logits, fraction),
    "typical": lambda logits, _, p: keep_typical(logits, p),
    "epsilon": lambda logits, _, epsilon: cut_epsilon(logits, epsilon),
    "eta": lambda logits, _, epsilon: cut_eta(logits, epsilon),
}
