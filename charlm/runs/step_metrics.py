"""Metrics of the steps between two evaluations."""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.training import Training as TrainingSection
from charlm.model.language_model import named_weights
from charlm.storage.tensors import Tensors
from charlm.training.clipping import gradient_group, group_norms
from charlm.training.loop import Progress

_SCALARS = ("steps", "tokens", "nats", "norm", "max_norm", "clipped_by_norm", "clipped_by_value")


class StepMetrics:
    """Metrics of the steps since the last evaluation, kept on the device to avoid synchronizing.

    They are sums over the steps, except `max_norm`, the greatest norm of the gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        """Start with no steps.

        Args:
            model: The model that is trained.
        """
        self._groups = [gradient_group(name) for name, _ in named_weights(model)]
        self._zero = next(model.parameters()).new_zeros((), dtype=torch.float64)
        self._values: dict[str, Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Start again with no steps."""
        self._values = {name: self._zero.clone() for name in _SCALARS}
        self._values["squared_norms"] = self._zero.repeat(len(self._groups))

    def add(self, progress: Progress) -> None:
        """Add a step."""
        clipping = progress.clipping
        increments: dict[str, Tensor | int | None] = {
            "steps": 1,
            "tokens": progress.tokens,
            "nats": progress.loss.double() * progress.tokens,
            "norm": clipping.norm,
            "squared_norms": clipping.norms.double().square(),
            "clipped_by_norm": clipping.by_norm,
            "clipped_by_value": clipping.by_value,
        }
        for name, increment in increments.items():
            if increment is not None:
                self._values[name] = self._values[name] + increment
        self._values["max_norm"] = torch.maximum(self._values["max_norm"], clipping.norm)

    def summary(self, section: TrainingSection, *, learning_rate: float) -> dict[str, Any]:
        """Return the fields of a line of metrics.jsonl that describe the steps.

        A fraction of clipped steps is None if `section` sets no such limit.
        """
        values = {name: float(self._values[name]) for name in _SCALARS}
        by_norm = values["clipped_by_norm"] / values["steps"]
        by_value = values["clipped_by_value"] / values["steps"]
        mean_squares = self._values["squared_norms"] / self._values["steps"]
        return {
            "learning_rate": learning_rate,
            "training_loss_nats": values["nats"] / values["tokens"],
            "gradient_norm": values["norm"] / values["steps"],
            "gradient_norm_max": values["max_norm"],
            "clipped_share": None if section.clipnorm is None else by_norm,
            "clipped_by_value_share": None if section.clipvalue is None else by_value,
            "gradient_norms": group_norms(mean_squares.sqrt(), self._groups),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return the metrics, to save them."""
        return {f"metrics.{name}": tensor for name, tensor in self._values.items()}

    def restore(self, tensors: Tensors) -> None:
        """Continue from saved metrics; from none with a checkpoint of an earlier version.

        Raises:
            RuntimeError: A tensor has another shape.
        """
        self.clear()
        for name, zero in self._values.items():
            if f"metrics.{name}" in tensors:
                self._values[name] = tensors[f"metrics.{name}"].to(zero).reshape_as(zero)
