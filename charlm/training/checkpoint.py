"""The run folder: config, tokenizer, weights, optimizer, generator states, position. Nothing in it is ever executed.

    runs/NAME/config.yaml       the resolved configuration
    runs/NAME/tokenizer.json    Hugging Face's format
    runs/NAME/corpus.json       what the parts of the corpus hold, and how often each token occurs in training
    runs/NAME/metrics.jsonl     a line an evaluation
    runs/NAME/best/, last/      state.json and the safetensors files that it names, each with its checksum
    runs/NAME/good/             the like: where a training that halves its rate goes back to when it diverges
    runs/NAME/tensorboard/      what metrics.jsonl tells, and samples, where a training is tracked
    runs/NAME/.lock             held by the process that trains

`state.json` holds the checksums of its own contents, of the tensors and of the first three files, which belong to them.
A checkpoint's files are named by their contents, and `state.json` is replaced last and in one step: at any instant it
names a whole checkpoint.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

import charlm
from charlm.config import Config, describe_mistakes, dump, load_config
from charlm.config import Model as ModelSection
from charlm.data.tokenizer import Tokenizer, load_tokenizer
from charlm.data.windows import Position
from charlm.errors import CharlmError, CheckpointError
from charlm.files import Lock, append_line, link_file, remove_leftovers, writing
from charlm.model.language_model import LanguageModel
from charlm.tensors import read_tensors
from charlm.training.averaging import Average
from charlm.training.group import ALONE, Group
from charlm.training.loop import TrainingState
from charlm.untrusted import MEGABYTE, Count, Facts, one_line, parse_json, parse_yaml, read_regular

FORMAT = 2
# What belongs to every checkpoint of a run, and the most bytes that a file may have: what is parsed takes many times so
# much memory.
_RUN_FILES = ("config.yaml", "tokenizer.json", "corpus.json")
_MOST_BYTES = {"tokenizer.json": 256 * MEGABYTE, "corpus.json": 64 * MEGABYTE, "state.json": 16 * MEGABYTE,
               "safetensors": 1 << 40}  # fmt: skip
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PATHS = ("text", "valid_text", "test_text")
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # What JSON of another shape leads to.
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}
Which = Literal["best", "last"]
Kept = Literal["best", "last", "good"]
Tensors = Mapping[str, Tensor]
LOCK, TRACKED = ".lock", "tensorboard"


class _CorpusFacts(Facts):
    """What corpus.json is like."""

    title: str = ""
    fingerprints: dict[str, str]
    train_token_counts: list[Count]


class _LineFacts(Facts):
    """What a line of metrics.jsonl is like."""

    step: Count


class _File(Facts):
    """A file that state.json names."""

    file: str
    sha256: str


class _StateFacts(Facts):
    """What state.json is like."""

    format: int
    step: Count = 0
    seconds: float = Field(0.0, ge=0)
    tokens: Count = 0
    epochs: float = Field(0.0, ge=0)
    best_loss_nats: float | None = None
    evaluations_since_best: Count = 0
    stalls: Count = 0
    halvings: Count = 0
    position: dict[str, Count] = Field({})
    run: dict[str, str] = Field({})
    files: dict[str, _File]


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
    """Make a run folder of one that holds a checkpoint: config.yaml comes last, so that what has one is whole.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    for name, text in (
        ("tokenizer.json", tokenizer.to_json()),
        ("corpus.json", json.dumps(corpus)),
        ("config.yaml", dump(config)),
    ):
        _write(folder / name, text.encode())


def check_new(folder: Path) -> None:
    """Raise CheckpointError if `folder` cannot become a new run folder."""
    if folder.exists() and (not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())):
        going_on = f", or go on with it: charlm train --resume {folder}" if (folder / "config.yaml").is_file() else ""
        raise CheckpointError(f"{folder}: is there already and not empty; give another --out{going_on}")


@contextmanager
def beginning(folder: Path) -> Iterator[None]:
    """Leave nothing in a run folder that cannot be begun, so that the same command can be given again."""
    try:
        yield
    except CheckpointError as error:
        forget_checkpoint(folder / "last")
        for name in _RUN_FILES:
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise CheckpointError(str(error).replace(_SAVE_REMEDY, "free the disk, or give another --out")) from None


