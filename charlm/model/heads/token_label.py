"""One label for each token: the features of both directions at its position (many-to-many)."""

import torch
from torch import Tensor


def align(backward: Tensor, lengths: Tensor) -> Tensor:
    """Return the features of reversed sequences in the order of the text.

    The input of a sequence of n tokens is <EOS> and the tokens, n + 1 positions. The backward
    recurrence reads <EOS> and the tokens from the last to the first, so that after position
    n + 1 - i it has read token i and all that follow it.

    Args:
        backward: Features of the backward recurrence, (time, batch, hidden).
        lengths: Number of positions of each sequence, n + 1, (batch,).

    Returns:
        Features in which position i, from 1 to n, is that of token i, (time, batch, hidden).
        Position 0 has the features after all tokens.
    """
    time = torch.arange(len(backward), device=backward.device)[:, None]
    at = (lengths - time.clamp_min(1)).clamp_min(0)
    return backward.gather(0, at[..., None].expand_as(backward))
