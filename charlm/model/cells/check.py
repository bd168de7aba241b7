"""Checks that a cell of the user's own keeps the contract of `Cell`.

A cell that breaks it would fail inside torch's tracer, or train another function than its `step`.
"""

import torch
from torch import Tensor

from charlm.model.cells.base import Cell, FusedCell, LinearCell, State
from charlm.model.cells.slstm import SLSTM
from charlm.model.fast.products import Product

_BATCH_SIZE = 2
# Methods that a window of such a cell does not call, and what computes the window instead.
_NOT_CALLED: tuple[tuple[type[Cell], tuple[str, ...], str], ...] = (
    (FusedCell, ("project", "step", "output"), "a kernel of torch"),
    (SLSTM, ("step", "output"), "a function of its own"),
    (LinearCell, ("step", "output"), "a parallel scan of `coefficients`"),
)


def check_cell(cell: Cell, input_size: int) -> None:
    """Check the methods, the weights and the shapes of a cell, with one step.

    Args:
        cell: Layer that a function of the user returned.
        input_size: Width of its input.

    Raises:
        TypeError: The cell does not keep the contract; the message states what to change.
    """
    name = type(cell).__name__
    _check_methods(cell, name)
    _check_weights(cell, name)
    if any(parameter.is_meta for parameter in cell.parameters()):
        return  # A model of shapes; the model that is trained is checked with values.
    # A step that draws random numbers must not change those of the training.
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        projected = cell.project(torch.zeros(1, _BATCH_SIZE, input_size))
        state = (torch.zeros(_BATCH_SIZE, cell.hidden_size),) * cell.num_state_tensors
        _check_step(cell, projected[0].detach(), state, name)


def _check_methods(cell: Cell, name: str) -> None:
    """Refuse a method that replaces one of charlm's which a window does not call."""
    base = next(filter(_is_of_charlm, type(cell).__mro__)).__name__
    for kind, methods, runner in _NOT_CALLED:
        replaced = [method for method in methods if _is_replaced(type(cell), method)]
        if isinstance(cell, kind) and replaced:
            raise TypeError(
                f"{name}.{replaced[0]} would not be called: a window of {base} is computed by "
                f"{runner}; extend Cell instead"
            )


def _is_replaced(cell: type, method: str) -> bool:
    """Return whether a class of the user replaces a method that is not abstract."""
    owner, *others = [each for each in cell.__mro__ if method in vars(each)]
    is_abstract = [getattr(vars(each)[method], "__isabstractmethod__", False) for each in others]
    return not _is_of_charlm(owner) and not all(is_abstract)


def _is_of_charlm(owner: type) -> bool:
    return owner.__module__.startswith("charlm.")


def _check_weights(cell: Cell, name: str) -> None:
    """Refuse a cell without the weights that the methods of `Cell` use."""
    if not hasattr(cell, "input"):
        raise TypeError(f"{name} has no self.input; create it with input_weights")
    if type(cell).initialize is Cell.initialize and not hasattr(cell, "recurrent"):
        raise TypeError(
            f"{name} has no self.recurrent, whose initial values `initialize` draws; create it "
            "with recurrent_weights, or override `initialize`"
        )


def _check_step(cell: Cell, projected: Tensor, state: State, name: str) -> None:
    """Take one step, and check its result and which parameters it uses."""

    def multiply(product: Product, vector: Tensor) -> Tensor:
        return product.multiply(vector).detach()

    for product in cell.products():
        product.recorder = multiply
    try:
        after = cell.step(projected, state)
        _check_state(after, state, name)
        output = cell.output(after)
    finally:
        for product in cell.products():
            product.recorder = None
    if output.shape != state[0].shape:
        raise TypeError(f"{name}.output must be (batch, hidden), {_got([output])}")
    if not isinstance(cell, LinearCell | FusedCell):
        _check_parameters(cell, [output, *after], name)


def _check_state(after: object, state: State, name: str) -> None:
    """Check that a step returned a state in the shapes of the state before it."""
    if not isinstance(after, tuple | list):
        raise TypeError(
            f"{name}.step must return a tuple of tensors, got {type(after).__name__}; a tuple of "
            "one tensor is written (hidden,)"
        )
    if len(after) != len(state):
        raise TypeError(
            f"{name}.step must return as many tensors as a state has, num_state_tensors = "
            f"{len(state)}, got {len(after)}"
        )
    if any(tensor.shape != state[0].shape for tensor in after):
        raise TypeError(f"{name}.step must return tensors of (batch, hidden), {_got(after)}")


def _got(tensors: list[Tensor] | tuple[Tensor, ...]) -> str:
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    return f"got {shapes} for a batch of {_BATCH_SIZE}"


def _check_parameters(cell: Cell, results: list[Tensor], name: str) -> None:
    """Refuse parameters that a step uses outside a product: they would not be trained."""
    names, parameters = zip(*cell.named_parameters(), strict=True)
    differentiable = [result.sum() for result in results if result.requires_grad]
    if not differentiable:
        return
    gradients = torch.autograd.grad(differentiable, parameters, allow_unused=True)
    used = [each for each, grad in zip(names, gradients, strict=True) if grad is not None]
    if used:
        raise TypeError(
            f"{name}.step uses {', '.join(used)} outside a product; use it in `project`, or hold "
            "it in recurrent_weights, Matrix or Diagonal (charlm.model.fast.products) and call that"
        )
