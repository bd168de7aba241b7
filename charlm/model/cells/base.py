"""What every recurrence is: one step, (x, state) → (y, state).

A cell is the textbook's R and O (Goldberg 2017, ch. 14) with one addition for speed: `project` is what depends on the
input alone, done for a whole window in one product; `advance` is the equation, R; `output` is O.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from charlm.model.fast.products import Matrix, Product

State = tuple[
    Tensor, ...
]  # Of a layer, each part (batch, hidden). Elman, GRU: (hidden,); LSTM: (hidden, cell).


class Cell(nn.Module, ABC):
    """One layer of a recurrence.

    Attributes:
        hidden_size: Units of each part of the state.
        parts: Tensors in a state; the first is the hidden state, which `output` gives.
        input: Weights of the input for all gates, (gates x hidden, input).
        recurrent: Weights of the hidden state, (gates x hidden, hidden).
    """

    parts: int = 1
    input: Matrix
    recurrent: Matrix

    def __init__(self, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__()
        self.hidden_size = hidden_size

    @abstractmethod
    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token.

        Args:
            projected: What `project` made of the embedded token, (batch, gates x hidden).
            state: State before the token, each part (batch, hidden).

        Returns:
            State after the token.
        """

    def project(self, x: Tensor) -> Tensor:
        """Return what depends on the input alone: (time, batch, input) → (time, batch, gates x hidden)."""
        projected: Tensor = self.input(x)
        return projected

    def output(self, state: State) -> Tensor:
        """Return what the next layer sees of a state, (batch, hidden)."""
        return state[0]

    def products(self) -> Iterator[Product]:
        """Yield the cell's products, each once."""
        return (module for module in self.modules() if isinstance(module, Product))

    def state_products(self) -> Iterator[Product]:
        """Yield the products that make the recurrence: all but the input's."""
        return (product for product in self.products() if product is not self.input)

    def initialize(self, gain: float = 1.0) -> None:
        """Set the initial weights, gate by gate.

        Orthogonal for the state (Saxe et al. 2014), Glorot uniform for the input; biases are zero.

        Args:
            gain: What the recurrent matrices are multiplied by.
        """
        self.initialize_orthogonally(self.recurrent, gain)
        self.initialize_uniformly(self.input)

    def blocks(self, product: Product) -> tuple[Tensor, ...]:
        """Return each gate's rows of a matrix, (hidden, in), to be written to."""
        weight = product.weight.detach()
        return weight.chunk(len(weight) // self.hidden_size)

    def initialize_orthogonally(self, product: Product, gain: float) -> None:
        """Make each gate's block of a matrix orthogonal, times `gain`."""
        for block in self.blocks(product):
            nn.init.orthogonal_(block, gain)
        if product.bias is not None:
            nn.init.zeros_(product.bias)

    def initialize_uniformly(self, product: Product) -> None:
        """Draw each gate's block of a matrix as Glorot and Bengio 2010 do."""
        for block in self.blocks(product):
            nn.init.xavier_uniform_(block)
        if product.bias is not None:
            nn.init.zeros_(product.bias)


class FusedCell(Cell):
    """A cell for exactly whose equations torch has a kernel. It holds the weights, and the step reads them there."""

    def __init__(self, kernel: nn.RNNBase) -> None:
        """Wrap torch's layer."""
        super().__init__(kernel.hidden_size)
        self.kernel = kernel
        self.input = Matrix(_parameter(kernel, "weight_ih_l0"), _parameter(kernel, "bias_ih_l0"))
        self.recurrent = Matrix(
            _parameter(kernel, "weight_hh_l0"), _parameter(kernel, "bias_hh_l0")
        )

    def run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the kernel over a window: inputs, (time, batch, input), and state to outputs and state."""
        weights = [
            self.input.weight,
            self.recurrent.weight_read,
            self.input.bias,
            self.recurrent.bias,
        ]
        layered = tuple(
            part.unsqueeze(0) for part in state
        )  # torch's kernels want (layers, batch, hidden).
        y, *after = _KERNELS[self.kernel.mode](
            x,
            layered if len(state) > 1 else layered[0],
            weights,
            True,
            1,
            0.0,
            self.training,
            False,
            False,
        )
        return y, tuple(part.squeeze(0) for part in after)


class LinearCell(Cell):
    """A cell that is linear in its state, h ← a ⊙ h + b with a and b from the input alone: a window is one scan."""

    @abstractmethod
    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return a and b of what `project` gave, each (..., hidden)."""

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        kept, added = self.coefficients(projected)
        return (kept * hidden + added,)


def input_weights(cell: Cell, input_size: int, gates: int) -> Matrix:
    """Return weights of the input, with biases, for so many gates of `cell`."""
    return Matrix.new(gates * cell.hidden_size, input_size, bias=True)


def recurrent_weights(cell: Cell, gates: int) -> Matrix:
    """Return weights of the hidden state for so many gates of `cell`; the biases are the input's."""
    return Matrix.new(gates * cell.hidden_size, cell.hidden_size)


def sigmoids(*gates: Tensor) -> tuple[Tensor, ...]:
    """Return the logistic function of each gate."""
    return tuple(torch.sigmoid(gate) for gate in gates)


# (input, state, weights, has biases, layers, dropout, training, bidirectional, batch first) → (outputs, *state).
_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


def _parameter(kernel: nn.RNNBase, name: str) -> nn.Parameter:
    parameter = getattr(kernel, name)
    assert isinstance(parameter, nn.Parameter)
    return parameter
