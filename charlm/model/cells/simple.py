"""The bag of words and the Elman network."""

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
    """A bag of words written as a recurrence (Goldberg 2017, ch. 14).

    s ← s + x

    The state is as wide as the input, and there are no weights.
    """

    def __init__(self, input_size: int) -> None:
        """Create a layer of `input_size` units."""
        super().__init__(input_size)

    def project(self, x: Tensor) -> Tensor:
        """Return the input unchanged, (time, batch, input)."""
        return x

    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return decay 1 and increment x, each (..., hidden)."""
        return torch.ones_like(projected), projected

    def initialize(self, gain: float = 1.0) -> None:
        """Do nothing: there are no weights."""


class Elman(FusedCell):
    """The simple recurrent network of Elman 1990, with a choice of activation.

    h ← g(W_hx x + W_hh h + b), g one of tanh and relu
    """

    def __init__(self, input_size: int, hidden_size: int, activation: str) -> None:
        """Create a layer of `hidden_size` units whose `activation` is tanh or relu."""
        super().__init__(nn.RNN(input_size, hidden_size, nonlinearity=activation))
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[activation]

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden,) by one token; see `Cell.step`."""
        (hidden,) = state
        return (self.activation(projected + self.recurrent(hidden)),)


class SigmoidElman(Cell):
    """The simple recurrent network of Elman 1990; torch has no kernel for it.

    h ← σ(W_hx x + W_hh h + b)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=1)
        self.recurrent = recurrent_weights(self, gates=1)

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden,) by one token; see `Cell.step`."""
        (hidden,) = state
        return (torch.sigmoid(projected + self.recurrent(hidden)),)
