"""The fused kernels of torch, run over a window."""

from collections.abc import Callable

import torch
from torch import Tensor

from charlm.model.cells.base import FusedCell, State

# (input, state, weights, has biases, layers, dropout, training, bidirectional, batch first)
# → (outputs, *state).
_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


def run_kernel(cell: FusedCell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell's kernel over a window.

    Args:
        cell: One layer.
        x: Inputs, (time, batch, input).
        state: State before the window, each tensor (batch, hidden).

    Returns:
        Outputs, (time, batch, hidden), and the state after the window.
    """
    weights = [
        cell.input.weight,
        cell.recurrent.effective_weight,
        cell.input.bias,
        cell.recurrent.bias,
    ]
    # torch's kernels take a state of shape (layers, batch, hidden), and cuDNN a contiguous one.
    layered = tuple(tensor.unsqueeze(0).contiguous() for tensor in state)
    outputs, *after = _KERNELS[cell.kernel.mode](
        x,
        layered if len(state) > 1 else layered[0],
        weights,
        True,  # The layer has biases.
        1,  # Number of layers.
        0.0,  # Dropout between layers.
        torch.is_grad_enabled(),  # Training: cuDNN has no backward pass otherwise.
        False,  # Bidirectional.
        False,  # Batch first.
    )
    return outputs, tuple(tensor.squeeze(0) for tensor in after)
