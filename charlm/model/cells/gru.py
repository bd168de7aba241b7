"""Three gated recurrent units, which differ in what the reset gate does.

The update gate is Cho's and torch's: one keeps the old state, where many textbooks have it the other way round.
"""

import torch
from torch import Tensor, nn

from charlm.model.cells.base import (
    Cell,
    FusedCell,
    State,
    input_weights,
    recurrent_weights,
    sigmoids,
)


class GRU(FusedCell):
    """Cho et al. 2014 (arXiv:1406.1078v1): the reset gate multiplies W h + b, torch's and cuDNN's form.

    r, u = σ(W[h, x] + b); c̃ = tanh(W_cx x + b_c + r ⊙ (W_ch h + b_h)); h ← (1 − u) ⊙ c̃ + u ⊙ h.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(nn.GRU(input_size, hidden_size))

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        reset_x, update_x, candidate_x = projected.chunk(3, dim=-1)
        reset_h, update_h, candidate_h = self.recurrent(hidden).chunk(3, dim=-1)
        reset, update = sigmoids(reset_x + reset_h, update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        return (candidate + update * (hidden - candidate),)


class ResetBeforeGRU(Cell):
    """Cho et al. 2014 (arXiv:1406.1078v3), section 2.3: the reset gate multiplies h before its matrix.

    r, u = σ(W[h, x] + b); c̃ = tanh(W_c[r ⊙ h, x] + b_c); h ← (1 − u) ⊙ c̃ + u ⊙ h.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input, self.recurrent = input_weights(self, input_size, 3), recurrent_weights(self, 2)
        self.candidate = recurrent_weights(self, 1)

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        reset_x, update_x, candidate_x = projected.chunk(3, dim=-1)
        reset_h, update_h = self.recurrent(hidden).chunk(2, dim=-1)
        reset, update = sigmoids(reset_x + reset_h, update_x + update_h)
        candidate = torch.tanh(candidate_x + self.candidate(reset * hidden))
        return (candidate + update * (hidden - candidate),)

    def initialize(self, gain: float = 1.0) -> None:
        """As every cell; the candidate's recurrent matrix is orthogonal too."""
        super().initialize(gain)
        self.initialize_orthogonally(self.candidate, gain)


class ResetFreeGRU(Cell):
    """The simplified GRU of textbooks: no reset gate.

    u = σ(W[h, x] + b); c̃ = tanh(W_c[h, x] + b_c); h ← (1 − u) ⊙ c̃ + u ⊙ h.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input, self.recurrent = input_weights(self, input_size, 2), recurrent_weights(self, 2)

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        update, candidate = (projected + self.recurrent(hidden)).chunk(2, dim=-1)
        update, candidate = torch.sigmoid(update), torch.tanh(candidate)
        return (candidate + update * (hidden - candidate),)
