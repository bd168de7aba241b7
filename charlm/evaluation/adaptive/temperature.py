"""The temperature at which a model predicts a text best: whether it is too sure of itself, or not sure enough."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from charlm.data.windows import PADDING

_STEPS, _NEARNESS = 20, 1e-4
_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(read: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> float:
    """Return the temperature T at which softmax(z / T) has the least cross-entropy (Guo et al. 2017, arXiv:1706.04599).

    Newton's method on β = 1 / T, in which the cross-entropy is convex: its slope is Σ (E_β[z] − z_target), the
    derivative of that Σ Var_β[z].

    Args:
        read: Reads the text once, yielding logits z, (tokens, vocabulary), and targets, (tokens,), as
            `training.loss.predictions` does; called several times.

    Returns:
        T, between 0.05 and 20.
    """
    beta = 1.0
    for _ in range(_STEPS):
        slope = curvature = 0.0
        for logits, targets in read():
            present = targets != PADDING
            z = logits[present].double()
            z = z - z.max(dim=-1, keepdim=True).values
            # A logit of minus infinity has no probability; it must not make a product with zero.
            p, z = torch.softmax(beta * z, dim=-1), z.clamp(min=torch.finfo(torch.float32).min)
            mean = (p * z).sum(dim=-1)
            slope += float((mean - z.gather(-1, targets[present, None]).squeeze(-1)).sum())
            curvature += float((p * (z - mean[:, None]).square()).sum())
        before = beta
        step = slope / curvature if curvature > 0 else 0.0
        beta = min(max(beta - step, beta / 2, 1 / _HIGHEST), beta * 2, 1 / _LOWEST)
        if abs(beta - before) < _NEARNESS * before:
            break
    return 1 / beta
