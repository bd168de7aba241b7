"""The long short-term memory, and the variants of it that leave out, add or join something."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from charlm.model.cells.base import (
    Cell,
    FusedCell,
    State,
    input_weights,
    recurrent_weights,
    sigmoids,
)
from charlm.model.fast.products import Diagonal, Matrix, Product

_OPEN = (
    1.0  # Initial bias of a gate that keeps the memory (Gers et al. 2000; Jozefowicz et al. 2015).
)


class LSTM(FusedCell):
    """Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    i, f, o = σ(W[h, x] + b); c̃ = tanh(W_c[h, x] + b_c); c ← f ⊙ c + i ⊙ c̃; h ← o ⊙ tanh(c).
    """

    parts = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a layer of `hidden_size` units."""
        super().__init__(nn.LSTM(input_size, hidden_size))

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        hidden, memory = state
        gates = (projected + self.recurrent(hidden)).chunk(4, dim=-1)  # torch's order: i, f, c̃, o.
        input_gate, forget, output = sigmoids(gates[0], gates[1], gates[3])
        memory = forget * memory + input_gate * torch.tanh(gates[2])
        return output * torch.tanh(memory), memory

    def initialize(self, gain: float = 1.0) -> None:
        """As every cell, with the forget gate open: its bias is 1."""
        super().initialize(gain)
        open_gates(self.input, self.hidden_size, 1)


class LSTMVariant(Cell):
    """An LSTM with peepholes (Gers and Schmidhuber 2000), or a variant of Greff et al. 2015 (arXiv:1503.04069).

    i, f, o = σ(W[h, x] + P c + b), o with the new c; f = 1 − i if coupled; a gate left out is 1;
    i ← min(i, 1 − f) if capped (Melis et al. 2018, arXiv:1707.05589); c ← f ⊙ c + i ⊙ g(W_c[h, x] + b_c);
    h ← o ⊙ g(c), g tanh or the identity.
    With full gate recurrence the gates also see the three gates of the step before, and the state has them.

    Attributes:
        gates: Which of input, forget and output are computed, in this order; the candidate's block is the last.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        peepholes: Collection[str] = (),
        full_peepholes: bool = False,
        without: Collection[str] = (),
        coupled: bool = False,
        capped: bool = False,
        full_gate_recurrence: bool = False,
    ) -> None:
        """Make a layer of `hidden_size` units; the options are those of the configuration's `cell`."""
        super().__init__(hidden_size)
        left_out = {*without, *(["forget_gate"] if coupled else [])}
        self.gates = [
            name for name in ("input", "forget", "output") if f"{name}_gate" not in left_out
        ]
        self.coupled = coupled
        self.capped = capped
        self.input_activation = nn.Identity() if "input_activation" in without else nn.Tanh()
        self.output_activation = nn.Identity() if "output_activation" in without else nn.Tanh()
        self.input = input_weights(self, input_size, len(self.gates) + 1)
        self.recurrent = recurrent_weights(self, len(self.gates) + 1)
        self.peepholes = nn.ModuleDict(
            {
                name: recurrent_weights(self, 1) if full_peepholes else Diagonal(hidden_size)
                for name in self.gates
                if name in peepholes
            }
        )
        units = len(self.gates) * hidden_size
        self.gate_recurrence = Matrix.new(units, units) if full_gate_recurrence else None
        self.parts = 2 + (len(self.gates) if full_gate_recurrence else 0)

    def advance(self, projected: Tensor, state: State) -> State:
        """Advance the state by one token; see `Cell.advance`."""
        hidden, memory, *gates_before = state
        inputs = self._gate_inputs(projected, hidden, gates_before)
        input_gate = self._gate("input", inputs, memory)
        forget = 1 - input_gate if self.coupled else self._gate("forget", inputs, memory)
        if self.capped:
            input_gate = torch.minimum(torch.as_tensor(input_gate), torch.as_tensor(1 - forget))
        memory = forget * memory + input_gate * self.input_activation(inputs["candidate"])
        output = self._gate("output", inputs, memory)
        hidden = output * self.output_activation(memory)
        gates = {"input": input_gate, "forget": forget, "output": output}
        return hidden, memory, *[gates[name] for name in self.gates[: len(gates_before)]]

    def _gate(self, name: str, inputs: dict[str, Tensor], memory: Tensor) -> Tensor | float:
        """Return σ of what a gate sees, its peephole included; 1 if the gate is left out."""
        if name not in self.gates:
            return 1.0
        return torch.sigmoid(
            inputs[name] + self.peepholes[name](memory) if name in self.peepholes else inputs[name]
        )

    def _gate_inputs(
        self, projected: Tensor, hidden: Tensor, gates_before: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return what each gate and the candidate see of input, hidden state and the gates before."""
        *gates, candidate = (projected + self.recurrent(hidden)).chunk(len(self.gates) + 1, dim=-1)
        if self.gate_recurrence is not None:
            seen = self.gate_recurrence(torch.cat(gates_before, dim=-1)).chunk(len(gates), dim=-1)
            gates = [gate + addition for gate, addition in zip(gates, seen, strict=True)]
        return {**dict(zip(self.gates, gates, strict=True)), "candidate": candidate}

    def initialize(self, gain: float = 1.0) -> None:
        """As every cell; peepholes begin at zero; the gate that keeps the memory is open at first."""
        super().initialize(gain)
        if self.gate_recurrence is not None:
            self.initialize_uniformly(self.gate_recurrence)
        if "forget" in self.gates:
            open_gates(self.input, self.hidden_size, self.gates.index("forget"))
        elif self.coupled:  # f = 1 − i: the input gate's bias is −1 for f to be open.
            open_gates(self.input, self.hidden_size, 0, bias=-_OPEN)


def open_gates(product: Product, hidden_size: int, block: int, *, bias: float = _OPEN) -> None:
    """Set the biases of one gate's block."""
    if product.bias is not None:
        nn.init.constant_(
            product.bias.detach()[block * hidden_size : (block + 1) * hidden_size], bias
        )
