"""The metrics of a run: `metrics.jsonl`, and the sums of step metrics between two evaluations."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from charlm.config.schema import Training
from charlm.errors import CheckpointError
from charlm.model.language_model import LanguageModel, named_weights
from charlm.runs.checkpoint import _write
from charlm.runs.verify import _DAMAGED, _SAVE_REMEDY, _checked, _LineFacts
from charlm.storage.atomic import append_line
from charlm.storage.untrusted import parse_json
from charlm.training.clipping import gradient_group, group_norms
from charlm.training.loop import Progress


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to `metrics.jsonl`.

    Raises:
        CheckpointError: It cannot be written.
    """
    append_line(
        folder / "metrics.jsonl", json.dumps(line), error_type=CheckpointError, remedy=_SAVE_REMEDY
    )


def cut_metrics(folder: Path, *, after_step: int, halvings: int) -> None:
    """Drop the lines of steps, and of halvings, after those that training resumes from: they will come again."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        lines = path.read_bytes().split(b"\n")
        kept = [line for line in lines if _is_of(line, after_step, halvings)]
        _write(path, b"".join(line + b"\n" for line in kept))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl`; those that are damaged are left out."""
    path, lines = folder / "metrics.jsonl", []
    if path.is_file():
        for line in path.read_bytes().split(b"\n"):
            with suppress(*_DAMAGED):
                lines.append(_checked(parse_json(line), _LineFacts))
    return lines


def _is_of(line: bytes, last_step: int, halvings: int) -> bool:
    """Return whether a line was written by these steps and halvings; not if a crash cut it short, or it is damaged."""
    try:
        facts = parse_json(line)
        return bool(facts["step"] <= last_step and facts.get("halvings", 0) <= halvings)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


class _Totals:
    """What steps told, summed up where it is, so that no step waits for the device."""

    def __init__(self, model: LanguageModel) -> None:
        self.groups = [gradient_group(name) for name, _ in named_weights(model)]
        zero = next(model.parameters()).new_zeros((), dtype=torch.float64)
        self.loss = self.norm = self.norm_max = self.squares = self.by_norm = self.by_value = zero
        self.steps = 0

    def add(self, progress: Progress) -> None:
        """Add a step."""
        clipping = progress.clipping
        self.loss = self.loss + progress.loss
        self.norm = self.norm + clipping.norm
        self.norm_max = torch.maximum(self.norm_max, clipping.norm)
        self.squares = self.squares + clipping.norms.double().square()  # Of each parameter tensor.
        if clipping.by_norm is not None:
            self.by_norm = self.by_norm + clipping.by_norm
        if clipping.by_value is not None:
            self.by_value = self.by_value + clipping.by_value
        self.steps += 1

    def metrics(self, section: Training) -> dict[str, Any]:
        """Return what a line of metrics.jsonl tells of the steps; a share is None where nothing limits."""
        return {
            "training_loss_nats": float(self.loss) / self.steps,
            "gradient_norm": float(self.norm) / self.steps,
            "gradient_norm_max": float(self.norm_max),
            "clipped_share": None if section.clipnorm is None else float(self.by_norm) / self.steps,
            "clipped_by_value_share": None
            if section.clipvalue is None
            else float(self.by_value) / self.steps,
            "gradient_norms": group_norms((self.squares / self.steps).sqrt(), self.groups),
        }
