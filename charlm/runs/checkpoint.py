"""Save and load checkpoints: weights, optimizer state, random generators and position."""

import hashlib
import math
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from charlm.config.schema import Model as ModelSection
from charlm.data.windows import Position
from charlm.errors import CheckpointError
from charlm.model.language_model import LanguageModel, named_weights
from charlm.runs.verify import (
    _DAMAGED,
    _MOST_BYTES,
    _REMEDY,
    _SAVE_REMEDY,
    Tensors,
    _check_run,
    _checked,
    _digest,
    _run_checksums,
    _sealed,
    _StateFacts,
)
from charlm.storage.atomic import atomic_write, link_file, remove_temporary_files
from charlm.storage.tensors import read_tensors
from charlm.storage.untrusted import one_line, parse_json, read_regular_file
from charlm.training.averaging import Average
from charlm.training.loop import TrainingState
from charlm.training.process_group import SINGLE_PROCESS, Group
from charlm.version import VERSION

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

FORMAT = 2
Which = Literal["best", "last"]


@dataclass(frozen=True)
class Checkpoint:
    """One saved moment of a training.

    Attributes:
        folder: Where it stands.
        state: What JSON can hold: step, seconds, position, scores.
        tensors: By file: `weights`, those that were scored, and in `last` also `training`.
    """

    folder: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def forget_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def save_checkpoint(folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
    """Write a checkpoint into `folder`, then remove the files of the one before, and what a killed save left.

    A file that a checkpoint beside holds already is given a second name instead of being written again.

    Raises:
        CheckpointError: The folder cannot be written, or the disk is full; the checkpoint before is then still whole.
    """
    try:
        checksums = _run_checksums(folder.parent)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; {_SAVE_REMEDY}"
        ) from None
    files = {}
    for name, group in tensors.items():
        data = safetensors.torch.save(
            {key: tensor.detach().contiguous() for key, tensor in group.items()}
        )
        digest = hashlib.sha256(data).hexdigest()
        files[name] = {"file": f"{name}-{digest[:12]}.safetensors", "sha256": digest}
        if not _is_kept(folder / files[name]["file"], data):
            _write(folder / files[name]["file"], data)
    facts = {"format": FORMAT, **state, "run": checksums, "files": files}
    _write(folder / "state.json", _sealed(facts))
    kept = {entry["file"] for entry in files.values()}
    for old in folder.glob("*.safetensors"):
        if old.name not in kept:
            with suppress(OSError):  # What was to be saved is; the next save tries again.
                old.unlink(missing_ok=True)
    remove_temporary_files(folder)


def load_checkpoint(folder: Path, *, only: str | None = None) -> Checkpoint:
    """Read a checkpoint and check every file against its checksum.

    Args:
        folder: `best/` or `last/` of a run.
        only: Read this file alone, such as `weights`.

    Raises:
        CheckpointError: It is missing, cut short, changed, or of a newer format.
    """
    try:
        state = _read_state(folder)
        _check_run(folder, state.get("run", {}))
        names = [only] if only else list(state["files"])
        return Checkpoint(
            folder, state, {name: _read(folder, **state["files"][name]) for name in names}
        )
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename}: is missing, so there is no checkpoint to load; {_REMEDY}"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; {_REMEDY}"
        ) from None
    except _DAMAGED as error:
        problem = one_line(str(error))
        raise CheckpointError(f"{folder / 'state.json'}: damaged: {problem}; {_REMEDY}") from None


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by name; one that is shared comes once."""
    return {name: tensor.detach() for name, tensor in named_weights(model)}


def put_weights(model: nn.Module, weights: Tensors, folder: Path) -> None:
    """Copy weights into a model.

    Raises:
        CheckpointError: Names or shapes are not those of the model.
    """
    _check_shapes(model, weights, folder)
    with torch.no_grad():
        for name, tensor in named_weights(model):
            tensor.copy_(weights[name])


def state_facts(state: TrainingState, average: Average) -> dict[str, Any]:
    """Return what JSON can hold of a training's state."""
    plain = {field: getattr(state, field) for field in _PLAIN_FIELDS}
    return {
        "charlm": VERSION,
        **plain,
        "position": asdict(state.position),
        "average": average.json_state(),
    }


