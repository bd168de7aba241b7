"""The metrics of a run: metrics.jsonl, and sums of step metrics between two evaluations."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from charlm.config.training import Training as TrainingSection
from charlm.errors import CheckpointError
from charlm.model.language_model import named_weights
from charlm.runs.experiment import Experiment
from charlm.runs.files import CONTINUE, METRICS, write_file
from charlm.runs.verify import PARSE_ERRORS, MetricsFacts, validate_facts
from charlm.storage.atomic import append_line
from charlm.storage.untrusted import parse_json
from charlm.training.clipping import gradient_group, group_norms
from charlm.training.loop import Progress
from charlm.training.loss import Score

# A validation loss that rises by a smaller fraction is no sign of overfitting.
_NOISE = 0.005
# A line of another program, or one that was edited, may lack some of them.
_COMPARED_FIELDS = {"loss_nats", "is_best", "epochs", "training_loss_nats"}


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
        self._loss = zero
        self._norm = zero
        self._max_norm = zero
        self._squared_norms: Tensor = zero  # (tensors,) after the first step.
        self._clipped_by_norm = zero
        self._clipped_by_value = zero

    def add(self, progress: Progress) -> None:
        """Add a step."""
        clipping = progress.clipping
        self._steps += 1
        self._loss = self._loss + progress.loss
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
            "training_loss_nats": float(self._loss) / self._steps,
            "gradient_norm": float(self._norm) / self._steps,
            "gradient_norm_max": float(self._max_norm),
            "clipped_share": None if section.clipnorm is None else by_norm,
            "clipped_by_value_share": None if section.clipvalue is None else by_value,
            "gradient_norms": group_norms((self._squared_norms / self._steps).sqrt(), self._groups),
        }


def evaluation_metrics(
    experiment: Experiment,
    score: Score | None,
    *,
    fraction_scored: float,
    evaluation_seconds: float,
    is_best: bool,
) -> dict[str, Any]:
    """Return the line of metrics.jsonl about an evaluation.

    Args:
        experiment: The training run, with the metrics of the steps since the previous evaluation.
        score: Score on the validation split; None without one.
        fraction_scored: Fraction of the validation split that was scored.
        evaluation_seconds: Duration of the evaluation.
        is_best: Whether the model is the best so far.
    """
    state = experiment.state
    metrics = {
        "step": state.step,
        "epochs": round(state.epochs, 4),
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "evaluation_seconds": round(evaluation_seconds, 3),
        **(state.due_metrics or {}),
        "is_best": is_best,
    }
    if score is not None:
        metrics |= _score_metrics(experiment, score, fraction_scored)
    return metrics


def _score_metrics(
    experiment: Experiment, score: Score, fraction: float
) -> dict[str, float | None]:
    """Return the scores; of a part of the split, as if the rest had the same loss."""
    counts = experiment.tokens["valid"].counts
    scores: dict[str, float | None] = {"loss_nats": score.loss_nats}
    if not experiment.config.task.has_labels:
        scores["perplexity"] = score.perplexity
    if experiment.config.task.has_pairs:  # What is predicted has no characters of its own.
        scores["accuracy"] = score.correct / max(score.tokens, 1)
    else:
        restoration = experiment.valid_restoration
        nats = score.nats / fraction
        scores["bits_per_character"] = restoration.bits_per(counts.characters, nats)
        scores["bits_per_byte"] = restoration.bits_per(counts.bytes, nats)
    return scores | {"unknown_share": counts.unknown_share, "validation_share": fraction}


def overfitting(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line if the last evaluation is not the best one: which step is kept, and why.

    Args:
        history: Lines of metrics.jsonl.
    """
    scored = [line for line in history if line.keys() >= _COMPARED_FIELDS]
    best = next((line for line in reversed(scored) if line["is_best"]), None)
    if best is None or best is scored[-1]:
        return []
    last = scored[-1]
    kept = f"best/ is the model of step {best['step']:,}"
    losses = f"from {best['loss_nats']:.4f} to {last['loss_nats']:.4f} nats"
    # Before the second pass, no text has been read twice: the loss rises for another reason.
    is_memorizing = last["epochs"] > 1 and last["training_loss_nats"] < best["training_loss_nats"]
    if is_memorizing and last["loss_nats"] > (1 + _NOISE) * best["loss_nats"]:
        return [
            f"the model overfits: since step {best['step']:,} the validation loss rose {losses}, "
            f"while the training loss fell; {kept}; for a better one, use more text, more dropout "
            "(model.output_dropout) or a smaller network"
        ]
    return [f"since step {best['step']:,} the validation loss rose {losses}; {kept}"]


def append_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Append a line to metrics.jsonl.

    Raises:
        CheckpointError: The file cannot be written.
    """
    append_line(folder / METRICS, json.dumps(metrics), error_type=CheckpointError, remedy=CONTINUE)


def truncate_metrics(folder: Path, *, after_step: int, halvings: int) -> None:
    """Remove the lines of steps and halvings that training is about to repeat, and damaged lines.

    Args:
        folder: Run folder.
        after_step: Step from which training continues.
        halvings: Number of halvings at that step.

    Raises:
        CheckpointError: The file cannot be written.
    """
    path = folder / METRICS
    if path.is_file():
        lines = path.read_bytes().split(b"\n")
        kept = [line for line in lines if _is_within(line, after_step, halvings)]
        write_file(path, b"".join(line + b"\n" for line in kept))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without damaged ones."""
    path = folder / METRICS
    if not path.is_file():
        return []
    metrics = []
    for line in path.read_bytes().split(b"\n"):
        with suppress(*PARSE_ERRORS):
            metrics.append(validate_facts(parse_json(line), MetricsFacts))
    return metrics


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of metrics.jsonl in which the numbers of a mapping have names of their own.

    >>> flat_metrics({"step": 6, "gradient_norms": {"layer_0": 0.5}})
    {'step': 6, 'gradient_norms/layer_0': 0.5}
    """
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        inner = value if isinstance(value, dict) else None
        flat |= {name: value} if inner is None else {f"{name}/{key}": inner[key] for key in inner}
    return flat


def _is_within(line: bytes, last_step: int, halvings: int) -> bool:
    """Return whether a line is complete and was written within these steps and halvings."""
    try:
        metrics = parse_json(line)
        return bool(metrics["step"] <= last_step and metrics.get("halvings", 0) <= halvings)
    except PARSE_ERRORS:
        return False
