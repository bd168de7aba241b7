"""Recurrences whose gates see the input alone, so that a window is one parallel scan (Feng et al. 2024)."""

import torch
from torch import Tensor
from torch.nn import functional

from charlm.model.cells.base import LinearCell, input_weights


class MinGRU(LinearCell):
    """Feng et al. 2024 (arXiv:2410.01201), section 3.1: z = σ(W_z x + b); h ← (1 − z) ⊙ h + z ⊙ (W_h x + b)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, 2)

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 − z and z ⊙ h̃."""
        update, candidate = projected.chunk(2, dim=-1)
        return torch.sigmoid(-update), torch.sigmoid(update) * candidate

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the input's weights as Glorot and Bengio 2010 do; there are no recurrent ones."""
        self.initialize_uniformly(self.input)


class MinLSTM(LinearCell):
    """Feng et al. 2024, section 3.2: f, i = σ(W x + b), divided by their sum; h ← f ⊙ h + i ⊙ (W_h x + b)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, 3)

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and i ⊙ h̃."""
        forget, input_gate, candidate = projected.chunk(3, dim=-1)
        # σ(a) / (σ(a) + σ(b)) = σ(log σ(a) − log σ(b)), which is no 0 / 0 where both gates are shut.
        difference = functional.logsigmoid(forget) - functional.logsigmoid(input_gate)
        return torch.sigmoid(difference), torch.sigmoid(-difference) * candidate

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the input's weights as Glorot and Bengio 2010 do; there are no recurrent ones."""
        self.initialize_uniformly(self.input)
