"""Checks of a run folder that may come from an untrusted source."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError
from torch import Tensor

from charlm.config.mistakes import describe_mistakes
from charlm.errors import CheckpointError
from charlm.storage.untrusted import MEGABYTE, Count, StrictModel, one_line, parse_yaml

# What belongs to every checkpoint of a run, and the most bytes that a file may have: what is parsed takes many times so
# much memory.
_RUN_FILES = ("config.yaml", "tokenizer.json", "corpus.json")
_MOST_BYTES = {
    "tokenizer.json": 256 * MEGABYTE,
    "corpus.json": 64 * MEGABYTE,
    "state.json": 16 * MEGABYTE,
    "safetensors": 1 << 40,
}
_PATHS = ("text", "valid_text", "test_text")
_DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)  # What JSON of another shape leads to.
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}
Kept = Literal["best", "last", "good"]
Tensors = Mapping[str, Tensor]
LOCK, TRACKED = ".lock", "tensorboard"


class _CorpusFacts(StrictModel):
    """What corpus.json is like."""

    title: str = ""
    fingerprints: dict[str, str]
    train_token_counts: list[Count]


class _LineFacts(StrictModel):
    """What a line of metrics.jsonl is like."""

    step: Count


class _File(StrictModel):
    """A file that state.json names."""

    file: str
    sha256: str


class _StateFacts(StrictModel):
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


_REMEDY = "train again, or take the folder from a backup"
_SAVE_REMEDY = (
    "the checkpoint before is whole; free the disk or mend the folder, then go on with --resume"
)


def _check_contents(folder: Path) -> None:
    """Raise CheckpointError where a run folder has what charlm never writes there and a stranger would."""
    inner = (*get_args(Kept), TRACKED)
    for path in (
        *folder.iterdir(),
        *(path for name in inner for path in (folder / name).glob("*")),
    ):
        if path.suffix.lower() in _PICKLES:
            raise CheckpointError(
                f"{one_line(str(path))}: is a pickle by its name, which can run anything when it is opened, and charlm "
                "writes none; remove it if you trust the rest"
            )
        if path.is_symlink():
            raise CheckpointError(
                f"{one_line(str(path))}: is a link, and may lead out of the run folder; copy in what it leads to"
            )


def _checked(facts: dict[str, Any], kind: type[StrictModel]) -> dict[str, Any]:
    """Return what was read; raise ValueError unless it is of that kind."""
    try:
        kind.model_validate(facts)
    except ValidationError as error:
        raise ValueError(describe_mistakes(error, kind)) from None
    return facts


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
