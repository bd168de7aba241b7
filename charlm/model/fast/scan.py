"""A linear recurrence h_t = a_t ⊙ h_{t−1} + b_t, computed for a whole window at once."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Tensors = tuple[Tensor, ...]


def scan(decay: Tensor, increment: Tensor, hidden: Tensor) -> Tensor:
    """Return every h_t of h_t = a_t ⊙ h_{t−1} + b_t by a parallel prefix scan (Blelloch 1990).

    The window is cut into about √time blocks, which are computed side by side; then the last state
    of each block is passed to the next one. That takes 2 √time sequential steps instead of `time`.
    There is no division and no logarithm, so nothing overflows while |a| ≤ 1.

    Args:
        decay: a, (time, batch, hidden).
        increment: b, (time, batch, hidden).
        hidden: h before the window, (batch, hidden).

    Returns:
        h after each token, (time, batch, hidden).
    """
    states: Tensor = _Scan.apply(decay, increment, hidden)  # type: ignore[no-untyped-call]
    return states


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, increment: Tensor, hidden: Tensor) -> Tensor:
        states = _scan_blocks(decay, increment, hidden)
        ctx.save_for_backward(decay, states, hidden)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensors:
        """g_t = δ_t + a_{t+1} ⊙ g_{t+1}: the same recurrence, from the last token to the first."""
        decay, states, hidden = ctx.saved_tensors
        (output_gradients,) = gradients
        next_decay = torch.cat([decay[1:], torch.zeros_like(decay[:1])])
        state_gradients = _scan_blocks(
            next_decay.flip(0), output_gradients.flip(0), torch.zeros_like(hidden)
        ).flip(0)
        states_before = torch.cat([hidden[None], states[:-1]])
        return state_gradients * states_before, state_gradients, state_gradients[0] * decay[0]


def _scan_blocks(decay: Tensor, increment: Tensor, hidden: Tensor) -> Tensor:
    """Compute the scan in blocks; arguments and result as for `scan`."""
    decay_blocks, increment_blocks = _in_blocks(decay, increment)
    # For each position in a block, (blocks, batch, hidden): the product of the decays from the
    # block's first token on, and the state that an initial state of zero would lead to.
    products, partial_states = [decay_blocks[:, 0]], [increment_blocks[:, 0]]
    for position in range(1, decay_blocks.shape[1]):
        partial_states.append(
            torch.addcmul(
                increment_blocks[:, position], decay_blocks[:, position], partial_states[-1]
            )
        )
        products.append(decay_blocks[:, position] * products[-1])
    first_states = [hidden]
    for block in range(len(decay_blocks) - 1):
        first_states.append(
            torch.addcmul(partial_states[-1][block], products[-1][block], first_states[-1])
        )
    first = torch.stack(first_states)
    states = [
        torch.addcmul(partial, product, first)
        for product, partial in zip(products, partial_states, strict=True)
    ]
    return torch.stack(states, dim=1).flatten(0, 1)[: len(decay)]


def _in_blocks(decay: Tensor, increment: Tensor) -> tuple[Tensor, Tensor]:
    """Cut both into blocks of about √time tokens: (time, ...) → (blocks, length, ...)."""
    time, *sizes = decay.shape
    length = math.isqrt(time - 1) + 1
    padding = (0, 0, 0, 0, 0, -time % length)  # Tokens with decay 1 and increment 0.
    return (
        functional.pad(decay, padding, value=1.0).reshape(-1, length, *sizes),
        functional.pad(increment, padding).reshape(-1, length, *sizes),
    )
