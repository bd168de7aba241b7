"""Optimizers, the schedule of the learning rate, and clipping."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from charlm.config import Training as TrainingSection

_FINAL_DECAY = 0.2  # Share of the budget over which a trapezoid falls (Hägele et al. 2024).


def make_optimizer(model: nn.Module, section: TrainingSection) -> torch.optim.Optimizer:
    """Return the optimizer that `section` names, with weight decay on matrices and, if asked for, on the rest."""
    groups: list[dict[str, object]] = []
    for kind, decayed in (("matrix", True), ("embedding", section.decay_embeddings), ("bias", section.decay_biases)):
        parameters = [
            tensor for name, tensor in model.named_parameters() if _kind(name, tensor) == kind and tensor.requires_grad
        ]
        groups.append({"params": parameters, "weight_decay": section.weight_decay if decayed else 0.0})
    rate, betas = section.learning_rate, (section.beta1, section.beta2)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True),
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=betas, fused=True),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=rate, alpha=section.beta2),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=section.beta1, fused=True),
    }
    return makers[section.optimizer]()


def learning_rate(section: TrainingSection, *, step: int, share: float) -> float:
    """Return the rate of a step.

    Args:
        section: Peak rate, warm-up and schedule.
        step: Steps taken before this one.
        share: Share of the budget spent before this one, of time, steps or epochs.
    """
    warmth = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    return section.learning_rate * warmth * _falls[section.schedule](min(share, 1.0))


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


def clip(parameters: Iterable[Tensor], *, clipnorm: float | None, clipvalue: float | None) -> Clipping:
    """Clip the gradient of J in place: first each component by `clipvalue`, then the whole by `clipnorm`."""
    parameters = list(parameters)
    norms = _gradient_norms(parameters)
    norm = clipped = torch.linalg.vector_norm(norms)
    by_value = by_norm = None
    if clipvalue is not None:
        nn.utils.clip_grad_value_(parameters, clipvalue)
        norms_left = _gradient_norms(parameters)
        clipped = torch.linalg.vector_norm(norms_left)
        by_value = (norms_left < norms).any()  # No other component changes a norm: no pass to look for them.
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
        `projection`, with the bridge before it.
    """
    layer = re.match(r"(backward_)?recurrence\.\w+\.(\d+)\.", name)
    if layer:
        return f"{layer[1] or ''}layer_{layer[2]}"
    return "embedding" if name.startswith("embedding.") else "projection"


def _gradient_norms(parameters: list[Tensor]) -> Tensor:
    """Return the norm of each parameter's gradient, (tensors,): one launch on a GPU, nothing waits for it."""
    norms = iter(torch._foreach_norm([tensor.grad for tensor in parameters if tensor.grad is not None]))
    return torch.stack([parameters[0].new_zeros(()) if tensor.grad is None else next(norms) for tensor in parameters])


def _kind(name: str, tensor: Tensor) -> str:
    if tensor.ndim < 2:
        return "bias"
    return "embedding" if name.startswith("embedding.") else "matrix"


_falls: dict[str, Callable[[float], float]] = {
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "constant": lambda share: 1.0,
    "trapezoid": lambda share: min(1.0, (1 - share) / _FINAL_DECAY),
}