def training_tensors(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    state: TrainingState,
    device: torch.device,
    group: Group = SINGLE_PROCESS,
) -> dict[str, Tensor]:
    """Return the tensors that training goes on from, beside the weights; the group's processes call it together.

    `raw.NAME`: of the model, where their mean is what is scored; `optimizer.PARAMETER.NAME`: of the optimizer;
    `state.LAYER.PART`: of the recurrence, all columns; `generator.DEVICE`: of torch's random generators, which dropout
    draws from, `generator.DEVICE.NUMBER` those of further processes.
    """
    tensors: dict[str, Tensor] = {}
    for layer, parts in enumerate(state.states or ()):
        tensors |= {
            f"state.{layer}.{number}": group.gather_rows(part, state.global_batch_size)
            for number, part in enumerate(parts)
        }
    generators = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(device)
    for kind, generator in generators.items():
        tensors |= {
            _generator(kind, number): each
            for number, each in enumerate(group.all_gather(generator))
        }
    if not group.is_first:
        return tensors
    own = weights_of(model)
    tensors |= {f"raw.{name}": own[name] for name in average.weights}
    tensors |= {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items()
        if value is not None
    }
    return tensors


def _generator(kind: str, number: int) -> str:
    return f"generator.{kind}.{number}" if number else f"generator.{kind}"


