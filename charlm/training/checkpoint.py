"""The run folder: config, tokenizer, weights, optimizer, generator states, position. Nothing in it is ever executed.

    runs/NAME/config.yaml       the resolved configuration
    runs/NAME/tokenizer.json    Hugging Face's format
    runs/NAME/corpus.json       what the parts of the corpus hold, and how often each token occurs in training
    runs/NAME/metrics.jsonl     a line an evaluation
    runs/NAME/best/, last/      state.json and the safetensors files that it names, each with its checksum

A checkpoint's files are named by their contents, and `state.json` is replaced last and in one step: at any instant it
names a whole checkpoint.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import charlm
from charlm.config import Config, dump, load_config
from charlm.data.tokenizer import Tokenizer, load_tokenizer
from charlm.data.windows import Position
from charlm.errors import CharlmError, CheckpointError
from charlm.files import writing
from charlm.training.averaging import Average
from charlm.training.loop import TrainingState

FORMAT = 1
Which = Literal["best", "last"]
Tensors = Mapping[str, Tensor]


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


def start_run(folder: Path, config: Config, tokenizer: Tokenizer, corpus: Mapping[str, Any]) -> None:
    """Make a run folder.

    Raises:
        CheckpointError: The folder has files in it already, or cannot be written.
    """
    check_new(folder)
    for name, text in (
        ("tokenizer.json", tokenizer.to_json()),
        ("corpus.json", json.dumps(corpus)),
        ("config.yaml", dump(config)),
    ):
        _write(folder / name, text.encode())


def check_new(folder: Path) -> None:
    """Raise CheckpointError if `folder` cannot become a new run folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        going_on = f", or go on with it: charlm train --resume {folder}" if (folder / "config.yaml").is_file() else ""
        raise CheckpointError(f"{folder}: is there already and not empty; give another --out{going_on}")


def load_run(folder: Path) -> tuple[Config, Tokenizer, dict[str, Any]]:
    """Return configuration, tokenizer and corpus facts of a run folder.

    Raises:
        CheckpointError: It is no run folder, or damaged.
    """
    if not (folder / "config.yaml").is_file():
        problem = "is no run folder (it has no config.yaml)" if folder.is_dir() else "no such run folder"
        raise CheckpointError(f"{folder}: {problem}; charlm train makes them under runs/")
    try:
        config = load_config(folder / "config.yaml")
        tokenizer = load_tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"), config.tokenizer)
        corpus = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; the run folder is damaged"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{folder}: damaged: {error}") from None
    except CharlmError as error:
        raise CheckpointError(f"{folder}: damaged: {error}") from None
    return config, tokenizer, corpus


