"""What is known about runs without loading their models: settings, budgets and scores."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from charlm.config.cell import CELL_KINDS
from charlm.config.load import load_resolved
from charlm.config.schema import ResolvedConfig
from charlm.config.task import TaskKind
from charlm.config.tokenizer import Level
from charlm.data.listing import shown_title
from charlm.errors import CharlmError, CheckpointError, ConfigError, counted
from charlm.runs.metrics import read_metrics, score_field, unit_of
from charlm.runs.verify import (
    MAX_BYTES,
    PARSE_ERRORS,
    CorpusFacts,
    budget_of,
    read_state,
    validate_facts,
)
from charlm.storage.results import Result, ResultList
from charlm.storage.tables import TableForm, format_rows
from charlm.storage.untrusted import parse_json, read_regular_file


@dataclass(frozen=True, kw_only=True)
class RunSummary(Result):
    """Settings and scores of a run. The scores are those of its best evaluation.

    Attributes:
        run: Run folder.
        text: Title of the text.
        mode: How the text is read.
        level: Level of the tokens.
        cell: Kind of the recurrence.
        hidden_sizes: Number of units of each layer.
        parameters: Number of weights; None if the kind of cell is not registered.
        budget: Budget of the training, in total, such as "5 minutes".
        seed: Seed of the training.
        step: Step of the best evaluation; the scores are None before the first one.
        steps: Number of steps trained.
        seconds: Time of these steps.
        loss_nats: Validation loss, nats per token.
        perplexity: exp(loss_nats).
        bits_per_character: Validation loss in bits per character.
        task: What the network learns.
        accuracy: Fraction of the labels or target tokens that are the most probable ones; None for
            language models.
    """

    run: str
    text: str
    mode: str
    level: Level
    cell: str
    hidden_sizes: list[int]
    parameters: int | None
    budget: str
    seed: int
    step: int | None
    steps: int
    seconds: float
    loss_nats: float | None
    perplexity: float | None
    bits_per_character: float | None
    task: TaskKind = "language_model"
    accuracy: float | None = None

    @property
    def level_of_scores(self) -> Level | None:
        """Level of the tokens that are predicted; None for the targets of a task."""
        return self.level if self.task == "language_model" else None


def _score(value: float | None, digits: int) -> str:
    """Return a score; one of a diverged run, such as 2e+33, must not widen the column."""
    return "-" if value is None else f"{value:.{digits}f}" if value < 1e6 else f"{value:.2g}"


_TASK_COLUMNS = ("accuracy", "task")  # Shown if a run has learned a task.
_COLUMNS: dict[str, Callable[[RunSummary], str]] = {
    "run": lambda run: run.run,
    "bits/char": lambda run: _score(run.bits_per_character, 3),
    "perplexity": lambda run: _score(run.perplexity, 2),
    "nats/token": lambda run: _score(run.loss_nats, 4),
    "accuracy": lambda run: "-" if run.accuracy is None else f"{run.accuracy:.2%}",
    "task": lambda run: "-" if run.task == "language_model" else run.task,
    "level": lambda run: run.level,
    "cell": lambda run: run.cell,
    "units": lambda run: " ".join(map(str, run.hidden_sizes)),
    "parameters": lambda run: "-" if run.parameters is None else str(run.parameters),
    "seed": lambda run: str(run.seed),
    "budget": lambda run: run.budget,
    "steps": lambda run: str(run.steps),
    "seconds": lambda run: f"{run.seconds:.0f}",
    "text": lambda run: shown_title(run.text),
}


class RunList(ResultList[RunSummary]):
    """Runs with their settings and scores."""

    def lines(self, form: TableForm = "table") -> Iterator[str]:
        """Yield a table with a row per run."""
        has_tasks = any(run.task != "language_model" for run in self)
        columns = {
            name: cell for name, cell in _COLUMNS.items() if has_tasks or name not in _TASK_COLUMNS
        }
        rows = [[cell(run) for cell in columns.values()] for run in self]
        yield format_rows(list(columns), rows, form)


@dataclass(frozen=True, kw_only=True)
class SeedScores(Result):
    """Scores of trainings that differ in their seed only.

    Attributes:
        unit: Unit of the scores: perplexity for words, bits per character for other tokens, or
            nats per token where these are not known; nats per target for the targets of a task.
        mean: Mean of the scores.
        standard_deviation: Their sample standard deviation (divisor n - 1).
        lowest: Lowest score.
        highest: Highest score.
        runs: The runs, in the order of training.
    """

    unit: str
    mean: float
    standard_deviation: float
    lowest: float
    highest: float
    runs: list[RunSummary]

    def values(self) -> list[float]:
        """Return the score of each run."""
        field, _ = _field_and_unit(self.runs)
        return [float(getattr(run, field)) for run in self.runs]

    def lines(self) -> Iterator[str]:
        """Yield a row for each seed, and a line for all."""
        values = self.values()
        rows = [
            [str(run.seed), f"{value:.4f}", str(run.step), f"{run.seconds:.0f}", run.run]
            for run, value in zip(self.runs, values, strict=True)
        ]
        yield format_rows(["seed", self.unit, "step", "seconds", "run"], rows)
        yield (
            f"{self.unit} of {len(rows)} seeds: mean {self.mean:.4f}, "
            f"standard deviation {self.standard_deviation:.4f}, "
            f"range {self.lowest:.4f} to {self.highest:.4f}"
        )


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder and in its subfolders, the folder itself included.

    Raises:
        CheckpointError: There are none.
    """
    if not folder.is_dir():
        problem = "is a file" if folder.is_file() else "no such folder"
        raise CheckpointError(
            f"{folder}: {problem}; name a folder with runs, or make a run with charlm train"
        )
    patterns = ("config.yaml", "*/config.yaml", "*/*/config.yaml")
    found = (path.parent for pattern in patterns for path in folder.glob(pattern))
    runs = sorted(path for path in found if (path / "corpus.json").is_file())
    if not runs:
        raise CheckpointError(f"{folder}: contains no run folder; make one with charlm train")
    return runs


