"""A bag of tokens and the Elman network."""

import torch
from torch import Tensor, nn

from charlm.model.cells.base import (
    Cell,
    FusedCell,
    LinearCell,
    State,
    input_weights,
    recurrent_weights,
)


class Bag(LinearCell):
    """s ← s + x: a bag of words written as a recurrence (Goldberg 2017, ch. 14). As wide as its input; no weights."""

    def __init__(self, input_size: int) -> None:
        """Make a layer as wide as its input."""
        super().__init__(input_size)

    def project(self, x: Tensor) -> Tensor:
        """Return the input as it is."""
        return x

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 and x."""
        return torch.ones_like(projected), projected

    def initialize(self, gain: float = 1.0) -> None:
        """Do nothing: there are no weights."""


class Elman(FusedCell):
    """h ← g(W_hx x + W_hh h + b), g one of tanh, relu (Elman 1990)."""

    def __init__(self, input_size: int, hidden_size: int, activation: str) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(nn.RNN(input_size, hidden_size, nonlinearity=activation))
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[activation]

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        return (self.activation(projected + self.recurrent(hidden)),)


class SigmoidElman(Cell):
    """h ← σ(W_hx x + W_hh h + b) (Elman 1990), which torch has no kernel for."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input, self.recurrent = input_weights(self, input_size, 1), recurrent_weights(self, 1)

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        return (torch.sigmoid(projected + self.recurrent(hidden)),)
