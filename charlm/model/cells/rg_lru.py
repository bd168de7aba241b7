"""The real-gated linear recurrent unit of Griffin and Hawk (De et al. 2024, arXiv:2402.19427)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.model.cells.base import LinearCell, input_weights
from charlm.model.fast.decay import decay_and_factor

# The paper's constant c, which makes the decay a^(c r) fall faster with its gate r.
_SHARPNESS = 8.0
# Range of the initial decay a^c, section 2.4 of the paper.
_SMALLEST_DECAY, _LARGEST_DECAY = 0.9, 0.999


class RGLRU(LinearCell):
    """The RG-LRU of De et al. 2024, section 2.4, equations 1 to 4.

    r, i = σ(W x + b); log a = −8 r ⊙ softplus(Λ); h ← a ⊙ h + √(1 − a²) ⊙ i ⊙ (W_h x + b_h)

    The paper's gates read the linear map of x that is the input of the unit, by block-diagonal
    matrices. Here gates and input are three maps of x, as in the minimal GRU and LSTM.

    Attributes:
        decay: Λ, (hidden,): the larger it is, the sooner a unit forgets.
    """

    gate_names = ("recurrence", "input")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=3)
        self.decay = nn.Parameter(torch.zeros(hidden_size))

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return decay a and increment √(1 − a²) ⊙ i ⊙ W_h x, each (..., hidden)."""
        recurrence, input_gate, candidate = projected.chunk(3, dim=-1)
        log_decay = torch.sigmoid(recurrence) * (-_SHARPNESS * functional.softplus(self.decay))
        decay, factor = decay_and_factor(log_decay)
        return decay, factor * torch.sigmoid(input_gate) * candidate

    @torch.no_grad()
    def initialize(self, gain: float = 1.0) -> None:
        """Draw the input weights, and Λ so that a with an open gate is uniform in 0.9 to 0.999."""
        super().initialize(gain)
        nn.init.uniform_(self.decay, _SMALLEST_DECAY, _LARGEST_DECAY)
        self.decay.copy_((self.decay.log() / -_SHARPNESS).expm1().log())
