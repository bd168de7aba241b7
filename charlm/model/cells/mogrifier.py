"""The Mogrifier LSTM: input and hidden state gate each other before the step."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell, State, input_weights, recurrent_weights, sigmoids
from charlm.model.cells.lstm import set_gate_bias
from charlm.model.fast.products import Matrix


class MogrifierLSTM(Cell):
    """The Mogrifier LSTM of Melis et al. 2020 (arXiv:1909.01792).

    In turn x ← 2σ(Q h) ⊙ x and h ← 2σ(R x) ⊙ h, in all r rounds, with new matrices in each round;
    then the step of an LSTM. No part of the step depends on the input alone.

    Attributes:
        mogrifier: Matrices Q, R, Q, R, ..., one per round: Q (input, hidden), R (hidden, input), or
            the two factors of each.
    """

    num_state_tensors = 2

    def __init__(self, input_size: int, hidden_size: int, *, rounds: int, rank: int | None) -> None:
        """Create a layer.

        Args:
            input_size: Width of the input.
            hidden_size: Number of units.
            rounds: Number of rounds, r.
            rank: Rank of the rounds' matrices; None for full rank.
        """
        super().__init__(hidden_size)
        rounds_names = tuple(f"round {number + 1}" for number in range(rounds))
        self.gate_names = (*rounds_names, "input", "forget", "output")
        self.input = input_weights(self, input_size, gates=4)
        self.recurrent = recurrent_weights(self, gates=4)
        shapes = [(input_size, hidden_size), (hidden_size, input_size)]
        self.mogrifier = nn.ModuleList(
            _round_weights(*shapes[number % 2], rank) for number in range(rounds)
        )

    def project(self, x: Tensor) -> Tensor:
        """Return a copy of the input, (time, batch, input): the hidden state gates it first.

        It is a copy so that no change of the input in place reaches a recorded step.
        """
        return x.clone()

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden, memory) by one token; see `Cell.step`.

        `projected` is the input x itself, (batch, input).
        """
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

    def matrix_rows(self) -> Iterator[tuple[Tensor, int]]:
        """Yield each matrix with its rows per gate; those of the rounds have no gates."""
        yield self.input.weight, self.hidden_size
        yield self.recurrent.weight, self.hidden_size
        for tensor in self.mogrifier.parameters():
            yield tensor, len(tensor)

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights of an LSTM; the rounds' matrices are Glorot uniform."""
        self.initialize_gates(gain)
        set_gate_bias(self.input, self.hidden_size, gate=1)
        for product in self.mogrifier.modules():
            if isinstance(product, Matrix):
                nn.init.xavier_uniform_(product.weight)


def _round_weights(rows: int, columns: int, rank: int | None) -> nn.Module:
    if rank is None:
        return Matrix.zeros(rows, columns)
    return nn.Sequential(Matrix.zeros(rank, columns), Matrix.zeros(rows, rank))
