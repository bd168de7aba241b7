"""The sLSTM: an LSTM with an exponential input gate and a normalized memory."""

import torch
from torch import Tensor
from torch.nn import functional

from charlm.model.cells.base import Cell, State, input_weights, recurrent_weights
from charlm.model.cells.lstm import set_gate_bias

_SMALLEST = 1e-30  # Normalizer of the state before the first token, instead of zero.


class SLSTM(Cell):
    """The sLSTM of Beck et al. 2024 (arXiv:2405.04517), section 2.2.

    ĩ, f̃, z̃, õ = W[h, x] + b; m' = max(ĩ, m + log σ(f̃)); i = exp(ĩ − m');
    f = exp(m + log σ(f̃) − m'); c ← f ⊙ c + i ⊙ tanh(z̃); n ← f ⊙ n + i; m ← m';
    h ← σ(õ) ⊙ c / n

    c / n is a mean of the candidates tanh(z̃), weighted by exponential gates; the stabilizer m keeps
    the exponents small and cancels in the quotient. The paper's forget gate may be exponential
    too; here it is σ. Every unit sees the whole hidden state, as with one head in the paper.
    """

    num_state_tensors = 4
    gate_names = ("output",)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Create a layer of `hidden_size` units."""
        super().__init__(hidden_size)
        self.input = input_weights(self, input_size, gates=4)
        self.recurrent = recurrent_weights(self, gates=4)

    def step(self, projected: Tensor, state: State) -> State:
        """Advance the state (hidden, memory, normalizer, stabilizer); see `Cell.step`."""
        hidden, memory, normalizer, stabilizer = state
        gates = (projected + self.recurrent(hidden)).chunk(4, dim=-1)
        log_input, forget_sum, candidate, output = gates
        log_forget = stabilizer + functional.logsigmoid(forget_sum)
        stabilizer = torch.maximum(log_input, log_forget)
        input_gate = torch.exp(log_input - stabilizer)
        forget = torch.exp(log_forget - stabilizer)
        normalizer = forget * positive_normalizer(memory, normalizer) + input_gate
        memory = forget * memory + input_gate * torch.tanh(candidate)
        return torch.sigmoid(output) * (memory / normalizer), memory, normalizer, stabilizer

    def initialize(self, gain: float = 1.0) -> None:
        """Draw the initial weights as `Cell.initialize` does; the forget gate's bias is 1."""
        super().initialize(gain)
        set_gate_bias(self.input, self.hidden_size, gate=1)


def positive_normalizer(memory: Tensor, normalizer: Tensor) -> Tensor:
    """Return the normalizer n > 0, which is at least |c|, as in every state that a step leads to.

    Only a learned initial state can violate that.
    """
    return torch.maximum(normalizer, memory.abs()) + _SMALLEST
