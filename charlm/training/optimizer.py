"""Optimizers, the schedule of the learning rate, and clipping."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from charlm.config import Training as TrainingSection

_FINAL_DECAY = 0.2  # Share of the budget over which a trapezoid falls (Hägele et al. 2024).


def make_optimizer(model: nn.Module, section: TrainingSection) -> torch.optim.Optimizer:
    """Return the optimizer that `section` names, with weight decay on matrices and, if asked for, on the rest."""
    groups: list[dict[str, object]] = []
    for kind, decayed in (("matrix", True), ("embedding", section.decay_embeddings), ("bias", section.decay_biases)):
        parameters = [tensor for name, tensor in model.named_parameters() if _kind(name, tensor) == kind]
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


def clip(parameters: Iterable[Tensor], *, clipnorm: float | None, clipvalue: float | None) -> Tensor:
    """Clip the gradient of J in place: first each component by `clipvalue`, then the whole by `clipnorm`.

    Returns:
        The global norm of the gradient as it was before either.
    """
    parameters = [tensor for tensor in parameters if tensor.grad is not None]
    norm = nn.utils.get_total_norm([tensor.grad for tensor in parameters if tensor.grad is not None])
    clipped = norm
    if clipvalue is not None:
        nn.utils.clip_grad_value_(parameters, clipvalue)
        clipped = nn.utils.get_total_norm([tensor.grad for tensor in parameters if tensor.grad is not None])
    if clipnorm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clipnorm, clipped)
    return norm


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
