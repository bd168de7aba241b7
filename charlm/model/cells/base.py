"""One step of every recurrence: (x, state) → (y, state).

A cell is the textbook's R and O (Goldberg 2017, ch. 14) with one addition for speed: `project` is what depends on the
input alone, done for a whole window in one product; `advance` is the equation, R; `output` is O. Where torch has a
fused kernel for exactly these equations, the kernel holds the weights and the cell reads them from it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config import Cell as CellSection

State = tuple[Tensor, ...]  # Of a layer, each part (batch, hidden). Elman, GRU: (hidden,); LSTM: (hidden, cell).


class Cell(nn.Module, ABC):
    """One layer of a recurrence.

    Attributes:
        kernel: torch's layer: it holds the weights, in torch's layout.
        fused: Whether the kernel computes exactly this cell's equations.
    """

    parts: ClassVar[int] = 1  # Tensors in a state.
    kernel: nn.RNNBase
    fused: bool = True

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
        return functional.linear(x, self.weight_ih, self.bias_ih)

    def output(self, state: State) -> Tensor:
        """Return what the next layer sees of a state, (batch, hidden)."""
        return state[0]

    def initial_state(self, batch: int) -> State:
        """Return the zero state."""
        zeros = self.weight_hh.new_zeros(batch, self.hidden_size)
        return (zeros,) * self.parts

    @property
    def hidden_size(self) -> int:
        """Units of the state."""
        return self.kernel.hidden_size

    @property
    def weight_ih(self) -> Tensor:
        """Weights of the input for all gates, (gates x hidden, input)."""
        return cast(Tensor, self.kernel.weight_ih_l0)

    @property
    def weight_hh(self) -> Tensor:
        """Weights of the state for all gates, (gates x hidden, hidden)."""
        return cast(Tensor, self.kernel.weight_hh_l0)

    @property
    def bias_ih(self) -> Tensor:
        """Bias beside the input's product, (gates x hidden,)."""
        return cast(Tensor, self.kernel.bias_ih_l0)

    @property
    def bias_hh(self) -> Tensor:
        """Bias beside the state's product, (gates x hidden,)."""
        return cast(Tensor, self.kernel.bias_hh_l0)

    def recur(self, hidden: Tensor) -> Tensor:
        """Return the product of the recurrent weights and the hidden state, (batch, gates x hidden)."""
        return functional.linear(hidden, self.weight_hh, self.bias_hh)

    def initialize(self) -> None:
        """Set the initial weights, gate by gate.

        Orthogonal for the state (Saxe et al. 2014), Glorot uniform for the input; biases are zero.
        """
        gates = len(self.weight_hh) // self.hidden_size
        for weights in self.weight_hh.detach().chunk(gates):
            nn.init.orthogonal_(weights)
        for weights in self.weight_ih.detach().chunk(gates):
            nn.init.xavier_uniform_(weights)
        nn.init.zeros_(self.bias_ih)
        nn.init.zeros_(self.bias_hh)


class Elman(Cell):
    """h ← g(W_hx x + W_hh h + b), g one of tanh, relu, sigmoid (Elman 1990). Fused for tanh and relu."""

    def __init__(self, input_size: int, hidden_size: int, activation: str) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__()
        self.fused = activation != "sigmoid"
        self.kernel = nn.RNN(input_size, hidden_size, nonlinearity=activation if self.fused else "tanh")
        self.activation = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid}[activation]

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        return (self.activation(projected + self.recur(hidden)),)


class GRU(Cell):
    """Cho et al. 2014 (arXiv:1406.1078v1): the reset gate multiplies W h + b, torch's and cuDNN's form.

    r, u = σ(W[h, x] + b); c̃ = tanh(W_cx x + b_c + r ⊙ (W_ch h + b_h)); h ← (1 − u) ⊙ c̃ + u ⊙ h.
    The update gate is Cho's and torch's: one keeps the old state, where many textbooks have it the other way round.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__()
        self.kernel = nn.GRU(input_size, hidden_size)

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        (hidden,) = state
        reset_x, update_x, candidate_x = projected.chunk(3, dim=-1)
        reset_h, update_h, candidate_h = self.recur(hidden).chunk(3, dim=-1)
        reset = torch.sigmoid(reset_x + reset_h)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        return (candidate + update * (hidden - candidate),)


class LSTM(Cell):
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    i, f, o = σ(W[h, x] + b); c̃ = tanh(W_c[h, x] + b_c); c ← f ⊙ c + i ⊙ c̃; h ← o ⊙ tanh(c).
    """

    parts = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__()
        self.kernel = nn.LSTM(input_size, hidden_size)

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        hidden, memory = state
        gates = (projected + self.recur(hidden)).chunk(4, dim=-1)
        input_gate, forget, output = (torch.sigmoid(gates[index]) for index in (0, 1, 3))
        memory = forget * memory + input_gate * torch.tanh(gates[2])
        return output * torch.tanh(memory), memory

    def initialize(self) -> None:
        """As every cell, with the forget gate open: its bias is 1 (Gers et al. 2000; Jozefowicz et al. 2015)."""
        super().initialize()
        nn.init.ones_(self.bias_ih[self.hidden_size : 2 * self.hidden_size])


def make_cell(section: CellSection, input_size: int, hidden_size: int) -> Cell:
    """Return one layer of the recurrence that `section` names, with its initial weights."""
    makers: dict[str, Callable[[], Cell]] = {
        "elman": lambda: Elman(input_size, hidden_size, section.activation),
        "gru": lambda: GRU(input_size, hidden_size),
        "lstm": lambda: LSTM(input_size, hidden_size),
    }
    cell = makers[section.kind]()
    cell.initialize()
    return cell
