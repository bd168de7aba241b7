"""The mean of a model's weights over the steps of its training: what is scored and kept in place of the last."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.schema import Training as TrainingSection
from charlm.model.language_model import named_weights


class Average:
    """A mean of the weights that training trains, which training itself does not see.

    `exponential`: recent weights count most (Polyak averaging as in Kingma and Ba 2015, section 7.2). The decay is
    1 - 1 / average_steps, and at most (1 + n) / (10 + n) with n weights in the mean, so that early ones are forgotten.

    `triggered`: the plain mean of the weights after every step since a validation loss was above the least of those
    `trigger_evaluations` or more evaluations before it. That is NT-ASGD (Merity et al. 2018, arXiv:1708.02182,
    algorithm 1), whose n is one less, and which asks for SGD; here any optimizer may take the steps.

    `none`: there is never a mean.
    """

    def __init__(self, model: nn.Module, section: TrainingSection) -> None:
        """Hold no weights yet.

        Args:
            model: Whose weights; in its place, never changed but inside `applied`.
            section: Which mean.
        """
        self._parameters: dict[str, Tensor] = {
            name: tensor for name, tensor in named_weights(model) if tensor.requires_grad
        }
        self._section = section
        self._running = section.averaging == "exponential"
        self._losses: list[float] = []  # Of validation, until the trigger.
        self._count = 0
        self._means: list[Tensor] = []

    @property
    def weights(self) -> dict[str, Tensor]:
        """The mean by name; nothing while there is none."""
        return dict(zip(self._parameters, self._means, strict=True)) if self._count else {}

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's weights into the mean, if it is kept: after each step."""
        if not self._running:
            return
        parameters = list(self._parameters.values())
        if self._count == 0:
            self._means = [tensor.detach().clone() for tensor in parameters]
        else:
            torch._foreach_lerp_(self._means, parameters, self._share_of_next())
        self._count += 1

    def record_validation_loss(self, loss: float) -> None:
        """Take note of a validation loss, which may start the mean of `triggered`: after each evaluation."""
        if self._section.averaging == "triggered" and not self._running:
            self._losses.append(loss)
            before = self._losses[: -self._section.trigger_evaluations]
            self._running = bool(before) and loss > min(before)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the mean into the model, in place, and the model's own weights back at the end; nothing without one."""
        parameters = list(self._parameters.values())
        own = [tensor.detach().clone() for tensor in parameters] if self._count else []
        try:
            self._copy(self._means)
            yield
        finally:
            self._copy(own)

    def json_state(self) -> dict[str, Any]:
        """Return what JSON can hold of it: all but the mean."""
        return {"running": self._running, "count": self._count, "losses": list(self._losses)}

    def restore(self, facts: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Go on from what `json_state` and `weights` were."""
        self._running, self._count, self._losses = (
            facts["running"],
            facts["count"],
            list(facts["losses"]),
        )
        if self._count:
            self._means = [
                weights[name].to(tensor, copy=True) for name, tensor in self._parameters.items()
            ]

    def _share_of_next(self) -> float:
        if self._section.averaging == "triggered":
            return 1 / (self._count + 1)
        return 1 - min(1 - 1 / self._section.average_steps, (1 + self._count) / (10 + self._count))

    @torch.no_grad()
    def _copy(self, weights: list[Tensor]) -> None:
        if self._count:
            torch._foreach_copy_(list(self._parameters.values()), weights)
