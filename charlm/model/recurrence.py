"""A cell over a window, and layers of cells."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from charlm.model.block import GriffinBlock, RMSNorm
from charlm.model.cells.base import Cell, FusedCell, LinearCell, State
from charlm.model.cells.slstm import SLSTM
from charlm.model.dropout import Dropout
from charlm.model.fast.backpropagation import run_window
from charlm.model.fast.int8 import has_int8_products
from charlm.model.fast.kernels import run_kernel
from charlm.model.fast.products import weight_dropout
from charlm.model.fast.scan import scan
from charlm.model.fast.slstm import run_slstm

States = tuple[State, ...]  # The state of each layer.
Run = Callable[[Cell, Tensor, State], tuple[Tensor, State]]  # `run`, or a function in its place.


def run(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over a window in the fastest way that its equations allow.

    That is a kernel of torch, a parallel scan, a loop written by hand (`fast/slstm.py`), or the
    traced step of `fast/backpropagation.py`. No kernel of torch computes int8 products.

    Args:
        cell: One layer.
        x: Inputs, (time, batch, input), of at least one token.
        state: State before the window, each tensor (batch, hidden), in the type of the weights.

    Returns:
        Outputs, (time, batch, hidden), and the state after the window.
    """
    if isinstance(cell, FusedCell) and not has_int8_products(cell):
        return run_kernel(cell, x, state)
    if isinstance(cell, LinearCell):
        return _run_scan(cell, x, state)
    if not torch.is_grad_enabled():
        return run_stepwise(cell, x, state)
    device = x.device.type
    precision = (
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else state[0].dtype
    )
    projected = cell.project(x).to(state[0].dtype)
    with torch.autocast(device, enabled=False):
        if isinstance(cell, SLSTM) and not has_int8_products(cell):
            return run_slstm(cell.recurrent.effective_weight, projected, state, precision)
        return run_window(cell, projected, state, precision)


def run_stepwise(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over a window by one `step` per token; arguments and result as for `run`."""
    outputs = []
    for projected in cell.project(x).to(state[0].dtype).unbind():
        state = cell.step(projected, state)
        outputs.append(cell.output(state))
    return torch.stack(outputs), state


def _run_scan(cell: LinearCell, x: Tensor, state: State) -> tuple[Tensor, State]:
    (hidden,) = state
    decay, increment = cell.coefficients(cell.project(x).to(hidden.dtype))
    states = scan(decay, increment, hidden)
    return states, (states[-1],)


class Recurrence(nn.Module):
    """Layers of cells with dropout between them, normalization, skip connections or blocks.

    Attributes:
        output_size: Number of units of the output.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        dropout: Dropout,
        skip: str,
        layer_norm: bool = False,
        learn_initial: bool = False,
        weight_dropout: float = 0.0,
        blocks: Sequence[GriffinBlock] = (),
    ) -> None:
        """Stack `cells`.

        Args:
            cells: Layers, the first one first.
            dropout: Dropout between layers.
            skip: Skip connections. `none`; `residual`: from the second layer on, a layer's input is
                added to its output; `sum`: the outputs of all layers are added.
            layer_norm: Normalize the output of a layer (Ba et al. 2016) before the next layer or
                the projection, outside residual connections (pre-norm, Xiong et al. 2020).
            learn_initial: The state before the first token is learned instead of zero.
            weight_dropout: Fraction of the recurrent weights that is dropped for a window.
            blocks: Block around each layer; empty for none. Their dropout is on what a block adds.
        """
        super().__init__()
        self.cells = nn.ModuleList(cells)
        for number, cell in enumerate(cells):
            cell.join_layers(cells, number)
        self.dropout = dropout
        self.weight_dropout = weight_dropout
        self.skip = skip
        self.norms = nn.ModuleList(
            nn.LayerNorm(cell.hidden_size) if layer_norm else nn.Identity() for cell in cells
        )
        self.initial = nn.ModuleList(
            nn.ParameterList(
                nn.Parameter(torch.zeros(cell.hidden_size))
                for _ in range(cell.num_state_tensors * learn_initial)
            )
            for cell in cells
        )
        self.blocks = nn.ModuleList(blocks)
        self.output_size = cells[-1].hidden_size
        if blocks:
            self.output_size = blocks[-1].output.out_features
            self.norms[-1] = RMSNorm(self.output_size)
        # This buffer gives initial states the type and device that the module is moved to.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @property
    def layers(self) -> list[Cell]:
        """The cells, the first layer first."""
        return cast(list[Cell], list(self.cells))

    @property
    def learned_states(self) -> list[nn.ParameterList]:
        """The learned initial state of each layer, each tensor (hidden,); empty if it is zero."""
        return cast(list[nn.ParameterList], list(self.initial))

    def forward(self, x: Tensor, states: States, *, run: Run = run) -> tuple[Tensor, States]:
        """Run all layers over a window.

        Args:
            x: Inputs, (time, batch, input).
            states: State of each layer before the window.
            run: Function that runs a cell over the window.

        Returns:
            Outputs, (time, batch, output size), and the states after the window.
        """
        if self.blocks:
            return self._run_blocks(x, states, run)
        states_after: list[State] = []
        total: Tensor | None = None
        for layer, (cell, state) in enumerate(zip(self.layers, states, strict=True)):
            layer_input = self.dropout(self.norms[layer - 1](x)) if layer else x
            y, state_after = self._run_cell(cell, layer_input, state, run)
            x = x + y if layer and self.skip == "residual" else y
            total = y if total is None or self.skip != "sum" else total + y
            states_after.append(state_after)
        return self.norms[-1](total if self.skip == "sum" else x), tuple(states_after)

    def _run_blocks(self, x: Tensor, states: States, run: Run) -> tuple[Tensor, States]:
        """Run all layers over a window, each within its block; see `forward`."""
        states_after: list[State] = []
        blocks = cast(list[GriffinBlock], list(self.blocks))
        for block, cell, state in zip(blocks, self.layers, states, strict=True):
            normalized = block.mixing_norm(x)
            y, state_after = self._run_cell(cell, normalized, state, run)
            x = x + self.dropout(block.mix(normalized, y))
            x = x + self.dropout(block.feed_forward(x))
            states_after.append(state_after)
        return self.norms[-1](x), tuple(states_after)

    def _run_cell(self, cell: Cell, x: Tensor, state: State, run: Run) -> tuple[Tensor, State]:
        p = self.weight_dropout if self.training else 0.0
        with weight_dropout(cell.state_products(), p):
            return run(cell, x, state)

    def initial_states(self, batch_size: int) -> States:
        """Return the state of each layer before the first token, each tensor (batch, hidden)."""
        zero = cast(Tensor, self.zero)
        return tuple(
            tuple(tensor.expand(batch_size, -1) for tensor in learned)
            if len(learned)
            else (zero.new_zeros(batch_size, cell.hidden_size),) * cell.num_state_tensors
            for cell, learned in zip(self.layers, self.learned_states, strict=True)
        )
