"""h_t = a_t ⊙ h_{t−1} + b_t for a whole window at once."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Tensors = tuple[Tensor, ...]


def scan(kept: Tensor, added: Tensor, hidden: Tensor) -> Tensor:
    """Return every h_t of h_t = a_t ⊙ h_{t−1} + b_t by a parallel prefix scan (Blelloch 1990).

    The window is cut into about √time blocks that advance side by side, and what each block hands on is added after:
    2 √time steps, one after another, instead of time. Nothing is divided and no logarithm taken, so with |a| ≤ 1
    nothing can overflow.

    Args:
        kept: a, (time, batch, hidden).
        added: b, of the same shape.
        hidden: h before the window, (batch, hidden).

    Returns:
        h after each token, (time, batch, hidden).
    """
    scanned: Tensor = _Scan.apply(kept, added, hidden)  # type: ignore[no-untyped-call]
    return scanned


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kept: Tensor, added: Tensor, hidden: Tensor) -> Tensor:
        states = _blocked(kept, added, hidden)
        ctx.save_for_backward(kept, states, hidden)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensors:
        """g_t = δ_t + a_{t+1} ⊙ g_{t+1}: the same recurrence, read backwards."""
        kept, states, hidden = ctx.saved_tensors
        (outputs,) = gradients
        later = torch.cat([kept[1:], torch.zeros_like(kept[:1])])
        reached = _blocked(later.flip(0), outputs.flip(0), torch.zeros_like(hidden)).flip(0)
        before = torch.cat([hidden[None], states[:-1]])
        return reached * before, reached, reached[0] * kept[0]


def _blocked(kept: Tensor, added: Tensor, hidden: Tensor) -> Tensor:
    time = len(kept)
    length = math.isqrt(time - 1) + 1
    padding = -time % length  # Tokens that keep everything and add nothing.
    kept = functional.pad(kept, (0, 0, 0, 0, 0, padding), value=1.0).reshape(
        -1, length, *hidden.shape
    )
    added = functional.pad(added, (0, 0, 0, 0, 0, padding)).reshape(-1, length, *hidden.shape)
    kept_within, within = [kept[:, 0]], [added[:, 0]]  # (blocks, batch, hidden) each.
    for step in range(1, length):
        within.append(torch.addcmul(added[:, step], kept[:, step], within[-1]))
        kept_within.append(kept[:, step] * kept_within[-1])
    handed = [hidden]
    for block in range(len(kept) - 1):
        handed.append(torch.addcmul(within[-1][block], kept_within[-1][block], handed[-1]))
    begin = torch.stack(handed)
    states = [torch.addcmul(b, a, begin) for a, b in zip(kept_within, within, strict=True)]
    return torch.stack(states, dim=1).flatten(0, 1)[:time]
