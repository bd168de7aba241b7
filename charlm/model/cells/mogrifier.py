"""The Mogrifier LSTM: input and hidden state gate one another before the step."""

import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell, State, input_weights, recurrent_weights, sigmoids
from charlm.model.cells.lstm import open_gates
from charlm.model.fast.products import Matrix


class MogrifierLSTM(Cell):
    """Melis et al. 2020 (arXiv:1909.01792).

    Rounds in turn: x ← 2σ(Q h) ⊙ x, h ← 2σ(R x) ⊙ h, then an LSTM's step. Nothing of it depends on the input alone.

    Attributes:
        mogrifier: Q, R, Q, R ... one a round.
    """

    parts = 2

    def __init__(self, input_size: int, hidden_size: int, *, rounds: int, rank: int | None) -> None:
        """Make a layer of `hidden_size` units; matrices of the rounds have full rank if `rank` is None."""
        super().__init__(hidden_size)
        self.input, self.recurrent = input_weights(self, input_size, 4), recurrent_weights(self, 4)
        shapes = [(input_size, hidden_size), (hidden_size, input_size)]
        self.mogrifier = nn.ModuleList(
            _round(*shapes[number % 2], rank) for number in range(rounds)
        )

    def project(self, x: Tensor) -> Tensor:
        """Return the input as it is, for the hidden state changes it first: a copy, which nobody else can write to."""
        return x.clone()

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`. `projected` is x, (batch, input)."""
        x, (hidden, memory) = projected, state
        for number, product in enumerate(self.mogrifier):
            if number % 2 == 0:
                x = 2 * torch.sigmoid(product(hidden)) * x
            else:
                hidden = 2 * torch.sigmoid(product(x)) * hidden
        gates = (self.input(x) + self.recurrent(hidden)).chunk(4, dim=-1)
        input_gate, forget, output = sigmoids(gates[0], gates[1], gates[3])
        memory = forget * memory + input_gate * torch.tanh(gates[2])
        return output * torch.tanh(memory), memory

    def initialize(self, gain: float = 1.0) -> None:
        """As every cell, the forget gate open; the matrices of the rounds as Glorot and Bengio 2010 do."""
        super().initialize(gain)
        open_gates(self.input, self.hidden_size, 1)
        for product in self.mogrifier.modules():
            if isinstance(product, Matrix):
                nn.init.xavier_uniform_(product.weight)


def _round(rows: int, columns: int, rank: int | None) -> nn.Module:
    if rank is None:
        return Matrix.new(rows, columns)
    return nn.Sequential(Matrix.new(rank, columns), Matrix.new(rows, rank))
