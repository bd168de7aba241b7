"""One label for a sequence: its features pooled over time (many-to-one)."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["last", "mean", "max"]


def pool(features: Tensor, is_read: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector for each sequence, from the features of its tokens only.

    Args:
        features: Features after each token, (time, batch, hidden).
        is_read: Whether a token is one of the sequence and no padding, (time, batch). Padding
            follows the sequence.
        pooling: `last`: the features after the last token; `mean` or `max`: of those after all.

    Returns:
        Vectors, (batch, hidden).
    """
    if pooling == "last":
        last = (is_read.sum(dim=0) - 1).clamp_min(0)
        return features[last, torch.arange(features.shape[1], device=features.device)]
    if pooling == "max":
        return features.masked_fill(~is_read[..., None], -torch.inf).amax(dim=0)
    weights = is_read / is_read.sum(dim=0).clamp_min(1)
    return (features * weights[..., None].to(features.dtype)).sum(dim=0)
