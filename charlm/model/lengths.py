"""A cell over sequences of different lengths, with the state after the last token of each."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from charlm.model.cells.base import Cell, State
from charlm.model.recurrence import Run, run


def run_to(lengths: Tensor) -> Run:
    """Return a function that runs a cell over sequences of different lengths.

    The state that it returns is the one after the last token of each sequence, so that it does not
    depend on the padding after it. The outputs at padding have no meaning.

    Args:
        lengths: Number of tokens of each sequence, at least 1, (batch,). The longest sequence fills
            the window.
    """
    return partial(_run_to, lengths=lengths)


def _run_to(cell: Cell, x: Tensor, state: State, *, lengths: Tensor) -> tuple[Tensor, State]:
    if cell.num_state_tensors == 1 and type(cell).output is Cell.output:
        outputs, _ = run(cell, x, state)
        columns = torch.arange(x.shape[1], device=x.device)
        return outputs, (outputs[lengths - 1, columns].to(state[0].dtype),)
    # The outputs do not have the whole state, so the window is cut where a sequence ends.
    pieces: list[Tensor] = []
    after = state
    for first, end in _pieces(lengths):
        y, state = run(cell, x[first:end], state)
        pieces.append(y)
        has_ended = (lengths < end)[:, None]
        after = tuple(
            torch.where(has_ended, old, new) for old, new in zip(after, state, strict=True)
        )
    return torch.cat(pieces), after


def _pieces(lengths: Tensor) -> list[tuple[int, int]]:
    """Return the first token of each piece of a window, and the token after its last one."""
    return list(pairwise([0, *sorted(set(lengths.tolist()))]))
