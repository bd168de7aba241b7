"""A linear recurrence h_t = a_t ⊙ h_{t−1} + b_t, computed for a whole window at once."""

import math
from itertools import pairwise
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
        next_decay = functional.pad(decay[1:], (0, 0, 0, 0, 0, 1))  # The last one is 0.
        state_gradients = _scan_blocks(
            next_decay, output_gradients, torch.zeros_like(hidden), backwards=True
        )
        decay_gradients = torch.empty_like(state_gradients)
        torch.mul(state_gradients[0], hidden, out=decay_gradients[0])
        torch.mul(state_gradients[1:], states[:-1], out=decay_gradients[1:])
        return decay_gradients, state_gradients, state_gradients[0] * decay[0]


def _scan_blocks(
    decay: Tensor, increment: Tensor, hidden: Tensor, *, backwards: bool = False
) -> Tensor:
    """Compute the scan in blocks; arguments and result as for `scan`.

    Results are written in place, because most of the time is spent on access to memory.

    Args:
        decay: a.
        increment: b.
        hidden: h before the window, or after it if the scan runs backwards.
        backwards: Scan from the last token to the first: h_t = a_t ⊙ h_{t+1} + b_t.
    """
    time = len(decay)
    decay_blocks, increment_blocks = _in_blocks(decay, 1.0), _in_blocks(increment, 0.0)
    blocks, positions = list(range(len(decay_blocks))), list(range(decay_blocks.shape[1]))
    if backwards:
        blocks.reverse()
        positions.reverse()
    # For each position in a block, (blocks, batch, hidden): the product of the decays from the
    # block's first token on, and the state that an initial state of zero would lead to.
    first, last = positions[0], positions[-1]
    products, states = torch.empty_like(decay_blocks), torch.empty_like(increment_blocks)
    products[:, first], states[:, first] = decay_blocks[:, first], increment_blocks[:, first]
    for before, position in pairwise(positions):
        token_decay, token_increment = decay_blocks[:, position], increment_blocks[:, position]
        torch.mul(token_decay, products[:, before], out=products[:, position])
        torch.addcmul(token_increment, token_decay, states[:, before], out=states[:, position])
    entries = torch.empty_like(states[:, first])  # The state that each block begins with.
    for block in blocks:
        entries[block] = hidden
        hidden = torch.addcmul(states[block, last], products[block, last], hidden)
    torch.addcmul(states, products, entries[:, None], out=states)
    return states.flatten(0, 1)[:time]


def _in_blocks(values: Tensor, filling: float) -> Tensor:
    """Cut into blocks of about √time tokens: (time, ...) → (blocks, length, ...).

    Args:
        values: Values of all tokens, (time, ...).
        filling: Value of the tokens that are missing in the last block.
    """
    time, *sizes = values.shape
    length = math.isqrt(time - 1) + 1
    missing = -time % length
    if missing:
        values = functional.pad(values, (0, 0, 0, 0, 0, missing), value=filling)
    return values.reshape(-1, length, *sizes)
