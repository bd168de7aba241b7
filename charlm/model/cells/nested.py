"""The Nested LSTM: an LSTM whose memory is another LSTM."""

from typing import cast

import torch
from torch import Tensor, nn

from charlm.model.cells.base import (
    Cell,
    State,
    draw_orthogonal,
    input_weights,
    recurrent_weights,
    sigmoids,
)
from charlm.model.cells.lstm import set_gate_bias
from charlm.model.fast.products import Matrix


class NestedLSTM(Cell):
    """The Nested LSTM of Moniz and Krueger 2018 (arXiv:1801.10308).

    i, f, o = σ(W[h, x] + b); z = W_z[h, x] + b_z; c ← LSTM_inner(input i ⊙ z, hidden f ⊙ c);
    h ← o ⊙ tanh(c)

    The inner LSTM may contain a further one. The innermost is a plain LSTM:
    c ← f ⊙ c + i ⊙ tanh(z).

    Attributes:
        inner: Weights [W_x, W_h] of each inner LSTM, (4 x hidden, 2 x hidden), the outermost first.
    """

    def __init__(self, input_size: int, hidden_size: int, depth: int) -> None:
        """Create a layer.

        Args:
            input_size: Width of the input.
            hidden_size: Number of units at each level.
            depth: Number of LSTMs inside each other, at least two.
        """
        super().__init__(hidden_size)
        self.num_state_tensors = 1 + depth  # The hidden state and the memory of each level.
        levels = ("", *(f"inner {level} " for level in range(1, depth)))
        self.gate_names = tuple(
            f"{level}{gate}" for level in levels for gate in ("input", "forget", "output")
        )
        self.input = input_weights(self, input_size, gates=4)
        self.recurrent = recurrent_weights(self, gates=4)
        self.inner = nn.ModuleList(
            Matrix.zeros(4 * hidden_size, 2 * hidden_size, bias=True) for _ in range(depth - 1)
        )

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden, memory of each level ...) by one token; see `Cell.step`."""
        hidden, *memories = state
        return self._step_level(0, projected + self.recurrent(hidden), memories)

    def _step_level(self, level: int, gates: Tensor, memories: list[Tensor]) -> State:
        """Advance the LSTM of a level and those inside it.

        Args:
            level: Number of the level, 0 for the outermost.
            gates: Sums that enter the level's gates, (batch, 4 x hidden).
            memories: Memories of this level and of those inside it, each (batch, hidden).

        Returns:
            The level's output and the new memories, each (batch, hidden).
        """
        *sums, candidate = gates.chunk(4, dim=-1)
        input_gate, forget, output = sigmoids(*sums)
        memory, *inner_memories = memories
        if not inner_memories:
            memory = forget * memory + input_gate * torch.tanh(candidate)
            return output * torch.tanh(memory), memory
        inner_gates = self.inner[level](
            torch.cat([input_gate * candidate, forget * memory], dim=-1)
        )
        memory, *inner_memories = self._step_level(level + 1, inner_gates, inner_memories)
        return output * torch.tanh(memory), memory, *inner_memories

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights of an LSTM at every level."""
        self.initialize_gates(gain)
        set_gate_bias(self.input, self.hidden_size, gate=1)
        for product in cast(list[Matrix], list(self.inner)):
            for block in self.gate_blocks(product):
                nn.init.xavier_uniform_(block[:, : self.hidden_size])
                draw_orthogonal(block[:, self.hidden_size :], gain)
            set_gate_bias(product, self.hidden_size, gate=1)
