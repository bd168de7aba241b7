"""The Nested LSTM: an LSTM whose memory is another LSTM."""

from typing import cast

import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell, State, input_weights, recurrent_weights, sigmoids
from charlm.model.cells.lstm import open_gates
from charlm.model.fast.products import Matrix


class NestedLSTM(Cell):
    """Moniz and Krueger 2018 (arXiv:1801.10308).

    i, f, o = σ(W[h, x] + b); z = W_z[h, x] + b_z; c ← LSTM(input i ⊙ z, hidden f ⊙ c); h ← o ⊙ tanh(c). The inner LSTM
    may hold another in its turn; the innermost is a plain one, c ← f ⊙ c + i ⊙ tanh(z).

    Attributes:
        inner: Weights [W_x, W_h] of each LSTM inside, the outermost of them first.
    """

    def __init__(self, input_size: int, hidden_size: int, depth: int) -> None:
        """Make a layer of `hidden_size` units and `depth` LSTMs in one another, two or more."""
        super().__init__(hidden_size)
        self.parts = 1 + depth  # The hidden state and every level's memory.
        self.input, self.recurrent = input_weights(self, input_size, 4), recurrent_weights(self, 4)
        self.inner = nn.ModuleList(
            Matrix.new(4 * hidden_size, 2 * hidden_size, bias=True) for _ in range(depth - 1)
        )

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        hidden, *memories = state
        return self._level(0, projected + self.recurrent(hidden), memories)

    def _level(self, level: int, gates: Tensor, memories: list[Tensor]) -> State:
        """Advance an LSTM and those inside it; return its output and all their memories."""
        *three, candidate = gates.chunk(4, dim=-1)
        input_gate, forget, output = sigmoids(*three)
        memory, *inside = memories
        if not inside:
            memory = forget * memory + input_gate * torch.tanh(candidate)
            return output * torch.tanh(memory), memory
        within = self.inner[level](torch.cat([input_gate * candidate, forget * memory], dim=-1))
        memory, *inside = self._level(level + 1, within, inside)
        return output * torch.tanh(memory), memory, *inside

    def initialize(self, gain: float = 1.0) -> None:
        """As every cell, at every level: input matrices Glorot, recurrent ones orthogonal, forget gates open."""
        super().initialize(gain)
        open_gates(self.input, self.hidden_size, 1)
        for product in cast(list[Matrix], list(self.inner)):
            for block in self.blocks(product):
                nn.init.xavier_uniform_(block[:, : self.hidden_size])
                nn.init.orthogonal_(block[:, self.hidden_size :], gain)
            open_gates(product, self.hidden_size, 1)
