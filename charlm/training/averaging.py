"""Averages of a model's weights over its training steps, for scoring and saving."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.training import Training as TrainingSection
from charlm.model.language_model import named_weights


class Average:
    """A mean of the trained weights. Training itself does not use it.

    `exponential`: an exponential moving average (Polyak averaging as in Kingma and Ba 2015,
    section 7.2). The decay is 1 - 1 / average_steps, but at most (1 + n) / (10 + n) after n
    updates, so that early weights are forgotten quickly.

    `triggered`: the plain mean of the weights after every step since the trigger. The trigger is a
    validation loss above the lowest one of those at least `trigger_evaluations` evaluations before
    it. This is NT-ASGD (Merity et al. 2018, arXiv:1708.02182, algorithm 1), whose n is smaller by
    one, and which requires SGD; here any optimizer can take the steps.

    `none`: there is no mean.
    """

    def __init__(self, model: nn.Module, section: TrainingSection) -> None:
        """Create an average without weights.

        Args:
            model: Model whose trained weights are averaged; changed only inside `applied`.
            section: Kind of average and its options.
        """
        self._parameters: dict[str, Tensor] = {
            name: tensor for name, tensor in named_weights(model) if tensor.requires_grad
        }
        self._section = section
        self._running = section.averaging == "exponential"
        self._losses: list[float] = []  # Validation losses until the trigger.
        self._count = 0
        self._means: list[Tensor] = []

    @property
    def weights(self) -> dict[str, Tensor]:
        """The mean of each weight by name; empty before the first update."""
        return dict(zip(self._parameters, self._means, strict=True)) if self._count else {}

    @torch.no_grad()
    def update(self) -> None:
        """Include the model's current weights in the mean. Called after each step."""
        if not self._running:
            return
        parameters = list(self._parameters.values())
        if self._count == 0:
            self._means = [tensor.detach().clone() for tensor in parameters]
        else:
            torch._foreach_lerp_(self._means, parameters, self._weight_of_newest())
        self._count += 1

    def record_validation_loss(self, loss: float) -> None:
        """Check the trigger of the `triggered` mean. Called after each evaluation."""
        if self._section.averaging == "triggered" and not self._running:
            self._losses.append(loss)
            earlier = self._losses[: -self._section.trigger_evaluations]
            self._running = bool(earlier) and loss > min(earlier)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Copy the mean into the model, and the trained weights back at the end.

        Without a mean the model stays as it is.
        """
        if not self._count:
            yield
            return
        trained = [tensor.detach().clone() for tensor in self._parameters.values()]
        try:
            self._copy(self._means)
            yield
        finally:
            self._copy(trained)

    def json_state(self) -> dict[str, Any]:
        """Return the state without the weights, in the types of JSON."""
        return {"running": self._running, "count": self._count, "losses": list(self._losses)}

    def restore(self, state: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Continue from an earlier `json_state` and its `weights`."""
        self._running = state["running"]
        self._count = state["count"]
        self._losses = list(state["losses"])
        if self._count:
            self._means = [
                weights[name].to(tensor, copy=True) for name, tensor in self._parameters.items()
            ]

    def _weight_of_newest(self) -> float:
        if self._section.averaging == "triggered":
            return 1 / (self._count + 1)
        return 1 - min(1 - 1 / self._section.average_steps, (1 + self._count) / (10 + self._count))

    @torch.no_grad()
    def _copy(self, weights: list[Tensor]) -> None:
        torch._foreach_copy_(list(self._parameters.values()), weights)