def forget_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def lock_of(folder: Path) -> Lock:
    """Return the lock of a run folder, not taken yet."""
    return Lock(folder / LOCK)


def check_there(folder: Path) -> None:
    """Raise CheckpointError if a run folder that was there is not any more: it would be made anew without a config."""
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(f"{folder}: is no run folder any more, so nothing was saved; put it back, then --resume")


def load_run(folder: Path) -> tuple[Config, Tokenizer, dict[str, Any]]:
    """Return configuration, tokenizer and corpus facts of a run folder.

    Raises:
        CheckpointError: It is no run folder, or damaged.
    """
    if not (folder / "config.yaml").is_file():
        problem = "is no run folder (it has no config.yaml)" if folder.is_dir() else "no such run folder"
        raise CheckpointError(f"{folder}: {problem}; charlm train makes them under runs/")
    try:
        _check_contents(folder)
        verify(folder)
        config = load_config(folder / "config.yaml")
        text = read_regular(folder / "tokenizer.json", most=_MOST_BYTES["tokenizer.json"]).decode()
        tokenizer = load_tokenizer(text, config.tokenizer)
        data = read_regular(folder / "corpus.json", most=_MOST_BYTES["corpus.json"])
        corpus = _checked(parse_json(data), _CorpusFacts)
        counts = len(corpus["train_token_counts"])
        if counts != tokenizer.vocabulary_size:
            raise ValueError(f"corpus.json counts {counts} tokens, tokenizer.json has {tokenizer.vocabulary_size}")
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; the run folder is damaged"
        ) from None
    except CheckpointError:
        raise
    except (ValueError, CharlmError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}; {_REMEDY}") from None
    return config, tokenizer, corpus


def newest_run(root: Path) -> Path:
    """Return the run under `root` whose checkpoint was saved last.

    Raises:
        CheckpointError: There is none.
    """
    found = (path for path in root.glob("*/last/state.json") if path.is_file())
    states = sorted(found, key=lambda path: path.stat().st_mtime)
    if not states:
        raise CheckpointError(f"{root}/: holds no run with a checkpoint; train one: charlm train --config quickstart")
    return states[-1].parent.parent


def save_checkpoint(folder: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensors]) -> None:
    """Write a checkpoint into `folder`, then remove the files of the one before, and what a killed save left.

    A file that a checkpoint beside holds already is given a second name instead of being written again.

    Raises:
        CheckpointError: The folder cannot be written, or the disk is full; the checkpoint before is then still whole.
    """
    try:
        checksums = _run_checksums(folder.parent)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}; {_SAVE_REMEDY}") from None
    files = {}
    for name, group in tensors.items():
        data = safetensors.torch.save({key: tensor.detach().contiguous() for key, tensor in group.items()})
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
    remove_leftovers(folder)


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
        return Checkpoint(folder, state, {name: _read(folder, **state["files"][name]) for name in names})
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename}: is missing, so there is no checkpoint to load; {_REMEDY}") from None
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}; {_REMEDY}") from None
    except _DAMAGED as error:
        problem = one_line(str(error))
        raise CheckpointError(f"{folder / 'state.json'}: damaged: {problem}; {_REMEDY}") from None


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by name; one that is shared comes once."""
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


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


def put_weights(model: nn.Module, weights: Tensors, folder: Path) -> None:
    """Copy weights into a model.

    Raises:
        CheckpointError: Names or shapes are not those of the model.
    """
    _check_shapes(model, weights, folder)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(weights[name])


def _check_shapes(model: nn.Module, weights: Tensors, folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise CheckpointError(
            f"{folder}: the weights do not fit config.yaml: {one_line(odd[0])} is {found.get(odd[0])}, should be "
            f"{wanted.get(odd[0])}; take both from one run"
        )


def state_facts(state: TrainingState, average: Average) -> dict[str, Any]:
    """Return what JSON can hold of a training's state."""
    plain = {field: getattr(state, field) for field in _PLAIN_FIELDS}
    return {
        "charlm": charlm.__version__, **plain, "position": asdict(state.position), "average": average.facts(),
    }  # fmt: skip


