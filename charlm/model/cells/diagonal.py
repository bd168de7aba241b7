"""A GRU and an LSTM whose units see no other unit of their layer.

The recurrent matrices are diagonal: one number per unit and gate (Danieli et al. 2025, ParaRNN,
arXiv:2510.21450). Only the products with the input mix units, and those are computed for a whole
window at once.
"""

import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell, State, input_weights, sigmoids
from charlm.model.cells.lstm import set_gate_bias
from charlm.model.fast.products import Diagonals


class _DiagonalCell(Cell):
    """The weights of a cell whose recurrent matrices are diagonal.

    Attributes:
        diagonals: Recurrent weights of all gates, (gates x hidden,).
    """

    def __init__(self, input_size: int, hidden_size: int, gates: int) -> None:
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates)
        self.diagonals = Diagonals(hidden_size, gates)

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights: recurrent ones are uniform between −gain and gain."""
        nn.init.uniform_(self.diagonals.weight, -gain, gain)
        self.initialize_uniform(self.input)


class DiagonalGRU(_DiagonalCell):
    """The GRU of Cho et al. 2014 with diagonal recurrent matrices.

    r, u = σ(W x + w ⊙ h + b); c̃ = tanh(W_c x + w_c ⊙ r ⊙ h + b_c); h ← (1 − u) ⊙ c̃ + u ⊙ h

    It does not matter whether the reset gate acts before the recurrent product or after it.
    """

    gate_names = ("reset", "update")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(input_size, hidden_size, gates=3)

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden,) by one token; see `Cell.step`."""
        (hidden,) = state
        reset_x, update_x, candidate_x = projected.chunk(3, dim=-1)
        reset_h, update_h, candidate_h = self.diagonals(hidden).chunk(3, dim=-1)
        reset, update = sigmoids(reset_x + reset_h, update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        return (candidate + update * (hidden - candidate),)


class DiagonalLSTM(_DiagonalCell):
    """The LSTM with diagonal recurrent matrices.

    i, f, o = σ(W x + w ⊙ h + b); c̃ = tanh(W_c x + w_c ⊙ h + b_c); c ← f ⊙ c + i ⊙ c̃;
    h ← o ⊙ tanh(c)

    ParaRNN's LSTM has coupled gates, f = 1 − i, and peepholes besides.
    """

    num_state_tensors = 2
    gate_names = ("input", "forget", "output")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(input_size, hidden_size, gates=4)

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden, memory) by one token; see `Cell.step`."""
        hidden, memory = state
        gates = (projected + self.diagonals(hidden)).chunk(4, dim=-1)
        input_gate, forget, output = sigmoids(gates[0], gates[1], gates[3])
        memory = forget * memory + input_gate * torch.tanh(gates[2])
        return output * torch.tanh(memory), memory

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights; the forget gate's bias is 1."""
        super().initialize(gain)
        set_gate_bias(self.input, self.hidden_size, gate=1)
