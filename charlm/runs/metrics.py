"""The metrics of a run: metrics.jsonl, and the unit of its scores."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.config.schema import Config
from charlm.config.tokenizer import Level
from charlm.errors import CheckpointError
from charlm.runs.files import CONTINUE, METRICS, write_file
from charlm.runs.verify import PARSE_ERRORS, MetricsFacts, validate_facts
from charlm.storage.atomic import append_line
from charlm.storage.untrusted import parse_json

if TYPE_CHECKING:  # They import torch.
    from charlm.runs.experiment import Experiment
    from charlm.training.loss import Score

# A validation loss that rises by a smaller fraction is no sign of overfitting.
_NOISE = 0.005
# A line of another program, or one that was edited, may lack some of them.
_COMPARED_FIELDS = {"loss_nats", "is_best", "epochs", "training_loss_nats"}


def evaluation_metrics(
    experiment: "Experiment",
    score: "Score | None",
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
    experiment: "Experiment", score: "Score", fraction: float
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


def level_of_scores(config: Config) -> Level | None:
    """Return the level of the tokens that are predicted; None for the targets of a task."""
    return None if config.task.has_pairs else config.tokenizer.level


def unit_of(level: Level | None) -> str:
    """Return the unit of the scores of a model, from `level_of_scores`."""
    return score_field(level).replace("_", " ") if level else "nats per target"


def score_field(level: Level | None) -> str:
    """Return the field of metrics.jsonl that has the score in this unit."""
    if level is None:
        return "loss_nats"
    return "perplexity" if level == "word" else "bits_per_character"


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
    change = f"rose {losses}"
    lowest = f"{best['loss_nats']:.4f}"
    if lowest == f"{last['loss_nats']:.4f}":
        change = f"has not fallen below {lowest} nats"
    return [f"since step {best['step']:,} the validation loss {change}; {kept}"]


def append_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Append a line to metrics.jsonl; JSON has no infinity, so an infinite perplexity is null.

    Raises:
        CheckpointError: The file cannot be written.
    """
    if metrics.get("perplexity") == math.inf:
        metrics = {**metrics, "perplexity": None}
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
            facts = validate_facts(parse_json(line), MetricsFacts)
            if facts.get("perplexity", 0.0) is None:
                facts["perplexity"] = math.inf
            metrics.append(facts)
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
