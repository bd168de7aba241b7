"""The interface of every recurrence: one step, (input, state) → state.

A cell is the textbook's R and O (Goldberg 2017, ch. 14): `step` is R and `output` is O. One method
is added for speed: `project` computes the part of the step that depends on the input alone, for all
tokens of a window in one product.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from charlm.model.fast.products import Matrix, Product

# The state of one layer. Each tensor is (batch, hidden). Elman, GRU: (hidden,);
# LSTM: (hidden, memory).
State = tuple[Tensor, ...]


class Cell(nn.Module, ABC):
    """One layer of a recurrence.

    A subclass defines `step`, and creates in its constructor the products that `step` uses.

    Attributes:
        hidden_size: Number of units in each tensor of the state.
        num_state_tensors: Number of tensors in a state. The first one is the hidden state, which
            `output` returns.
        gate_names: Names of the logistic functions of a step, in the order of their evaluation,
            for a picture of the gates; empty for a cell without gates.
        input: Input weights of all gates, (gates x hidden, input).
        recurrent: Recurrent weights of all gates, (gates x hidden, hidden).
    """

    num_state_tensors: int = 1
    gate_names: tuple[str, ...] = ()
    input: Matrix
    recurrent: Matrix

    def __init__(self, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__()
        self.hidden_size = hidden_size

    @abstractmethod
    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token.

        A window repeats the tensor operations of one call (`fast/backpropagation.py`), so a branch
        must not depend on the values of tensors.

        Args:
            projected: Result of `project` for the token, (batch, gates x hidden).
            state: State before the token, each tensor (batch, hidden).

        Returns:
            State after the token, in the same shapes.
        """

    def project(self, x: Tensor) -> Tensor:
        """Compute what depends on the input alone.

        Args:
            x: Inputs of a window, (time, batch, input).

        Returns:
            Input contributions to all gates, (time, batch, gates x hidden).
        """
        projected: Tensor = self.input(x)
        return projected

    def output(self, state: State) -> Tensor:
        """Return the layer's output for a state, (batch, hidden)."""
        return state[0]

    def join_layers(self, layers: Sequence["Cell"], number: int) -> None:
        """Note the layers of the network, for a cell that depends on them. By default, do nothing.

        Args:
            layers: All layers of the recurrence, the first one first.
            number: Position of this layer among them, from 0.
        """

    def products(self) -> Iterator[Product]:
        """Yield each product of the cell once."""
        return (module for module in self.modules() if isinstance(module, Product))

    def state_products(self) -> Iterator[Product]:
        """Yield the products that make the recurrence: all except the input weights."""
        return (product for product in self.products() if product is not self.input)

    def matrix_rows(self) -> Iterator[tuple[Tensor, int]]:
        """Yield each matrix with its rows per gate, which Muon makes orthogonal gate by gate.

        A matrix with a multiple of `hidden_size` rows has that many per gate; any other is one
        block. A cell with other matrices overrides this method.
        """
        for tensor in self.parameters():
            if tensor.ndim == 2:
                has_gates = len(tensor) % self.hidden_size == 0
                yield tensor, self.hidden_size if has_gates else len(tensor)

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights.

        Recurrent matrices are orthogonal gate by gate (Saxe et al. 2014), input matrices are Glorot
        uniform gate by gate (Glorot and Bengio 2010); biases and diagonal weights are zero. A cell
        overrides this method where its source says otherwise.

        Args:
            gain: Factor of the recurrent matrices.
        """
        self.initialize_gates(gain)
        for product in self.state_products():
            if product is not self.recurrent and product.weight.ndim == 2:
                self.initialize_orthogonal(product, gain)

    def initialize_gates(self, gain: float) -> None:
        """Draw the initial values of `recurrent` and `input`, and of no other product."""
        self.initialize_orthogonal(self.recurrent, gain)
        self.initialize_uniform(self.input)

    def gate_blocks(self, product: Product) -> tuple[Tensor, ...]:
        """Return the rows of each gate in a product's weight, each (hidden, in), for writing."""
        weight = product.weight.detach()
        return weight.chunk(max(1, len(weight) // self.hidden_size))

    def initialize_orthogonal(self, product: Product, gain: float) -> None:
        """Make each gate's block orthogonal, times `gain`, and the bias zero."""
        for block in self.gate_blocks(product):
            draw_orthogonal(block, gain)
        if product.bias is not None:
            nn.init.zeros_(product.bias)

    def initialize_uniform(self, product: Product) -> None:
        """Draw each gate's block from Glorot's uniform distribution, and make the bias zero."""
        for block in self.gate_blocks(product):
            nn.init.xavier_uniform_(block)
        if product.bias is not None:
            nn.init.zeros_(product.bias)


class FusedCell(Cell):
    """A cell whose equations are exactly those of a kernel of torch.

    The kernel's module holds the weights, and `step` uses the same ones. `fast/kernels.py` runs the
    kernel over a window.

    Attributes:
        kernel: Layer of torch that holds the parameters.
    """

    def __init__(self, kernel: nn.RNNBase) -> None:
        """Wrap torch's layer."""
        super().__init__(kernel.hidden_size)
        self.kernel = kernel
        self.input = Matrix(_parameter(kernel, "weight_ih_l0"), _parameter(kernel, "bias_ih_l0"))
        self.recurrent = Matrix(
            _parameter(kernel, "weight_hh_l0"), _parameter(kernel, "bias_hh_l0")
        )


class LinearCell(Cell):
    """A cell that is linear in its state: h ← a ⊙ h + b, where a and b depend on the input alone.

    A whole window is then one parallel scan (`fast/scan.py`).
    """

    @abstractmethod
    def coefficients(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """Return decay a and increment b, each (..., hidden), from the result of `project`."""

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.step`."""
        (hidden,) = state
        decay, increment = self.coefficients(projected)
        return (decay * hidden + increment,)

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the input weights; there are no recurrent ones. See `Cell.initialize`."""
        self.initialize_uniform(self.input)


def input_weights(cell: Cell, input_size: int, gates: int) -> Matrix:
    """Create input weights with biases for `gates` gates of `cell`, (gates x hidden, input)."""
    return Matrix.zeros(gates * cell.hidden_size, input_size, bias=True)


def recurrent_weights(cell: Cell, gates: int) -> Matrix:
    """Create recurrent weights for `gates` gates of `cell`, (gates x hidden, hidden).

    They have no biases: those of the input weights are enough.
    """
    return Matrix.zeros(gates * cell.hidden_size, cell.hidden_size)


def sigmoids(*gates: Tensor) -> tuple[Tensor, ...]:
    """Return the logistic function of each gate."""
    return tuple(torch.sigmoid(gate) for gate in gates)


def draw_orthogonal(block: Tensor, gain: float) -> None:
    """Make a matrix orthogonal. Unlike torch's function, it can be skipped for a model to load."""
    draw = nn.init.orthogonal_
    if has_torch_function_unary(block):
        handle_torch_function(draw, (block,), block, gain)
    else:
        draw(block, gain)


def _parameter(kernel: nn.RNNBase, name: str) -> nn.Parameter:
    parameter = getattr(kernel, name)
    if not isinstance(parameter, nn.Parameter):
        raise TypeError(f"{name} is not a parameter of {type(kernel).__name__}")
    return parameter
