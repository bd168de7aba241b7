"""Three gated recurrent units, which differ in their reset gate.

The update gate follows Cho et al. 2014 and torch: a gate of one keeps the old state. Many textbooks
exchange u and 1 − u.
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
    """The GRU of Cho et al. 2014 (arXiv:1406.1078v1), in the form of torch and cuDNN.

    r, u = σ(W[h, x] + b); c̃ = tanh(W_cx x + b_c + r ⊙ (W_ch h + b_h)); h ← (1 − u) ⊙ c̃ + u ⊙ h

    The reset gate multiplies the recurrent product with its bias, instead of h.
    """

    gate_names = ("reset", "update")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(nn.GRU(input_size, hidden_size))

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden,) by one token; see `Cell.step`."""
        (hidden,) = state
        reset_x, update_x, candidate_x = projected.chunk(3, dim=-1)
        reset_h, update_h, candidate_h = self.recurrent(hidden).chunk(3, dim=-1)
        reset, update = sigmoids(reset_x + reset_h, update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        return (candidate + update * (hidden - candidate),)


class ResetBeforeGRU(Cell):
    """The GRU of Cho et al. 2014 (arXiv:1406.1078v3), section 2.3.

    r, u = σ(W[h, x] + b); c̃ = tanh(W_c[r ⊙ h, x] + b_c); h ← (1 − u) ⊙ c̃ + u ⊙ h

    The reset gate multiplies h before the recurrent matrix.

    Attributes:
        candidate: Recurrent weights of the candidate, (hidden, hidden).
    """

    gate_names = ("reset", "update")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=3)
        self.recurrent = recurrent_weights(self, gates=2)
        self.candidate = recurrent_weights(self, gates=1)

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden,) by one token; see `Cell.step`."""
        (hidden,) = state
        reset_x, update_x, candidate_x = projected.chunk(3, dim=-1)
        reset_h, update_h = self.recurrent(hidden).chunk(2, dim=-1)
        reset, update = sigmoids(reset_x + reset_h, update_x + update_h)
        candidate = torch.tanh(candidate_x + self.candidate(reset * hidden))
        return (candidate + update * (hidden - candidate),)


class ResetFreeGRU(Cell):
    """The simplified GRU of textbooks, without a reset gate.

    u = σ(W[h, x] + b); c̃ = tanh(W_c[h, x] + b_c); h ← (1 − u) ⊙ c̃ + u ⊙ h
    """

    gate_names = ("update",)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=2)
        self.recurrent = recurrent_weights(self, gates=2)

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden,) by one token; see `Cell.step`."""
        (hidden,) = state
        update, candidate = (projected + self.recurrent(hidden)).chunk(2, dim=-1)
        update, candidate = torch.sigmoid(update), torch.tanh(candidate)
        return (candidate + update * (hidden - candidate),)
