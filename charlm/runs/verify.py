"""Checks of a run folder that may come from an untrusted source.

A file is compared with its checksum before it is parsed, is never larger than a limit, and has the
fields and types that charlm reads. A folder with pickles or links is refused. The weights are
checked in charlm/runs/verify_weights.py.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from charlm.config.mistakes import describe_mistakes
from charlm.config.training import Training as TrainingSection
from charlm.errors import CheckpointError
from charlm.runs.files import CHECKPOINTS, EVENT_FILES, RUN_FILES
from charlm.storage.untrusted import (
    MEGABYTE,
    Count,
    StrictModel,
    one_line,
    parse_json,
    parse_yaml,
    read_regular_file,
)

FORMAT = 2
# Fields that the next format added, with the values that continue an older checkpoint.
_ADDED_FIELDS: dict[int, dict[str, Any]] = {
    1: {"average": {"running": False, "count": 0, "losses": []}, "stalls": 0, "halvings": 0}
}
# Fields that were added without a new format, with the values that continue an older checkpoint.
_OPTIONAL_FIELDS: dict[str, Any] = {
    "due_metrics": None,
    "validation_part": 1,
    "precision": None,
    "budget": None,
}
# Parsing a file takes many times as much memory as the file has bytes.
MAX_BYTES = {
    "tokenizer.json": 256 * MEGABYTE,
    "corpus.json": 64 * MEGABYTE,
    "state.json": 16 * MEGABYTE,
    "safetensors": 1 << 40,
}
# Errors that JSON of an unexpected shape leads to.
PARSE_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_TEXT_PATHS = ("text", "valid_text", "test_text")
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}


class AncestorFacts(StrictModel):
    """Facts about the run whose weights a training started from."""

    name: str
    weights: str
    loss_nats: float | None
    start_loss_nats: float | None = None
    corpus: dict[str, Any]
    fingerprints: dict[str, str]


class CorpusFacts(StrictModel):
    """Fields of corpus.json that charlm reads."""

    title: str = ""
    fingerprints: dict[str, str]
    train_token_counts: list[Count]
    labels: list[str] | None = None
    ancestor: AncestorFacts | None = None


class MetricsFacts(StrictModel):
    """Fields of a line of metrics.jsonl that charlm reads."""

    step: Count


class SampleFacts(StrictModel):
    """Fields of a line of samples.jsonl."""

    step: Count
    text: str


class _FileFacts(StrictModel):
    """A file that state.json names."""

    file: str
    sha256: str


class _DueMetrics(StrictModel):
    """Metrics of the steps before an evaluation, which state.json holds until it is done."""

    training_loss_nats: float
    learning_rate: float


_Budget = Annotated[
    dict[Literal["minutes", "steps", "epochs"], Annotated[float, Field(gt=0)]],
    Field(min_length=1, max_length=1),
]


class _StateFacts(StrictModel):
    """Fields of state.json that charlm reads."""

    format: int
    step: Count = 0
    seconds: float = Field(0.0, ge=0)
    tokens: Count = 0
    epochs: float = Field(0.0, ge=0)
    best_loss_nats: float | None = None
    evaluations_since_best: Count = 0
    stalls: Count = 0
    halvings: Count = 0
    due_metrics: _DueMetrics | None = None
    validation_part: Annotated[int, Field(ge=1, lt=1 << 63)] | None = None
    precision: Literal["bf16", "fp32"] | None = None
    budget: _Budget | None = None
    position: dict[str, Count] = Field({})
    run: dict[str, str] = Field({})
    files: dict[str, _FileFacts]


def check_contents(folder: Path) -> None:
    """Raise CheckpointError if a run folder contains a pickle or a link; charlm writes none."""
    inner = (path for name in (*CHECKPOINTS, EVENT_FILES) for path in (folder / name).glob("*"))
    for path in (*folder.iterdir(), *inner):
        if path.suffix.lower() in _PICKLES:
            raise CheckpointError(
                f"{one_line(str(path))}: has the name of a pickle, which can execute code when it "
                "is opened; charlm writes no pickles; remove it if you trust the other files"
            )
        if path.is_symlink():
            raise CheckpointError(
                f"{one_line(str(path))}: is a link, which can lead out of the run folder; replace "
                "it by a copy of the file"
            )


def check_run_files(folder: Path) -> None:
    """Check config.yaml, tokenizer.json and corpus.json before they are parsed.

    The first checkpoint that can be read has their checksums. A damaged checkpoint is not reported
    here, but when it is loaded.

    Raises:
        CheckpointError: A file is not the one that the checkpoint was saved with.
    """
    for name in CHECKPOINTS:
        with suppress(OSError, *PARSE_ERRORS, CheckpointError):
            state = read_state(folder / name)
            break
    else:
        return
    check_run_checksums(folder / name, state)


def check_run_checksums(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Check that the files of a run are those that a checkpoint was saved with.

    Args:
        checkpoint: Folder of the checkpoint.
        state: Its state; checkpoints of early versions have no checksums of the run's files.

    Raises:
        CheckpointError: A file is damaged, changed, or of another run.
    """
    folder = checkpoint.parent
    saved = state.get("run", {})
    current = run_checksums(folder) if saved else {}
    for name in RUN_FILES:
        if saved.get(name) != current.get(name):
            fields = ", ".join(f"corpus.{field}" for field in _TEXT_PATHS)
            raise CheckpointError(
                f"{folder / name}: is not the file that {checkpoint.name}/ was saved with: it is "
                "damaged, changed, or of another run; restore the original (in config.yaml, only "
                f"{fields} may change, because a text may be moved)"
            )