def training_tensors(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average,
    state: TrainingState,
    device: torch.device,
    group: Group = ALONE,
) -> dict[str, Tensor]:
    """Return the tensors that training goes on from, beside the weights; the group's processes call it together.

    `raw.NAME`: of the model, where their mean is what is scored; `optimizer.PARAMETER.NAME`: of the optimizer;
    `state.LAYER.PART`: of the recurrence, all columns; `generator.DEVICE`: of torch's random generators, which dropout
    draws from, `generator.DEVICE.NUMBER` those of further processes.
    """
    tensors: dict[str, Tensor] = {}
    for layer, parts in enumerate(state.states or ()):
        tensors |= {f"state.{layer}.{number}": group.gather(part, state.columns) for number, part in enumerate(parts)}
    generators = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(device)
    for kind, generator in generators.items():
        tensors |= {_generator(kind, number): each for number, each in enumerate(group.each(generator))}
    if hasattr(optimizer, "consolidate_state_dict"):  # Each process has a part of its state.
        optimizer.consolidate_state_dict()
    if not group.is_first:
        return tensors
    own = weights_of(model)
    tensors |= {f"raw.{name}": own[name] for name in average.weights}
    tensors |= {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in optimizer.state_dict()["state"].items()
        for name, value in values.items() if value is not None
    }  # fmt: skip
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
    group: Group = ALONE,
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
        if (generator := _generator("cpu", group.number)) in tensors:
            torch.set_rng_state(tensors[generator])
        if device.type == "cuda" and (generator := _generator("cuda", group.number)) in tensors:
            torch.cuda.set_rng_state(tensors[generator], device)
        for field in _PLAIN_FIELDS:
            setattr(state, field, saved.state[field])
        state.position = Position(**saved.state["position"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{saved.folder}: cannot be resumed: {error}; {_REMEDY}") from None
    layers: dict[int, list[Tensor]] = {}
    for key in sorted(key for key in tensors if key.startswith("state.")):
        rows = tensors[key]
        state.columns = len(rows)
        part = rows[group.share.columns(len(rows))]
        layers.setdefault(int(key.split(".")[1]), []).append((part if len(part) else rows[:1]).to(device))
    state.states = tuple(tuple(layers[layer]) for layer in sorted(layers)) or None


def _put_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key in tensors:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensors[key]
    groups, first = [], 0  # As `state_dict` has them, which an optimizer in parts does not give away at any time.
    for group in optimizer.param_groups:
        count = len(group["params"])
        groups.append({**group, "params": list(range(first, first + count))})
        first += count
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def append_metrics(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line to `metrics.jsonl`.

    Raises:
        CheckpointError: It cannot be written.
    """
    append_line(folder / "metrics.jsonl", json.dumps(line), kind=CheckpointError, remedy=_SAVE_REMEDY)


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


_PLAIN_FIELDS = (
    "step", "seconds", "tokens", "epochs", "best_loss_nats", "evaluations_since_best", "stalls", "halvings"
)  # fmt: skip
# What a checkpoint of a format lacks that the next one has.
_NEWER_FIELDS: dict[int, dict[str, Any]] = {
    1: {"average": {"running": False, "count": 0, "losses": []}, "stalls": 0, "halvings": 0}
}
_REMEDY = "train again, or take the folder from a backup"


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
            + ("update it" if newer else f"go on with the charlm that wrote it, {state.get('charlm', 'unknown')!s:.40}")
        )
    for older in range(found, FORMAT):
        state = _NEWER_FIELDS[older] | state | {"format": older + 1}
    return state


_SAVE_REMEDY = "the checkpoint before is whole; free the disk or mend the folder, then go on with --resume"


def _is_of(line: bytes, last_step: int, halvings: int) -> bool:
    """Return whether a line was written by these steps and halvings; not if a crash cut it short, or it is damaged."""
    try:
        facts = parse_json(line)
        return bool(facts["step"] <= last_step and facts.get("halvings", 0) <= halvings)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _write(path: Path, data: bytes) -> None:
    with writing(path, kind=CheckpointError, remedy=_SAVE_REMEDY) as file:
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


def _check_contents(folder: Path) -> None:
    """Raise CheckpointError where a run folder has what charlm never writes there and a stranger would."""
    inner = (*get_args(Kept), TRACKED)
    for path in (*folder.iterdir(), *(path for name in inner for path in (folder / name).glob("*"))):
        if path.suffix.lower() in _PICKLES:
            raise CheckpointError(
                f"{one_line(str(path))}: is a pickle by its name, which can run anything when it is opened, and charlm "
                "writes none; remove it if you trust the rest"
            )
        if path.is_symlink():
            raise CheckpointError(
                f"{one_line(str(path))}: is a link, and may lead out of the run folder; copy in what it leads to"
            )


def verify(folder: Path) -> None:
    """Raise CheckpointError if a run's files are not those that its checkpoints belong to: before they are parsed.

    A checkpoint that is damaged itself says nothing here; whoever loads it is told.
    """
    for kept in get_args(Kept):
        with suppress(OSError, *_DAMAGED, CheckpointError):
            state = _read_state(folder / kept)
            break
    else:
        return
    _check_run(folder / kept, state.get("run", {}))


def _checked(facts: dict[str, Any], kind: type[Facts]) -> dict[str, Any]:
    """Return what was read; raise ValueError unless it is of that kind."""
    try:
        kind.model_validate(facts)
    except ValidationError as error:
        raise ValueError(describe_mistakes(error, kind)) from None
    return facts


def _read_state(folder: Path) -> dict[str, Any]:
    """Return the state of a checkpoint in today's format, its checksum verified, unless it is of before there was one.

    Raises:
        OSError: It cannot be read; or one of `_DAMAGED`: it is damaged.
    """
    found = parse_json(read_regular(folder / "state.json", most=_MOST_BYTES["state.json"]))
    digest = found.pop("sha256", None)
    state = _migrated(found, folder)
    if digest is not None and digest != _digest(found):
        raise ValueError("its checksum is not the one it was saved with")
    return _checked(state, _StateFacts)


def _sealed(facts: Mapping[str, Any]) -> bytes:
    """Return the contents of state.json, with their own checksum."""
    plain = json.loads(json.dumps(facts))
    return json.dumps(plain | {"sha256": _digest(plain)}, indent=1).encode()


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _run_checksums(folder: Path) -> dict[str, str]:
    """Return the checksums of the files that belong to every checkpoint of a run folder."""
    found = {}
    for name in _RUN_FILES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    if "config.yaml" in found:
        found["config.yaml"] = _settings_checksum((folder / "config.yaml").read_bytes())
    return found


@lru_cache(maxsize=8)  # Read again and again: by each checkpoint, at each save.
def _settings_checksum(data: bytes) -> str:
    """Return the checksum of a configuration but for where its texts are, for they may be moved."""
    try:
        values = parse_yaml(data.decode())
        corpus = {name: value for name, value in values["corpus"].items() if name not in _PATHS}
        return _digest(values | {"corpus": corpus})
    except _DAMAGED:
        return hashlib.sha256(data).hexdigest()


def _check_run(folder: Path, saved: Mapping[str, str]) -> None:
    """Raise CheckpointError unless configuration, tokenizer and corpus facts are those that a checkpoint belongs to."""
    found = _run_checksums(folder.parent) if saved else {}
    for name in _RUN_FILES:
        if saved.get(name) != found.get(name):
            raise CheckpointError(
                f"{folder.parent / name}: is not the one that {folder.name}/ was saved with: damaged, changed, or of "
                f"another run; put the old one back (of config.yaml, {', '.join(f'corpus.{name}' for name in _PATHS)} "
                "may change: a text may be moved)"
            )


def _read(folder: Path, file: str, sha256: str) -> dict[str, Tensor]:
    if not file.isprintable():
        raise ValueError(f"it names a file {file!r}")
    path = folder / Path(file).name  # A name, never a way out of the folder.
    try:
        data = read_regular(path, most=_MOST_BYTES["safetensors"])
    except MemoryError:
        raise CheckpointError(f"{path}: is larger than the memory that is free; {_REMEDY}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path}: damaged or cut short: its checksum is not the one it was saved with; {_REMEDY}")
    try:
        return read_tensors(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; {_REMEDY}") from None