def newest_run(root: Path) -> Path:
    """Return the run under `root` whose checkpoint was saved last.

    Raises:
        CheckpointError: There is none.
    """
    states = sorted(root.glob("*/last/state.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise CheckpointError(f"{root}/: holds no run with a checkpoint; train one: charlm train --config quickstart")
    return states[-1].parent.parent


def save_checkpoint(folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
    """Write a checkpoint into `folder`, then remove the files of the one before.

    Raises:
        CheckpointError: The folder cannot be written, or the disk is full; the checkpoint before is then still whole.
    """
    files = {}
    for name, group in tensors.items():
        data = safetensors.torch.save({key: tensor.detach().contiguous() for key, tensor in group.items()})
        digest = hashlib.sha256(data).hexdigest()
        files[name] = {"file": f"{name}-{digest[:12]}.safetensors", "sha256": digest}
        _write(folder / files[name]["file"], data)
    _write(folder / "state.json", json.dumps({"format": FORMAT, **state, "files": files}, indent=1).encode())
    kept = {entry["file"] for entry in files.values()}
    for old in folder.glob("*.safetensors"):
        if old.name not in kept:
            old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, *, only: str | None = None) -> Checkpoint:
    """Read a checkpoint and check every file against its checksum.

    Args:
        folder: `best/` or `last/` of a run.
        only: Read this file alone, such as `weights`.

    Raises:
        CheckpointError: It is missing, cut short, changed, or of a newer format.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"{folder}: checkpoint format {state['format']}; this charlm reads {FORMAT}: update it"
            )
        names = [only] if only else list(state["files"])
        return Checkpoint(folder, state, {name: _read(folder, **state["files"][name]) for name in names})
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: is missing, so there is no checkpoint to load; {_REMEDY}") from None
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}; {_REMEDY}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'state.json'}: damaged: {error}; {_REMEDY}") from None


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by name; one that is shared comes once."""
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


def put_weights(model: nn.Module, weights: Tensors, folder: Path) -> None:
    """Copy weights into a model.

    Raises:
        CheckpointError: Names or shapes are not those of the model.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(
            f"{folder}: the weights do not fit config.yaml: {odd[0]} is {found.get(odd[0])}, should be "
            f"{wanted.get(odd[0])}; take both from one run"
        )
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(weights[name])


def state_facts(state: TrainingState, average: Average) -> dict[str, Any]:
    """Return what JSON can hold of a training's state."""
    plain = {field: getattr(state, field) for field in (*_PLAIN_FIELDS, "stalls")}
    return {
        "charlm": charlm.__version__, **plain, "position": asdict(state.position), "average": average.facts(),
    }  # fmt: skip


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Average, state: TrainingState, device: torch.device
) -> dict[str, Tensor]:
    """Return the tensors that training goes on from, beside the weights.

    `raw.NAME`: of the model, where their mean is what is scored; `optimizer.PARAMETER.NAME`: of the optimizer;
    `state.LAYER.PART`: of the recurrence; `generator.DEVICE`: of torch's random generators, which dropout draws from.
    """
    own = weights_of(model)
    tensors = {f"raw.{name}": own[name] for name in average.weights}
    tensors |= {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items() if value is not None
    }  # fmt: skip
    for layer, parts in enumerate(state.states or ()):
        tensors |= {f"state.{layer}.{number}": part for number, part in enumerate(parts)}
    tensors["generator.cpu"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def restore(
    saved: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    state: TrainingState,
    device: torch.device,
) -> None:
    """Put model, optimizer, average, state and torch's generators to where they were when `saved` was written.

    Raises:
        CheckpointError: The checkpoint is of another model, or has no part to go on from.
    """
    weights = saved.tensors["weights"]
    put_weights(model, weights, saved.folder)
    try:
        tensors = saved.tensors["training"]
        if "average" in saved.state:  # A checkpoint without it, nor stalls, is of before there were such.
            average.restore(saved.state["average"], weights)
            state.stalls = saved.state["stalls"]
        own = {name: tensors[f"raw.{name}"] for name in average.weights}
        put_weights(model, weights | own, saved.folder)
        _put_optimizer(optimizer, tensors)
        torch.set_rng_state(tensors["generator.cpu"])
        if device.type == "cuda" and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"], device)
        for field in _PLAIN_FIELDS:
            setattr(state, field, saved.state[field])
        state.position = Position(**saved.state["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{saved.folder}: cannot be resumed: {error}; {_REMEDY}") from None
    layers: dict[int, list[Tensor]] = {}
    for key in sorted(key for key in tensors if key.startswith("state.")):
        layers.setdefault(int(key.split(".")[1]), []).append(tensors[key].to(device))
    state.states = tuple(tuple(layers[layer]) for layer in sorted(layers)) or None


def _put_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key in tensors:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensors[key]
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to `metrics.jsonl`."""
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def cut_metrics(folder: Path, *, after_step: int) -> None:
    """Drop the lines of steps after the one that training resumes from: they will come again."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _step_of(line) <= after_step]
        _write(path, "".join(f"{line}\n" for line in kept).encode())


_PLAIN_FIELDS = ("step", "seconds", "tokens", "epochs", "best_loss_nats", "evaluations_since_best")
_REMEDY = "train again, or take the folder from a backup"


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # A line that a crash cut short.


def _write(path: Path, data: bytes) -> None:
    remedy = "the checkpoint before is whole; free the disk or mend the folder, then go on with --resume"
    with writing(path, kind=CheckpointError, remedy=remedy) as file:
        file.write(data)


def _read(folder: Path, file: str, sha256: str) -> dict[str, Tensor]:
    path = folder / Path(file).name  # A name, never a way out of the folder.
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path}: damaged or cut short: its checksum is not the one it was saved with; {_REMEDY}")
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: is no safetensors file: {error}; {_REMEDY}") from None
