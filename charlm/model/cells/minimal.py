"""Minimal recurrences whose gates see only the input (Feng et al. 2024, arXiv:2410.01201).

They are linear in their state, so a window is one parallel scan.
"""

import torch
from torch import Tensor
from torch.nn import functional

from charlm.model.cells.base import LinearCell, input_weights


class MinGRU(LinearCell):
    """The minGRU of Feng et al. 2024, section 3.1.

    z = σ(W_z x + b_z); h̃ = W_h x + b_h; h ← (1 − z) ⊙ h + z ⊙ h̃
    """

    gate_names = ("keep", "update")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=2)

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return decay 1 − z and increment z ⊙ h̃, each (..., hidden)."""
        update, candidate = projected.chunk(2, dim=-1)
        return torch.sigmoid(-update), torch.sigmoid(update) * candidate


class MinLSTM(LinearCell):
    """The minLSTM of Feng et al. 2024, section 3.2, with their normalized gates.

    f, i = σ(W x + b), both divided by f + i; h̃ = W_h x + b_h; h ← f ⊙ h + i ⊙ h̃
    """

    gate_names = ("forget", "input")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=3)

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return decay f and increment i ⊙ h̃, each (..., hidden)."""
        forget, input_gate, candidate = projected.chunk(3, dim=-1)
        # σ(a) / (σ(a) + σ(b)) = σ(log σ(a) − log σ(b)), which is not 0 / 0 with both gates closed.
        difference = functional.logsigmoid(forget) - functional.logsigmoid(input_gate)
        return torch.sigmoid(difference), torch.sigmoid(-difference) * candidate
