"""How many threads compute a step of one token per sequence: one, or all if the step is large."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Multiplications of a step from which several threads compute it faster than one. Below it they
# wait for each other, and take the processor from other work, such as answering clients.
_MIN_PARALLEL = 2**26


def num_weights(model: nn.Module) -> int:
    """Return the approximate number of multiplications of a step of one sequence."""
    return sum(tensor.numel() for tensor in model.parameters())


@contextmanager
def threads_for_step(multiplications: int) -> Iterator[None]:
    """Compute in one thread unless the step is large.

    Args:
        multiplications: Number of multiplications of the step: of weights times sequences.
    """
    threads = torch.get_num_threads()
    if threads == 1 or multiplications >= _MIN_PARALLEL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
