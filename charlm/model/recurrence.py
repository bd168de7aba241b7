"""A cell over time, and layers of them: the fused kernel where torch has one, step by step elsewhere."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from charlm.model.cells import Cell, State

States = tuple[State, ...]  # A state for each layer.


def run(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over a window, by its fused kernel if it has one.

    Args:
        cell: One layer.
        x: Inputs, (time, batch, input).
        state: State before the window, each part (batch, hidden).

    Returns:
        Outputs, (time, batch, hidden), and the state after the window.
    """
    if not cell.fused:
        return run_stepwise(cell, x, state)
    layered = tuple(part.unsqueeze(0) for part in state)  # torch's layers want (layers, batch, hidden).
    y, after = cell.kernel(x, layered if cell.parts > 1 else layered[0])
    after = after if cell.parts > 1 else (after,)
    return y, tuple(part.squeeze(0) for part in after)


def run_stepwise(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a cell over a window, one `advance` a token: the equations as they stand. Arguments as for `run`."""
    outputs = []
    for projected in cell.project(x).unbind():
        state = cell.advance(projected, state)
        outputs.append(cell.output(state))
    return torch.stack(outputs), state


class Recurrence(nn.Module):
    """Layers of cells with dropout between them and skip connections around them."""

    def __init__(self, cells: Sequence[Cell], *, dropout: float, skip: str) -> None:
        """Stack `cells`, first layer first.

        Args:
            cells: The layers; from the second on, input and hidden sizes are the same.
            dropout: Share of units dropped between layers.
            skip: `none`; `residual`: from the second layer on, the input is added to the output; `sum`: the outputs of
                all layers are added up.
        """
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.dropout = nn.Dropout(dropout)
        self.skip = skip

    @property
    def layers(self) -> list[Cell]:
        """The cells, first layer first."""
        return cast(list[Cell], list(self.cells))

    def forward(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """Run all layers over a window: (time, batch, input) → (time, batch, hidden), and the states after it."""
        after, total = [], None
        for number, (cell, state) in enumerate(zip(self.layers, states, strict=True)):
            y, state = run(cell, self.dropout(x) if number else x, state)
            x = x + y if number and self.skip == "residual" else y
            total = x if total is None else total + x
            after.append(state)
        return (total if self.skip == "sum" and total is not None else x), tuple(after)

    def initial_states(self, batch: int) -> States:
        """Return the zero state of every layer."""
        return tuple(cell.initial_state(batch) for cell in self.layers)
