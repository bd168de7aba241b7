"""Muon: orthogonalized momentum for the recurrent matrices, gate by gate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.schema import Training as TrainingSection
from charlm.model.cells.base import Cell

Groups = list[
    dict[str, Any]
]  # Parameters and the options that they share, as torch's optimizers take them.

_UPDATE_SIZE = 0.2
# Coefficients of three Newton-Schulz steps x ← a x + b x³ + c x⁵, found by descent for all three together: singular
# values from 0.01 to 1 come to lie between 0.68 and 1.23. Jordan's own, (3.4445, -4.7750, 2.0315) at each step, leave
# 0.40 of 0.01 after three, and want five.
_NEWTON_SCHULZ = ((5.0977, -14.8220, 10.9353), (3.7821, -6.9876, 3.4380), (3.7559, -5.9734, 3.0276))


def gate_rows(model: nn.Module) -> dict[Tensor, int]:
    """Return the matrices of a model's recurrent layers, each with the number of rows that one gate has of it.

    A matrix that is not gates one below the other, as the Mogrifier's are not, is one block.
    """
    rows: dict[Tensor, int] = {}
    for cell in model.modules():
        if isinstance(cell, Cell):
            for name, tensor in cell.named_parameters():
                if tensor.ndim == 2:
                    stacked = len(tensor) % cell.hidden_size == 0 and not name.startswith(
                        "mogrifier."
                    )
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
        self,
        matrices: dict[Tensor, int],
        others: Groups,
        section: TrainingSection,
        precision: torch.dtype,
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
