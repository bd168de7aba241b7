"""The decay of the RG-LRU and the factor of its increment, with a backward pass of their own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def decay_and_factor(log_decay: Tensor) -> tuple[Tensor, Tensor]:
    """Return a and √(1 − a²), each (..., hidden), from log a ≤ 0, (..., hidden).

    They are the decay of the state and the factor of the input in De et al. 2024, equations 3 and 4
    (arXiv:2402.19427). Their derivatives by log a are a and −a² / √(1 − a²). Automatic
    differentiation of the forward pass takes ten operations on all values, and this one four.
    """
    decay, factor = _DecayAndFactor.apply(log_decay)  # type: ignore[no-untyped-call]
    return decay, factor


class _DecayAndFactor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_decay: Tensor) -> tuple[Tensor, Tensor]:
        # With e = a − 1, 1 − a² is −e (2 + e), which keeps its digits near a = 1. The smallest
        # normal number keeps the slope of the root finite where a is 1.
        change = torch.expm1(log_decay)
        smallest = change.new_full((), torch.finfo(change.dtype).tiny)
        factor = torch.addcmul(smallest, change, change + 2, value=-1).sqrt()
        decay = 1 + change
        ctx.save_for_backward(decay, factor)
        return decay, factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        decay, factor = ctx.saved_tensors
        of_decay, of_factor = gradients
        # Computed in place: most of the time is spent on access to memory.
        result = torch.div(decay, factor).mul_(of_factor)
        return torch.sub(of_decay, result, out=result).mul_(decay)
