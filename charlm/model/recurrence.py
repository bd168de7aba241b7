"""A cell over time, and layers of them: the fused kernel where torch has one, a scan or step by step elsewhere."""

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell, FusedCell, LinearCell, State
from charlm.model.dropout import Dropout
from charlm.model.fast.backpropagation import run_window
from charlm.model.fast.products import thinned
from charlm.model.fast.scan import scan

States = tuple[State, ...]  # A state for each layer.
Run = Callable[[Cell, Tensor, State], tuple[Tensor, State]]


def run(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over a window, in the fastest way that its equations allow.

    Args:
        cell: One layer.
        x: Inputs, (time, batch, input).
        state: State before the window, each part (batch, hidden).

    Returns:
        Outputs, (time, batch, hidden), and the state after the window.
    """
    if isinstance(cell, FusedCell):
        return cell.run(x, state)
    if isinstance(cell, LinearCell):
        return _run_scan(cell, x, state)
    if not torch.is_grad_enabled():
        return run_stepwise(cell, x, state)
    kind = x.device.type
    precision = (
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else state[0].dtype
    )
    projected = cell.project(x).to(state[0].dtype)
    with torch.autocast(kind, enabled=False):
        return run_window(cell, projected, state, precision)


def run_stepwise(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over a window, one `advance` a token: the equations as they stand. Arguments as for `run`."""
    outputs = []
    for projected in cell.project(x).to(state[0].dtype).unbind():
        state = cell.advance(projected, state)
        outputs.append(cell.output(state))
    return torch.stack(outputs), state


def _run_scan(cell: LinearCell, x: Tensor, state: State) -> tuple[Tensor, State]:
    (hidden,) = state
    kept, added = cell.coefficients(cell.project(x).to(hidden.dtype))
    states = scan(kept, added, hidden)
    return states, (states[-1],)


class Recurrence(nn.Module):
    """Layers of cells with dropout between them, and normalization and skip connections around them."""

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        dropout: float,
        skip: str,
        layer_norm: bool = False,
        learn_initial: bool = False,
        whole_window: bool = False,
        weight_dropout: float = 0.0,
    ) -> None:
        """Stack `cells`, first layer first.

        Args:
            cells: The layers.
            dropout: Share of units dropped between layers.
            skip: `none`; `residual`: from the second layer on, the input is added to the output; `sum`: the outputs of
                all layers are added up.
            layer_norm: Normalize what a layer gives (Ba et al. 2016) before the next layer or the projection reads it,
                outside any residual connection (pre-norm, Xiong et al. 2020).
            learn_initial: The state before the first token is learnt, instead of zero.
            whole_window: The same units are dropped at every token of a window.
            weight_dropout: Share of the recurrent weights dropped for a window, in training.
        """
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.dropout = Dropout(dropout, whole_window=whole_window)
        self.weight_dropout = weight_dropout
        self.skip = skip
        self.norms = nn.ModuleList(
            nn.LayerNorm(cell.hidden_size) if layer_norm else nn.Identity() for cell in cells
        )
        self.initial = nn.ModuleList(
            nn.ParameterList(
                nn.Parameter(torch.zeros(cell.hidden_size))
                for _ in range(cell.parts * learn_initial)
            )
            for cell in cells
        )
        self.register_buffer(
            "zero", torch.zeros(()), persistent=False
        )  # Of the type and on the device of the state.

    @property
    def layers(self) -> list[Cell]:
        """The cells, first layer first."""
        return cast(list[Cell], list(self.cells))

    @property
    def learnt_states(self) -> list[nn.ParameterList]:
        """The learnt state of each layer before the first token, in parts; empty where it is zero."""
        return cast(list[nn.ParameterList], list(self.initial))

    def forward(self, x: Tensor, states: States, *, run: Run = run) -> tuple[Tensor, States]:
        """Run all layers over a window.

        Args:
            x: Inputs, (time, batch, input).
            states: The state of every layer before the window.
            run: How a cell goes over the window.

        Returns:
            Outputs, (time, batch, hidden), and the states after the window.
        """
        after, total = [], None
        for number, (cell, state) in enumerate(zip(self.layers, states, strict=True)):
            read = self.dropout(self.norms[number - 1](x)) if number else x
            with thinned(cell.state_products(), self.weight_dropout if self.training else 0.0):
                y, state = run(cell, read, state)
            x = x + y if number and self.skip == "residual" else y
            total = y if total is None or self.skip != "sum" else total + y
            after.append(state)
        return self.norms[-1](total if self.skip == "sum" else x), tuple(after)

    def initial_states(self, batch: int) -> States:
        """Return the state of every layer before the first token."""
        zero = cast(Tensor, self.zero)
        return tuple(
            tuple(part.expand(batch, -1) for part in learned)
            if len(learned)
            else (zero.new_zeros(batch, cell.hidden_size),) * cell.parts
            for cell, learned in zip(self.layers, self.learnt_states, strict=True)
        )