def restore(
    saved: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    state: TrainingState,
    device: torch.device,
    group: Group = SINGLE_PROCESS,
) -> None:
    """Put model, optimizer, average, state and torch's generators to where they were when `saved` was written.

    The generators of a process that was not there then are left alone.

    Raises:
        CheckpointError: The checkpoint is of another model, or has no part to go on from.
    """
    weights = saved.tensors["weights"]
    put_weights(model, weights, saved.folder)
    try:
        tensors = saved.tensors["training"]
        average.restore(saved.state["average"], weights)
        own = {name: tensors[f"raw.{name}"] for name in average.weights}
        put_weights(model, weights | own, saved.folder)
        _put_optimizer(optimizer, tensors)
        if (generator := _generator("cpu", group.rank)) in tensors:
            torch.set_rng_state(tensors[generator])
        if device.type == "cuda" and (generator := _generator("cuda", group.rank)) in tensors:
            torch.cuda.set_rng_state(tensors[generator], device)
        for field in _PLAIN_FIELDS:
            setattr(state, field, saved.state[field])
        state.position = Position(**saved.state["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{saved.folder}: cannot be resumed: {error}; {_REMEDY}") from None
    layers: dict[int, list[Tensor]] = {}
    for key in sorted(key for key in tensors if key.startswith("state.")):
        rows = tensors[key]
        state.global_batch_size = len(rows)
        part = rows[group.shard.columns(len(rows))]
        layers.setdefault(int(key.split(".")[1]), []).append(
            (part if len(part) else rows[:1]).to(device)
        )
    state.states = tuple(tuple(layers[layer]) for layer in sorted(layers)) or None


def _put_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key in tensors:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensors[key]
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


_PLAIN_FIELDS = (
    "step",
    "seconds",
    "tokens",
    "epochs",
    "best_loss_nats",
    "evaluations_since_best",
    "stalls",
    "halvings",
)
# What a checkpoint of a format lacks that the next one has.
_NEWER_FIELDS: dict[int, dict[str, Any]] = {
    1: {"average": {"running": False, "count": 0, "losses": []}, "stalls": 0, "halvings": 0}
}


def _migrated(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a checkpoint's state in today's format.

    Raises:
        CheckpointError: It is newer, or older than any that is known.
    """
    found = state["format"]
    if found not in (*_NEWER_FIELDS, FORMAT):
        newer = isinstance(found, int) and found > FORMAT
        raise CheckpointError(
            f"{folder}: checkpoint format {found!r:.40}; this charlm reads {min(_NEWER_FIELDS)} to {FORMAT}: "
            + (
                "update it"
                if newer
                else f"go on with the charlm that wrote it, {state.get('charlm', 'unknown')!s:.40}"
            )
        )
    for older in range(found, FORMAT):
        state = _NEWER_FIELDS[older] | state | {"format": older + 1}
    return state


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path, error_type=CheckpointError, remedy=_SAVE_REMEDY) as file:
        file.write(data)


def _is_kept(path: Path, data: bytes) -> bool:
    """Return whether a file named by its contents is there, if need be as a second name of one in a folder beside."""
    for known in (path, *path.parent.parent.glob(f"*/{path.name}")):
        with suppress(OSError):  # It will be written instead.
            if known.read_bytes() == data:
                if known != path:
                    link_file(known, path)
                return True
    return False


def _read_state(folder: Path) -> dict[str, Any]:
    """Return the state of a checkpoint in today's format, its checksum verified, unless it is of before there was one.

    Raises:
        OSError: It cannot be read; or one of `_DAMAGED`: it is damaged.
    """
    found = parse_json(
        read_regular_file(folder / "state.json", max_bytes=_MOST_BYTES["state.json"])
    )
    digest = found.pop("sha256", None)
    state = _migrated(found, folder)
    if digest is not None and digest != _digest(found):
        raise ValueError("its checksum is not the one it was saved with")
    return _checked(state, _StateFacts)


def _read(folder: Path, file: str, sha256: str) -> dict[str, Tensor]:
    if not file.isprintable():
        raise ValueError(f"it names a file {file!r}")
    path = folder / Path(file).name  # A name, never a way out of the folder.
    try:
        data = read_regular_file(path, max_bytes=_MOST_BYTES["safetensors"])
    except MemoryError:
        raise CheckpointError(
            f"{path}: is larger than the memory that is free; {_REMEDY}"
        ) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"{path}: damaged or cut short: its checksum is not the one it was saved with; {_REMEDY}"
        )
    try:
        return read_tensors(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; {_REMEDY}") from None


def check_weights(section: ModelSection, vocabulary_size: int, saved: Checkpoint) -> None:
    """Make sure that weights are those of such a model before it is made: its size is what a configuration claims.

    Raises:
        CheckpointError: Names or shapes are not those of the model, or a weight is not a finite number.
    """
    weights, layers = saved.tensors.get("weights", {}), len(section.hidden_sizes)
    if section.cell.kind != "bag" and layers > len(weights):
        raise CheckpointError(
            f"{saved.folder}: the weights do not fit config.yaml: {len(weights)} tensors are too few for {layers} "
            "layers; take both from one run"
        )
    with torch.device("meta"):  # Shapes without memory.
        _check_shapes(LanguageModel(section, vocabulary_size), weights, saved.folder)
    for name, tensor in weights.items():
        if tensor.dtype not in _FLOATS or not all(map(math.isfinite, _extremes(tensor))):
            raise CheckpointError(
                f"{saved.folder}: {one_line(name)} holds what is no finite number: the training has diverged, or the "
                "file is none of ours; train again"
            )


def _extremes(tensor: Tensor) -> list[float]:
    """Return the least and the largest number, NaN if there is one; without a copy, as `isfinite` makes."""
    return [float(end) for end in tensor.aminmax()] if tensor.numel() else []


def _check_shapes(model: nn.Module, weights: Tensors, folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in named_weights(model)}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        odd = sorted(
            name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
        )
        raise CheckpointError(
            f"{folder}: the weights do not fit config.yaml: {one_line(odd[0])} is {found.get(odd[0])}, should be "
            f"{wanted.get(odd[0])}; take both from one run"
        )
