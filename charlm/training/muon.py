"""Muon: orthogonalized momentum for the recurrent matrices, gate by gate."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.training import Training as TrainingSection
from charlm.model.block import GriffinBlock
from charlm.model.cells.base import Cell
from charlm.training.eager import eager

# Parameters with the options that they share, in the form of torch's optimizers.
ParameterGroups = list[dict[str, Any]]

_UPDATE_RMS = 0.2
# The squares in a smaller norm may underflow. Divided by it, a matrix would be too large.
_SMALLEST_NORM = 1e-15
# Coefficients of three Newton-Schulz steps x ← a x + b x³ + c x⁵, found by gradient descent on all
# three together: singular values from 0.01 to 1 are mapped into 0.68 to 1.23. Jordan's (3.4445,
# -4.7750, 2.0315) in every step map 0.01 to 0.40 after three steps, and need five.
_NEWTON_SCHULZ = ((5.0977, -14.8220, 10.9353), (3.7821, -6.9876, 3.4380), (3.7559, -5.9734, 3.0276))


def gate_rows(model: nn.Module) -> dict[Tensor, int]:
    """Return each matrix of the recurrent layers and their blocks with its rows per gate."""
    layers = (module for module in model.modules() if isinstance(module, Cell | GriffinBlock))
    return dict(pair for layer in layers for pair in layer.matrix_rows())


class GatewiseMuon(eager(torch.optim.AdamW)):  # type: ignore[misc]
    """Muon on the matrices of recurrent layers, gate by gate; AdamW on everything else.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/): the mean of a matrix's
    gradients is replaced by an orthogonal matrix near it. Here each gate's rows are a matrix of
    their own, because torch stores separate maps one below the other. The root mean square of an
    update is scaled to 0.2, about that of AdamW (Liu et al. 2025, arXiv:2502.16982, section 2.2),
    so that one learning rate serves both.

    torch.optim.Muon does the same, but always multiplies in bf16, which is slow on many processors.
    """

    def __init__(
        self,
        matrices: dict[Tensor, int],
        others: ParameterGroups,
        section: TrainingSection,
        precision: torch.dtype,
    ) -> None:
        """Create the optimizer.

        Args:
            matrices: Matrices of recurrent layers, each with its number of rows per gate.
            others: Groups of all other parameters, for AdamW.
            section: Learning rate, weight decay, and decay of the means; `beta1` is also the
                momentum of Muon.
            precision: Type of the products that make a matrix orthogonal.
        """
        group = {"params": list(matrices), "weight_decay": section.weight_decay}
        betas = (section.beta1, section.beta2)
        super().__init__([group, *others], lr=section.learning_rate, betas=betas, fused=True)
        self._rows = matrices
        self._precision = precision

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters by their gradients."""
        options = self.param_groups[0]
        gradients = {matrix: matrix.grad for matrix in options["params"] if matrix.grad is not None}
        for matrix in gradients:
            matrix.grad = None  # AdamW skips parameters without a gradient.
        super().step()
        for matrix, gradient in gradients.items():
            self._orthogonal_step(matrix, gradient, options)
            matrix.grad = gradient

    def _orthogonal_step(self, matrix: Tensor, gradient: Tensor, options: dict[str, Any]) -> None:
        """Update a matrix by its orthogonalized Nesterov momentum."""
        rate, momentum = options["lr"], options["betas"][0]
        state = self.state[matrix]
        if not state:
            # AdamW's names: `load_state_dict` expects the mean and, though unused here, the step.
            state |= {"exp_avg": torch.zeros_like(matrix), "step": torch.zeros(())}
        state["exp_avg"].lerp_(gradient, 1 - momentum)
        nesterov = gradient.lerp(state["exp_avg"], momentum)
        gates = nesterov.view(-1, self._rows[matrix], matrix.shape[1])
        scale = _UPDATE_RMS * math.sqrt(max(gates.shape[1:]))
        update = orthogonalize(gates.to(self._precision)).reshape(matrix.shape).to(matrix.dtype)
        matrix.mul_(1 - rate * options["weight_decay"]).sub_(update * (rate * scale))


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return matrices with singular values near 1, most between 0.7 and 1.2.

    Newton-Schulz iterations as in Jordan et al. 2024, with other coefficients. A matrix of almost
    zero, such as the mean of gradients that have vanished, stays small.

    Args:
        matrices: Matrices, (matrices, rows, columns).
    """
    x = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=_SMALLEST_NORM)
    for a, b, c in _NEWTON_SCHULZ:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT
