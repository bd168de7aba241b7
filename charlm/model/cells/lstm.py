"""The long short-term memory and its variants."""

import torch
from torch import Tensor, nn

from charlm.config.cell import Cell as CellSection
from charlm.model.cells.base import (
    Cell,
    FusedCell,
    State,
    input_weights,
    recurrent_weights,
    sigmoids,
)
from charlm.model.fast.products import Diagonal, Matrix, Product

# Initial bias of the gate that keeps the memory: the gate starts open (Gers et al. 2000;
# Jozefowicz et al. 2015).
_OPEN_GATE_BIAS = 1.0


class LSTM(FusedCell):
    """The LSTM of Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    i, f, o = σ(W[h, x] + b); c̃ = tanh(W_c[h, x] + b_c); c ← f ⊙ c + i ⊙ c̃; h ← o ⊙ tanh(c)
    """

    num_state_tensors = 2
    gate_names = ("input", "forget", "output")

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(nn.LSTM(input_size, hidden_size))

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden, memory) by one token; see `Cell.step`."""
        hidden, memory = state
        gates = (projected + self.recurrent(hidden)).chunk(4, dim=-1)  # torch's order: i, f, c̃, o.
        input_gate, forget, output = sigmoids(gates[0], gates[1], gates[3])
        memory = forget * memory + input_gate * torch.tanh(gates[2])
        return output * torch.tanh(memory), memory

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights as `Cell.initialize` does; the forget gate's bias is 1."""
        super().initialize(gain)
        set_gate_bias(self.input, self.hidden_size, gate=1)


class LSTMVariant(Cell):
    """An LSTM with peepholes (Gers and Schmidhuber 2000) or a variant of Greff et al. 2015.

    i, f, o = σ(W[h, x] + P c + b), where o sees the new c; c ← f ⊙ c + i ⊙ g(W_c[h, x] + b_c);
    h ← o ⊙ g(c), with g = tanh

    Variants of arXiv:1503.04069: a gate that is left out is 1; an activation g that is left out is
    the identity; with coupled gates f = 1 − i; with full gate recurrence the gates also see the
    gates of the step before, which are then part of the state. Capped gates, i ← min(i, 1 − f),
    are those of Melis et al. 2018 (arXiv:1707.05589).

    Attributes:
        gates: Names of the gates that have weights, in the order input, forget, output. In the
            weights the candidate's block follows the gates' blocks.
        peepholes: Peephole weights by gate, (hidden,) or (hidden, hidden).
        gate_recurrence: Weights of the gates of the step before, (gates x hidden, gates x hidden),
            or None.
    """

    def __init__(self, input_size: int, hidden_size: int, options: CellSection) -> None:
        """Create a layer.

        Args:
            input_size: Width of the input.
            hidden_size: Number of units.
            options: Options of the kind `lstm`.
        """
        super().__init__(hidden_size)
        without = options.without
        missing = {*without, *(["forget_gate"] if options.coupled else [])}
        self.gates = [
            name for name in ("input", "forget", "output") if f"{name}_gate" not in missing
        ]
        self.gate_names = tuple(self.gates)
        self.coupled = options.coupled
        self.capped = options.capped
        self.input_activation = nn.Identity() if "input_activation" in without else nn.Tanh()
        self.output_activation = nn.Identity() if "output_activation" in without else nn.Tanh()
        self.input = input_weights(self, input_size, gates=len(self.gates) + 1)
        self.recurrent = recurrent_weights(self, gates=len(self.gates) + 1)
        is_full = options.peephole_weights == "full"
        self.peepholes = nn.ModuleDict(
            {
                name: recurrent_weights(self, gates=1) if is_full else Diagonal(hidden_size)
                for name in self.gates
                if name in options.peepholes
            }
        )
        units = len(self.gates) * hidden_size
        has_recurrence = options.full_gate_recurrence
        self.gate_recurrence = Matrix.zeros(units, units) if has_recurrence else None
        self.num_state_tensors = 2 + (len(self.gates) if has_recurrence else 0)

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden, memory, gates ...) by one token; see `Cell.step`."""
        hidden, memory, *gates_before = state
        sums = self._gate_sums(projected, hidden, gates_before)
        input_gate = self._gate("input", sums, memory)
        forget = 1 - input_gate if self.coupled else self._gate("forget", sums, memory)
        if self.capped:
            input_gate = torch.minimum(torch.as_tensor(input_gate), torch.as_tensor(1 - forget))
        memory = forget * memory + input_gate * self.input_activation(sums["candidate"])
        output = self._gate("output", sums, memory)
        hidden = output * self.output_activation(memory)
        gates = {"input": input_gate, "forget": forget, "output": output}
        return hidden, memory, *[gates[name] for name in self.gates[: len(gates_before)]]

    def _gate(self, name: str, sums: dict[str, Tensor], memory: Tensor) -> Tensor | float:
        """Return the gate's value, (batch, hidden), its peephole included; 1 if it is left out."""
        if name not in self.gates:
            return 1.0
        if name in self.peepholes:
            return torch.sigmoid(sums[name] + self.peepholes[name](memory))
        return torch.sigmoid(sums[name])

    def _gate_sums(
        self, projected: Tensor, hidden: Tensor, gates_before: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the contributions of the input, the hidden state and the earlier gates.

        Args:
            projected: Contributions of the input, (batch, (gates + 1) x hidden).
            hidden: Hidden state, (batch, hidden).
            gates_before: Gates of the step before, each (batch, hidden); empty without full gate
                recurrence.

        Returns:
            Sums by name of the gate and `candidate`, each (batch, hidden).
        """
        *gates, candidate = (projected + self.recurrent(hidden)).chunk(len(self.gates) + 1, dim=-1)
        if self.gate_recurrence is not None:
            recurrent = self.gate_recurrence(torch.cat(gates_before, dim=-1))
            terms = recurrent.chunk(len(gates), dim=-1)
            gates = [gate + term for gate, term in zip(gates, terms, strict=True)]
        return {**dict(zip(self.gates, gates, strict=True)), "candidate": candidate}

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights: peepholes are zero, and the gate that keeps memory is open."""
        self.initialize_gates(gain)
        if self.gate_recurrence is not None:
            self.initialize_uniform(self.gate_recurrence)
        if "forget" in self.gates:
            set_gate_bias(self.input, self.hidden_size, gate=self.gates.index("forget"))
        elif self.coupled:  # f = 1 − i: the forget gate is open where the input gate's bias is −1.
            set_gate_bias(self.input, self.hidden_size, gate=0, bias=-_OPEN_GATE_BIAS)


def set_gate_bias(
    product: Product, hidden_size: int, *, gate: int, bias: float = _OPEN_GATE_BIAS
) -> None:
    """Set all biases of one gate; the default opens it."""
    if product.bias is not None:
        nn.init.constant_(
            product.bias.detach()[gate * hidden_size : (gate + 1) * hidden_size], bias
        )
