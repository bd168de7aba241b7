"""Gradient clipping, and the gradient norm of each parameter group."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Clipping:
    """What the gradient of J was before clipping, and what clipping did to it.

    All are tensors on the device: reading one waits for the device.

    Attributes:
        norm: Of the whole gradient, a scalar.
        norms: Of each parameter tensor's gradient, (tensors,), in the order they were given; zero where there is none.
        by_value: Whether a component exceeded `clipvalue`; None if there is no such limit.
        by_norm: Whether the gradient was scaled down to `clipnorm`; None if there is no such limit.
    """

    norm: Tensor
    norms: Tensor
    by_value: Tensor | None
    by_norm: Tensor | None


def clip(
    parameters: Iterable[Tensor], *, clipnorm: float | None, clipvalue: float | None
) -> Clipping:
    """Clip the gradient of J in place: first each component by `clipvalue`, then the whole by `clipnorm`."""
    parameters = list(parameters)
    norms = _gradient_norms(parameters)
    norm = clipped = torch.linalg.vector_norm(norms)
    by_value = by_norm = None
    if clipvalue is not None:
        nn.utils.clip_grad_value_(parameters, clipvalue)
        norms_left = _gradient_norms(parameters)
        clipped = torch.linalg.vector_norm(norms_left)
        by_value = (
            norms_left < norms
        ).any()  # No other component changes a norm: no pass to look for them.
    if clipnorm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clipnorm, clipped)
        by_norm = clipped > clipnorm
    return Clipping(norm, norms, by_value, by_norm)


def gradient_group(name: str) -> str:
    """Return the group that a parameter's gradient is told with.

    Args:
        name: Of the parameter, such as `recurrence.cells.0.kernel.weight_ih_l0`.

    Returns:
        `embedding`, its matrix where the projection shares it too; `layer_0` and so on, norms and initial states
        included; `backward_layer_0` and so on for a network that reads backward beside one that reads forward;
        `projection`, with the output adapter before it.
    """
    layer = re.match(r"(backward_)?recurrence\.\w+\.(\d+)\.", name)
    if layer:
        return f"{layer[1] or ''}layer_{layer[2]}"
    return "embedding" if name.startswith("embedding.") else "projection"


def _gradient_norms(parameters: list[Tensor]) -> Tensor:
    """Return the norm of each parameter's gradient, (tensors,): one launch on a GPU, nothing waits for it."""
    norms = iter(
        torch._foreach_norm([tensor.grad for tensor in parameters if tensor.grad is not None])
    )
    return torch.stack(
        [
            parameters[0].new_zeros(()) if tensor.grad is None else next(norms)
            for tensor in parameters
        ]
    )
