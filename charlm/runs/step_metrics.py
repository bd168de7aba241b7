"""Sums of step metrics between two evaluations."""

from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.training import Training as TrainingSection
from charlm.model.language_model import named_weights
from charlm.training.clipping import gradient_group, group_norms
from charlm.training.loop import Progress


class StepMetrics:
    """Sums of step metrics, kept on the device to avoid synchronizing."""

    def __init__(self, model: nn.Module) -> None:
        """Start with no steps.

        Args:
            model: The model that is trained.
        """
        zero = next(model.parameters()).new_zeros((), dtype=torch.float64)
        self._groups = [gradient_group(name) for name, _ in named_weights(model)]
        self._steps = 0
        self._tokens = 0
        self._nats = zero
        self._norm = zero
        self._max_norm = zero
        self._squared_norms: Tensor = zero  # (tensors,) after the first step.
        self._clipped_by_norm = zero
        self._clipped_by_value = zero

    def add(self, progress: Progress) -> None:
        """Add a step."""
        clipping = progress.clipping
        self._steps += 1
        self._tokens += progress.tokens
        self._nats = self._nats + progress.loss.double() * progress.tokens
        self._norm = self._norm + clipping.norm
        self._max_norm = torch.maximum(self._max_norm, clipping.norm)
        self._squared_norms = self._squared_norms + clipping.norms.double().square()
        if clipping.by_norm is not None:
            self._clipped_by_norm = self._clipped_by_norm + clipping.by_norm
        if clipping.by_value is not None:
            self._clipped_by_value = self._clipped_by_value + clipping.by_value

    def summary(self, section: TrainingSection, *, learning_rate: float) -> dict[str, Any]:
        """Return the fields of a line of metrics.jsonl that describe the steps.

        A fraction of clipped steps is None if `section` sets no such limit.
        """
        by_norm = float(self._clipped_by_norm) / self._steps
        by_value = float(self._clipped_by_value) / self._steps
        return {
            "learning_rate": learning_rate,
            "training_loss_nats": float(self._nats) / self._tokens,
            "gradient_norm": float(self._norm) / self._steps,
            "gradient_norm_max": float(self._max_norm),
            "clipped_share": None if section.clipnorm is None else by_norm,
            "clipped_by_value_share": None if section.clipvalue is None else by_value,
            "gradient_norms": group_norms((self._squared_norms / self._steps).sqrt(), self._groups),
        }
