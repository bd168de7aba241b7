"""The complete state of a training as a checkpoint, from which training resumes bit for bit."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from charlm.config.training import Training as TrainingSection
from charlm.data.windows.window import Position
from charlm.errors import CheckpointError
from charlm.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    weights_of,
)
from charlm.runs.experiment import Experiment
from charlm.runs.files import CONTINUE, RESTORE
from charlm.runs.metrics import truncate_metrics
from charlm.storage.tensors import Tensors
from charlm.training.devices import precision_name
from charlm.training.loop import TrainingState
from charlm.version import VERSION

# Fields of TrainingState that are saved as they are.
_SCALARS = (
    "step",
    "seconds",
    "tokens",
    "epochs",
    "best_loss_nats",
    "evaluations_since_best",
    "stalls",
    "halvings",
    "due_metrics",
    "validation_part",
)


def save_snapshot(
    experiment: Experiment, name: Literal["last", "good"], *, remedy: str = CONTINUE
) -> None:
    """Write the state of a training as checkpoint `name`.

    All processes of a group call this together; the first one writes.

    Raises:
        CheckpointError: The folder cannot be written; the message ends with `remedy`.
    """
    training = training_tensors(experiment)
    if experiment.group.is_first:
        save_checkpoint(
            experiment.folder / name,
            state_facts(experiment),
            {"weights": scored_weights(experiment), "training": training},
            remedy=remedy,
        )


def rewind(experiment: Experiment, saved: Checkpoint) -> None:
    """Return to the state of a checkpoint, and remove the later lines of metrics.jsonl.

    Raises:
        CheckpointError: The checkpoint is of another model, or cannot be resumed from.
    """
    group = experiment.group
    state = experiment.state
    if not group.is_first:  # Every process drops out different units.
        seeds = np.random.SeedSequence((experiment.config.training.seed, group.rank))
        torch.manual_seed(seeds.generate_state(1)[0])
    _restore(experiment, saved)
    if group.is_first:
        truncate_metrics(experiment.folder, after_step=state.step, halvings=state.halvings)


def has_ended(folder: Path, section: TrainingSection) -> bool:
    """Return whether the last checkpoint of a run is that of a training that came to its end.

    Raises:
        CheckpointError: The checkpoint cannot be read.
    """
    saved = load_checkpoint(folder / "last", only="weights").state
    return TrainingState(**{field: saved[field] for field in _SCALARS}).has_ended(section)


def scored_weights(experiment: Experiment) -> dict[str, Tensor]:
    """Return the weights that are scored: the average, where there is one."""
    return weights_of(experiment.model) | experiment.average.weights


def state_facts(experiment: Experiment) -> dict[str, Any]:
    """Return the facts about a training for state.json."""
    state = experiment.state
    return {
        "charlm": VERSION,
        "precision": precision_name(experiment.hardware.precision),
        "device": experiment.hardware.device.type,
        "cores": torch.get_num_threads() * experiment.group.size,
        "budget": dict([experiment.config.training.budget]),
        **{field: getattr(state, field) for field in _SCALARS},
        "position": asdict(state.position),
        "average": experiment.average.json_state(),
    }


def training_tensors(experiment: Experiment) -> dict[str, Tensor]:
    """Return the tensors, beside the scored weights, that training resumes from.

    All processes of a group call this together; the first one needs the result.

    Returns:
        `raw.NAME`: weights of the model whose average is scored.
        `optimizer.PARAMETER.NAME`: state of the optimizer.
        `metrics.NAME`: metrics of the steps since the last evaluation.
        `state.LAYER.PART`: state of the recurrence, (batch, ...), of all processes.
        `generator.DEVICE`: state of torch's random generator, from which dropout draws;
        `generator.DEVICE.RANK` in processes other than the first.
    """
    tensors = _recurrent_tensors(experiment) | _generator_tensors(experiment)
    if not experiment.group.is_first:
        return tensors
    weights = weights_of(experiment.model)
    tensors |= {f"raw.{name}": weights[name] for name in experiment.average.weights}
    tensors |= experiment.step_metrics.tensors()
    tensors |= {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in experiment.optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }
    return tensors


def _recurrent_tensors(experiment: Experiment) -> dict[str, Tensor]:
    state = experiment.state
    group = experiment.group
    return {
        f"state.{layer}.{number}": group.gather_rows(part, state.global_batch_size)
        for layer, parts in enumerate(state.states or ())
        for number, part in enumerate(parts)
    }


def _generator_tensors(experiment: Experiment) -> dict[str, Tensor]:
    generators = {"cpu": torch.get_rng_state()}
    if experiment.hardware.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(experiment.hardware.device)
    return {
        _generator_name(kind, rank): tensor
        for kind, generator in generators.items()
        for rank, tensor in enumerate(experiment.group.all_gather(generator))
    }


def _generator_name(kind: str, rank: int) -> str:
    return f"generator.{kind}.{rank}" if rank else f"generator.{kind}"


def _restore(experiment: Experiment, saved: Checkpoint) -> None:
    """Restore model, optimizer, average, random generators and progress from a checkpoint.

    The random generator of a process that the saved training did not have stays as it is.

    Raises:
        CheckpointError: The checkpoint is of another model, or cannot be resumed from.
    """
    weights = saved.weights
    average = experiment.average
    load_weights(experiment.model, weights, saved.folder)
    try:
        tensors = saved.tensors["training"]
        average.restore(saved.state["average"], weights)
        raw = {name: tensors[f"raw.{name}"] for name in average.weights}
        load_weights(experiment.model, weights | raw, saved.folder)
        _restore_optimizer(experiment.optimizer, tensors)
        _restore_generators(experiment, tensors)
        experiment.step_metrics.restore(tensors)
        for field in _SCALARS:
            setattr(experiment.state, field, saved.state[field])
        experiment.state.position = Position(**saved.state["position"])
        _restore_recurrent_states(experiment, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{saved.folder}: cannot be resumed: {error}; {RESTORE}") from None


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key in tensors:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensors[key]
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _restore_generators(experiment: Experiment, tensors: Tensors) -> None:
    rank = experiment.group.rank
    device = experiment.hardware.device
    name = _generator_name("cpu", rank)
    if name in tensors:
        torch.set_rng_state(tensors[name])
    name = _generator_name("cuda", rank)
    if device.type == "cuda" and name in tensors:
        torch.cuda.set_rng_state(tensors[name], device)


def _restore_recurrent_states(experiment: Experiment, tensors: Tensors) -> None:
    """Restore this process's columns of the recurrent states."""
    state = experiment.state
    layers: dict[int, list[Tensor]] = {}
    for layer, number in _recurrent_places(tensors):
        rows = tensors[f"state.{layer}.{number}"]
        state.global_batch_size = len(rows)
        part = rows[experiment.group.shard.columns(len(rows))]
        # A process without a column of its own keeps one, for a batch has at least one.
        part = part if len(part) else rows[:1]
        part = part.to(experiment.hardware.device)
        # A training in bf16 may have saved the states.
        if experiment.hardware.precision == torch.float32:
            part = part.float()
        layers.setdefault(layer, []).append(part)
    state.states = tuple(tuple(parts) for parts in layers.values()) or None


def _recurrent_places(tensors: Tensors) -> list[tuple[int, int]]:
    """Return layer and number of each recurrent state, in numerical order: 10 follows 9."""
    names = (key.split(".") for key in tensors if key.startswith("state."))
    return sorted((int(layer), int(number)) for _, layer, number in names)
