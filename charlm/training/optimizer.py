"""Optimizers, the schedule of the learning rate, and clipping."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config import Training as TrainingSection
from charlm.model.cells.base import Cell

_FINAL_DECAY = 0.2  # Share of the budget over which a trapezoid falls (Hägele et al. 2024).
_UPDATE_SIZE = 0.2
# Coefficients of three Newton-Schulz steps x ← a x + b x³ + c x⁵, found by descent for all three together: singular
# values from 0.01 to 1 come to lie between 0.68 and 1.23. Jordan's own, (3.4445, -4.7750, 2.0315) at each step, leave
# 0.40 of 0.01 after three, and want five.
_NEWTON_SCHULZ = ((5.0977, -14.8220, 10.9353), (3.7821, -6.9876, 3.4380), (3.7559, -5.9734, 3.0276))

Groups = list[dict[str, Any]]  # Parameters and the options that they share, as torch's optimizers take them.


def make_optimizer(
    model: nn.Module, section: TrainingSection, *, precision: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """Return the optimizer that `section` names, with weight decay on matrices and, if asked for, on the rest.

    Muon multiplies in `precision`. NAdam is Dozat's (2016), its weight decay apart from the gradient as AdamW's
    (Loshchilov and Hutter 2019).
    """
    matrices = gate_rows(model) if section.optimizer == "muon" else {}
    groups: Groups = []
    for kind, decayed in (("matrix", True), ("embedding", section.decay_embeddings), ("bias", section.decay_biases)):
        parameters = [
            tensor for name, tensor in model.named_parameters()
            if _kind(name, tensor) == kind and tensor.requires_grad and tensor not in matrices
        ]  # fmt: skip
        groups.append({"params": parameters, "weight_decay": section.weight_decay if decayed else 0.0})
    rate, betas = section.learning_rate, (section.beta1, section.beta2)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adamw": lambda: torch.optim.AdamW(groups, lr=rate, betas=betas, fused=True),
        "adam": lambda: torch.optim.Adam(groups, lr=rate, betas=betas, fused=True),
        "nadam": lambda: torch.optim.NAdam(groups, lr=rate, betas=betas, decoupled_weight_decay=True),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=rate, alpha=section.beta2),
        "sgd": lambda: torch.optim.SGD(groups, lr=rate, momentum=section.beta1, fused=True),
        "muon": lambda: GatewiseMuon(matrices, groups, section, precision),
    }
    return makers[section.optimizer]()


def shard_optimizer(optimizer: torch.optim.Optimizer, section: TrainingSection) -> Any:
    """Return an optimizer that stands where another does, each process with a part of its state (ZeRO, stage 1).

    Rajbhandari et al. 2020 (arXiv:1910.02054), section 5.1; torch's ZeroRedundancyOptimizer, which knows torch's own.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer  # A second's import, seldom needed.

    kind = type(optimizer)
    known = signature(kind).parameters.keys() - {"params", "lr", "weight_decay"}
    options = {name: value for name, value in optimizer.defaults.items() if name in known}
    groups = [{name: group[name] for name in ("params", "weight_decay")} for group in optimizer.param_groups]
    sharded = ZeroRedundancyOptimizer(groups, kind, lr=section.learning_rate, **options)
    sharded.load_state_dict(optimizer.state_dict())
    return sharded


def gate_rows(model: nn.Module) -> dict[Tensor, int]:
    """Return the matrices of a model's recurrent layers, each with the number of rows that one gate has of it.

    A matrix that is not gates one below the other, as the Mogrifier's are not, is one block.
    """
    rows: dict[Tensor, int] = {}
    for cell in model.modules():
        if isinstance(cell, Cell):
            for name, tensor in cell.named_parameters():
                if tensor.ndim == 2:
                    stacked = len(tensor) % cell.hidden_size == 0 and not name.startswith("mogrifier.")
                    rows[tensor] = cell.hidden_size if stacked else len(tensor)
    return rows


class GatewiseMuon(torch.optim.AdamW):
    """Muon on the matrices of recurrent layers, gate by gate; AdamW on everything else.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/): the mean of a matrix's gradients is replaced by an
    orthogonal matrix near it. Here a matrix is a gate's rows, for what torch lays one below the other are separate
    maps. An update's root mean square is brought to 0.2, about AdamW's (Liu et al. 2025, arXiv:2502.16982, section
    2.2), so that one learning rate serves both.

    torch.optim.Muon is the same, but multiplies in bf16 whatever the device, which many processors are slow in.
    """

    def __init__(
        self, matrices: dict[Tensor, int], others: Groups, section: TrainingSection, precision: torch.dtype
    ) -> None:
        """Take the parameters.

        Args:
            matrices: Those of recurrent layers, each with the rows of a gate.
            others: All others, for AdamW.
            section: Rate, decay of the means, `beta1` being Muon's momentum, and weight decay.
            precision: What matrices are made orthogonal in.
        """
        own = {"params": list(matrices), "weight_decay": section.weight_decay}
        betas = (section.beta1, section.beta2)
        super().__init__([own, *others], lr=section.learning_rate, betas=betas, fused=True)
        self._rows, self._precision = matrices, precision

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Change the parameters by their gradients."""
        own = self.param_groups[0]
        gradients = {matrix: matrix.grad for matrix in own["params"] if matrix.grad is not None}
        for matrix in gradients:
            matrix.grad = None  # AdamW leaves alone what has no gradient.
        super().step()
        for matrix, gradient in gradients.items():
            self._orthogonal_step(matrix, gradient, own["lr"], own["weight_decay"], own["betas"][0])
            matrix.grad = gradient

    def _orthogonal_step(
        self, matrix: Tensor, gradient: Tensor, rate: float | Tensor, decay: float, momentum: float
    ) -> None:
        state = self.state[matrix]
        if not state:
            # The name that AdamW gives the mean; the count, of no use here, is asked for when it takes up a state.
            state |= {"exp_avg": torch.zeros_like(matrix), "step": torch.zeros(())}
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(state["exp_avg"], momentum)  # Nesterov's.
        gates = ahead.view(-1, self._rows[matrix], matrix.shape[1])
        scale = _UPDATE_SIZE * math.sqrt(max(gates.shape[1:]))
        update = orthogonalize(gates.to(self._precision)).reshape(matrix.shape).to(matrix.dtype)
        matrix.mul_(1 - rate * decay).sub_(update * (rate * scale))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of each matrix, (matrices, rows, columns), near 1, most of them to 0.7 to 1.2.

    Newton-Schulz iterations, as Jordan's, with other coefficients.
    """
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    for a, b, c in _NEWTON_SCHULZ:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT


def learning_rate(section: TrainingSection, *, step: int, share: float, stalls: int = 0) -> float:
    """Return the rate of a step.

    Args:
        section: Peak rate, warm-up and schedule.
        step: Steps taken before this one.
        share: Share of the budget spent before this one, of time, steps or epochs.
        stalls: Evaluations before this one that were no new best: each quarters the rate of a plateau, the rule of
            PyTorch's example word_language_model.
    """
    warmth = min(1.0, (step + 1) / section.warmup_steps) if section.warmup_steps else 1.0
    fall = 4.0**-stalls if section.schedule == "plateau" else _falls[section.schedule](min(share, 1.0))
    return section.learning_rate * warmth * fall


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