def summarize_readable(folders: Iterable[Path], warn: Callable[[str], object]) -> RunList:
    """Return settings and scores of runs; call `warn` with a line for each one that is damaged."""
    runs = RunList()
    for folder in folders:
        try:
            runs.append(summarize(folder))
        except CharlmError as error:
            warn(f"{folder}: not listed: {error}")
    return runs


def summarize(folder: Path) -> RunSummary:
    """Return settings and scores of a run.

    Raises:
        CharlmError: A file of the run is missing or damaged.
    """
    config = load_resolved(folder / "config.yaml")
    corpus = _read_corpus(folder)
    lines = read_metrics(folder)
    best: dict[str, Any] = next((line for line in reversed(lines) if line.get("is_best")), {})
    last: dict[str, Any] = lines[-1] if lines else {}
    unit, amount = budget_of(_last_state(folder), config.training)
    return RunSummary(
        run=str(folder),
        text=str(corpus.get("title", "")),
        mode=config.corpus.mode,
        level=config.tokenizer.level,
        cell=config.model.cell.kind,
        hidden_sizes=list(config.model.hidden_sizes),
        parameters=_count_parameters(folder, config, corpus),
        budget=counted(amount, unit.removesuffix("s")),
        seed=config.training.seed,
        step=best.get("step"),
        steps=last.get("step", 0),
        seconds=_number(last, "seconds") or 0.0,
        loss_nats=_number(best, "loss_nats"),
        perplexity=_number(best, "perplexity"),
        bits_per_character=_number(best, "bits_per_character"),
        task=config.task.kind,
        accuracy=_number(best, "accuracy"),
    )


def summarize_seeds(folders: Sequence[Path]) -> SeedScores:
    """Return mean, standard deviation and range of the scores of at least two runs.

    Raises:
        CharlmError: A run cannot be read, or has no validation score.
    """
    runs = [summarize(folder) for folder in folders]
    field, unit = _field_and_unit(runs)
    scores = [getattr(run, field) for run in runs]
    for run, score in zip(runs, scores, strict=True):
        if score is None:
            raise CheckpointError(f"{run.run}: has no validation score; set corpus.valid_share")
    return SeedScores(
        unit=unit,
        mean=statistics.fmean(scores),
        standard_deviation=statistics.stdev(scores),
        lowest=min(scores),
        highest=max(scores),
        runs=runs,
    )


def _field_and_unit(runs: Sequence[RunSummary]) -> tuple[str, str]:
    """Return the field and the unit of the scores of runs that differ in their seed only."""
    level = runs[0].level_of_scores
    field = score_field(level)
    # Bits are not known if the tokens leave something out whose cost cannot be computed.
    if field == "bits_per_character" and any(run.bits_per_character is None for run in runs):
        return "loss_nats", "nats per token"
    return field, unit_of(level)


def _read_corpus(folder: Path) -> dict[str, Any]:
    path = folder / "corpus.json"
    try:
        data = read_regular_file(path, max_bytes=MAX_BYTES["corpus.json"])
        return validate_facts(parse_json(data), CorpusFacts)
    except (OSError, *PARSE_ERRORS) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None


def _last_state(folder: Path) -> dict[str, Any]:
    """Return the state of the last checkpoint; nothing if there is none that can be read."""
    try:
        return read_state(folder / "last")
    except (OSError, CheckpointError, *PARSE_ERRORS):
        return {}


def _count_parameters(
    folder: Path, config: ResolvedConfig, corpus: Mapping[str, Any]
) -> int | None:
    """Return the number of weights of a run's model; None if its kind of cell is not registered.

    The header of a checkpoint has it. Without one, the model is made, for which torch is imported.
    """
    if config.model.cell.kind in CELL_KINDS:
        with suppress(OSError, SafetensorError):
            for path in filter(Path.is_file, folder.glob("*/weights-*.safetensors")):
                with safe_open(path, "numpy") as file:
                    names = list(file.keys())
                    shapes: list[list[int]] = [file.get_slice(name).get_shape() for name in names]
                    return sum(map(math.prod, shapes))
    from charlm.model.any_model import head_of
    from charlm.model.uninitialized import model_of_shapes

    head = head_of(config.task, corpus.get("labels") or ())
    try:
        model = model_of_shapes(config.model, len(corpus["train_token_counts"]), head)
    except ConfigError:
        return None
    return sum(parameter.numel() for parameter in model.parameters())


def _number(line: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a line of metrics.jsonl; None if it is missing or of another type."""
    value = line.get(name)
    return float(value) if isinstance(value, int | float) else None