def run_checksums(folder: Path) -> dict[str, str]:
    """Return the checksums of the files of a run folder that belong to every checkpoint."""
    checksums = {}
    for name in RUN_FILES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                checksums[name] = hashlib.file_digest(file, "sha256").hexdigest()
    if "config.yaml" in checksums:
        checksums["config.yaml"] = _settings_checksum((folder / "config.yaml").read_bytes())
    return checksums


def validate_facts(facts: dict[str, Any], model: type[StrictModel]) -> dict[str, Any]:
    """Return parsed JSON unchanged; raise ValueError if a field of `model` is missing or wrong."""
    try:
        model.model_validate(facts)
    except ValidationError as error:
        raise ValueError(describe_mistakes(error, model)) from None
    return facts


def seal_state(facts: Mapping[str, Any]) -> bytes:
    """Return the contents of state.json, with their own checksum."""
    plain = json.loads(json.dumps(facts))
    return json.dumps(plain | {"sha256": _checksum(plain)}, indent=1).encode()


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the contents of state.json in the current format.

    The checksum is verified. Checkpoints of early versions have none.

    Raises:
        OSError: The file cannot be read.
        CheckpointError: The format is newer than this version, or unknown.
        One of PARSE_ERRORS: The file is damaged.
    """
    path = checkpoint / "state.json"
    facts = parse_json(read_regular_file(path, max_bytes=MAX_BYTES["state.json"]))
    checksum = facts.pop("sha256", None)
    state = _migrate(facts, checkpoint)
    if checksum is not None and checksum != _checksum(facts):
        raise ValueError("its checksum is not the one that it was saved with")
    return validate_facts(state, _StateFacts)


def budget_of(state: Mapping[str, Any], section: TrainingSection) -> tuple[str, float]:
    """Return unit and amount of the budget of a training, which resuming may have replaced.

    Args:
        state: State of a checkpoint; those of earlier versions have no budget.
        section: Section `training` of the run's configuration, with the first budget.
    """
    return next(iter((state.get("budget") or {}).items()), section.budget)


def _migrate(state: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """Return the state of a checkpoint in the current format.

    Raises:
        CheckpointError: The format is newer than this version, or unknown.
    """
    saved = state["format"]
    if saved not in (*_ADDED_FIELDS, FORMAT):
        if isinstance(saved, int) and saved > FORMAT:
            remedy = "update charlm"
        else:
            version = f"{state.get('charlm', 'unknown')!s:.40}"
            remedy = f"continue with the version of charlm that wrote it, {version}"
        raise CheckpointError(
            f"{checkpoint}: has checkpoint format {saved!r:.40}, but this version of charlm reads "
            f"formats {min(_ADDED_FIELDS)} to {FORMAT}; {remedy}"
        )
    for older in range(saved, FORMAT):
        state = _ADDED_FIELDS[older] | state | {"format": older + 1}
    return _OPTIONAL_FIELDS | state


def _checksum(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=8)  # Each checkpoint needs it, at each save.
def _settings_checksum(data: bytes) -> str:
    """Return the checksum of a configuration without the paths of its texts, which may be moved."""
    try:
        values = parse_yaml(data.decode())
        corpus = {
            name: value for name, value in values["corpus"].items() if name not in _TEXT_PATHS
        }
        return _checksum(values | {"corpus": corpus})
    except PARSE_ERRORS:
        return hashlib.sha256(data).hexdigest()
