"""Filters on logits: each a pure function of (batch, vocabulary), applied in the order they stand here."""

import torch
from torch import Tensor


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature: below 1 the probable becomes more so, above 1 less; must not be 0."""
    # With the largest at zero, which changes no probability, no temperature is too small to divide by.
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens, and those as probable as the last of them (Fan et al. 2018)."""
    k = min(k, logits.shape[-1])
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most probable tokens, one or more, whose probabilities sum to p (Holtzman et al. 2020)."""
    probabilities, order = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, (before >= p) & (before > 0))
    return logits.masked_fill(dropped, -torch.inf)
