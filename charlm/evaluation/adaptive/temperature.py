"""Temperature scaling: the temperature at which a model predicts a text best."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from charlm.data.windows.window import PADDING

_MAX_STEPS = 20
_TOLERANCE = 1e-4  # Relative change of 1 / T at which the search stops.
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0


def fit_temperature(predict: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> float:
    """Return the temperature T at which softmax(z / T) has the least cross-entropy on a text.

    Guo et al. 2017 (arXiv:1706.04599), section 4.2. Newton's method on β = 1 / T, in which the
    cross-entropy is convex: its slope is Σ (E_β[z] - z_target), its curvature Σ Var_β[z].

    Args:
        predict: Function that reads the text once and yields logits z, (tokens, vocabulary), with
            targets, (tokens,); it is called several times.

    Returns:
        T, from 0.05 to 20.
    """
    beta = 1.0
    for _ in range(_MAX_STEPS):
        slope = curvature = 0.0
        for logits, targets in predict():
            present = targets != PADDING
            slope_part, curvature_part = _derivatives(logits[present], targets[present], beta)
            slope += slope_part
            curvature += curvature_part
        before = beta
        step = slope / curvature if curvature > 0 else 0.0
        beta = min(max(beta - step, beta / 2, 1 / _MAX_TEMPERATURE), beta * 2, 1 / _MIN_TEMPERATURE)
        if abs(beta - before) < _TOLERANCE * before:
            break
    return 1 / beta


def _derivatives(logits: Tensor, targets: Tensor, beta: float) -> tuple[float, float]:
    """Return the slope and the curvature of the cross-entropy of softmax(β z) at β."""
    z = logits.double()
    z = z - z.max(dim=-1, keepdim=True).values
    p = torch.softmax(beta * z, dim=-1)
    # A logit of minus infinity has probability zero; their product must not be NaN.
    z = z.clamp(min=torch.finfo(torch.float32).min)
    mean = (p * z).sum(dim=-1)
    slope = float((mean - z.gather(-1, targets[:, None]).squeeze(-1)).sum())
    curvature = float((p * (z - mean[:, None]).square()).sum())
    return slope, curvature
