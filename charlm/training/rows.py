"""Updates of the rows of hash tables: only rows with a gradient change."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from charlm.model.ngrams import NgramEmbedding

_EPSILON = 1.0e-8


class Rows(NamedTuple):
    """Rows of a table and their optimizer state.

    Attributes:
        weight: Weights, (rows, row width).
        mean_square: Mean of the squared gradients, (rows,).
        updates: Number of updates, (rows,).
    """

    weight: Tensor
    mean_square: Tensor
    updates: Tensor


def tables(model: nn.Module) -> list[Tensor]:
    """Return the hash tables of a model."""
    return [module.weight for module in model.modules() if isinstance(module, NgramEmbedding)]


def allow_sparse_gradients(model: nn.Module, *, allowed: bool) -> None:
    """Let the gradients of hash tables in training hold the rows in use alone, or all rows."""
    for module in model.modules():
        if isinstance(module, NgramEmbedding):
            module.has_sparse_gradient = allowed


class RowUpdates:
    """Takes the steps of hash tables for an optimizer, which leaves them out.

    A row r with a gradient g other than zero, in its n-th update:

        s_r ← β s_r + (1 - β) mean(g²);  w_r ← (1 - η λ) w_r - η g / (√(s_r / (1 - βⁿ)) + ε)

    This is RMSprop (Hinton 2012) with the corrected means of Adam (Kingma and Ba 2015) and one mean
    per row, as in row-wise AdaGrad (Mudigere et al. 2022, arXiv:2104.05158). With `sgd` it is
    w_r ← (1 - η λ) w_r - η g. All other rows and their state stay as they are, so a rare row is not
    moved by old gradients. With sparse gradients the work does not grow with the table.

    The state is that of the optimizer, under torch's names `exp_avg_sq` and `step`. NAdam reads
    `mu_product` too when it is restored.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, beta: float | None) -> None:
        """Let the last group of an optimizer, the tables, be updated before each of its steps.

        Args:
            optimizer: Optimizer of all parameters.
            beta: Decay rate of the mean of the squared gradients; None for `sgd`.
        """
        self._beta = beta
        optimizer.register_step_pre_hook(self)

    @torch.no_grad()
    def __call__(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        """Update the tables, and remove their gradients, so that the optimizer skips them."""
        group = optimizer.param_groups[-1]
        for table in group["params"]:
            if table.grad is not None:
                gradient, table.grad = table.grad, None
                self._update(table, gradient, optimizer.state[table], group)

    def _update(
        self, table: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]
    ) -> None:
        if not state:
            state["exp_avg_sq"] = table.new_zeros(len(table))
            state["step"] = table.new_zeros(len(table))
            state["mu_product"] = table.new_ones(())
        # torch restores steps on the CPU for optimizers that count them there, such as NAdam.
        state["step"] = state["step"].to(table.device)
        whole = Rows(table, state["exp_avg_sq"], state["step"])
        if not gradient.is_sparse:  # On a GPU, choosing rows would wait for the device.
            is_used = gradient.ne(0).any(dim=1)
            for old, new in zip(whole, self._updated(whole, gradient, group), strict=True):
                mask = is_used.view(-1, *[1] * (old.dim() - 1))
                old.copy_(torch.where(mask, new, old))
            return
        gradient = gradient.coalesce()
        numbers, values = gradient.indices()[0], gradient.values()
        is_used = values.ne(0).any(dim=1)
        numbers, values = numbers[is_used], values[is_used]
        used = Rows(*(tensor[numbers] for tensor in whole))
        for tensor, new in zip(whole, self._updated(used, values, group), strict=True):
            tensor[numbers] = new

    def _updated(self, rows: Rows, gradient: Tensor, group: dict[str, Any]) -> Rows:
        """Return rows after an update."""
        rate = group["lr"]
        weight = rows.weight * (1 - rate * group["weight_decay"])
        if self._beta is None:
            return rows._replace(weight=weight - rate * gradient)
        updates = rows.updates + 1
        squares = gradient.square().mean(dim=1)
        mean_square = self._beta * rows.mean_square + (1 - self._beta) * squares
        size = (mean_square / (1 - self._beta**updates)).sqrt() + _EPSILON
        weight = weight - rate * gradient / size[:, None]
        return Rows(weight=weight, mean_square=mean_square, updates=updates)
