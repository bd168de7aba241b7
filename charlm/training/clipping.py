"""Gradient clipping, and the gradient norm of each parameter group."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_DECODER = "decoder."


@dataclass(frozen=True)
class Clipping:
    """Norms of the gradient of J before clipping, and the effect of clipping.

    Every value is a tensor on the device. Reading a value synchronizes with the device.

    Attributes:
        norm: Norm of the whole gradient, a scalar.
        norms: Norm of the gradient of each parameter, (parameters,), in the order of the
            parameters; zero for a parameter without a gradient.
        by_value: Whether a component exceeded `clipvalue`; None without such a limit.
        by_norm: Whether the gradient was scaled down to `clipnorm`; None without such a limit.
    """

    norm: Tensor
    norms: Tensor
    by_value: Tensor | None
    by_norm: Tensor | None


def clip(
    parameters: Iterable[Tensor], *, clipnorm: float | None, clipvalue: float | None
) -> Clipping:
    """Clip the gradient of J in place: each component to `clipvalue`, then the norm to `clipnorm`.

    Args:
        parameters: Parameters whose gradients are clipped together.
        clipnorm: Largest norm of the whole gradient; None for no limit.
        clipvalue: Largest absolute value of a component; None for no limit.
    """
    gradients = [_coalesced(tensor) for tensor in parameters]
    norms = _norms(gradients)
    norm = remaining_norm = torch.linalg.vector_norm(norms)
    by_value = by_norm = None
    present = [gradient for gradient in gradients if gradient is not None]
    if clipvalue is not None:
        torch._foreach_clamp_min_(present, -clipvalue)
        torch._foreach_clamp_max_(present, clipvalue)
        remaining_norms = _norms(gradients)
        remaining_norm = torch.linalg.vector_norm(remaining_norms)
        # Clipping a component lowers the norm of its parameter: no search through all components.
        by_value = (remaining_norms < norms).any()
    if clipnorm is not None:
        # As torch.nn.utils.clip_grads_with_norm_, which does not know sparse gradients.
        factor = (clipnorm / (remaining_norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(present, factor)
        by_norm = remaining_norm > clipnorm
    return Clipping(norm=norm, norms=norms, by_value=by_value, by_norm=by_norm)


def gradient_group(name: str) -> str:
    """Return the parameter group under which a parameter's gradient norm is reported.

    Args:
        name: Name of the parameter in files, such as `recurrence.cells.0.kernel.weight_ih_l0`.

    Returns:
        `embedding`, with the n-grams, also for a matrix that the projection shares; `layer_0` and
        so on, with the norms and initial states of the layer; `backward_layer_0` and so on for the
        backward recurrence of direction `both`; `projection`, with the output adapter before it.
        Those of a decoder are `decoder_embedding`, `decoder_layer_0` and so on, and
        `decoder_projection`; between encoder and decoder are `bridge` and `attention`.
    """
    if name.startswith(_DECODER):
        return f"decoder_{gradient_group(name.removeprefix(_DECODER))}"
    if between := re.match(r"(bridge|attention)\.\w+\.", name):
        return between[1]
    layer = re.match(r"(backward_)?recurrence\.\w+\.(\d+)\.", name)
    if layer:
        return f"{layer[1] or ''}layer_{layer[2]}"
    return "embedding" if name.startswith(("embedding.", "ngrams.")) else "projection"


def group_norms(norms: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Return the norm of each group's gradient; infinity if it is not finite.

    Args:
        norms: Norm of each parameter's gradient, (parameters,).
        groups: Group of each parameter.
    """
    finite_or_inf = norms.nan_to_num(nan=math.inf, posinf=math.inf).tolist()
    squares = dict.fromkeys(groups, 0.0)
    for group, norm in zip(groups, finite_or_inf, strict=True):
        squares[group] += norm**2
    return {group: math.sqrt(square) for group, square in squares.items()}


def _coalesced(parameter: Tensor) -> Tensor | None:
    """Return the gradient of a parameter; of a sparse one the values, each row once."""
    if parameter.grad is None or not parameter.grad.is_sparse:
        return parameter.grad
    parameter.grad = parameter.grad.coalesce()
    return parameter.grad._values()


def _norms(gradients: Sequence[Tensor | None]) -> Tensor:
    """Return the norm of each gradient, (parameters,), without synchronizing."""
    present = [gradient for gradient in gradients if gradient is not None]
    norms = iter(torch._foreach_norm(present))
    zero = present[0].new_zeros(())
    return torch.stack([zero if gradient is None else next(norms) for gradient in gradients])
