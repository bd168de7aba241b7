"""Results of a search: its trials, their table, and the configuration of the best one."""

import csv
import io
import json
import math
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import optuna
from optuna.trial import FrozenTrial, TrialState

from charlm.config.load import check_config
from charlm.config.schema import Config
from charlm.config.training import BUDGETS
from charlm.errors import CharlmError, CheckpointError, counted
from charlm.storage.atomic import atomic_write
from charlm.storage.results import Result
from charlm.storage.tables import format_rows
from charlm.storage.untrusted import one_line, parse_json
from charlm.tuning.space import with_values
from charlm.tuning.storage import Storage
from charlm.tuning.study import StudyFacts
from charlm.tuning.workers import TrialFacts, damaged_trial, read_facts
from charlm.version import VERSION

Outcome = Literal[
    "finished", "pruned", "diverged", "impossible", "unfinished", "failed", "repeated", "running"
]
NOT_ENDED = ("unfinished", "failed", "running")


class Period(NamedTuple):
    """Start and end of a trial, in seconds of the storage's clock."""

    began: float
    ended: float


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    Attributes:
        number: Number of the trial; its run folder is `trials/NUMBER`.
        outcome: finished; pruned: worse than the median at an evaluation; diverged; impossible:
            the values contradict each other, or need too much text or memory; unfinished: the
            search was stopped; failed: the worker was lost; running: a worker is training it.
        loss_nats: Lowest validation loss, in nats per token; None before the first evaluation.
        seconds: Duration, including reading, evaluations and saves; None if it is not known.
        values: Searched values by key.
        note: Reason, if the trial diverged or is impossible.
        host: Name of the machine that trained it.
        folder: Folder of the search on that machine.
    """

    number: int
    outcome: Outcome
    loss_nats: float | None
    seconds: float | None
    values: dict[str, Any]
    note: str
    host: str = ""
    folder: str = ""

    @property
    def rank(self) -> tuple[bool, bool, float, int]:
        """Sort key: finished trials first, running ones last, the lowest loss first."""
        loss_nats = math.inf if self.loss_nats is None else self.loss_nats
        return self.outcome != "finished", self.outcome == "running", loss_nats, self.number


@dataclass(frozen=True)
class Tuning(Result):
    """Results of a search.

    Attributes:
        folder: Folder of the search.
        space: What was searched: text by key.
        trials: Trials: finished ones first, and the lowest loss first.
        config: What all trials have in common.
        spent_seconds: Time in which at least one trial was running, in seconds.
        exhausted: Whether the search ended because no values were left to try.
    """

    folder: Path
    space: dict[str, str]
    trials: list[Trial]
    config: Config
    spent_seconds: float = 0.0
    exhausted: bool = False

    @property
    def best(self) -> Trial | None:
        """The finished trial with the lowest loss; if there is none, an unfinished one, or None."""
        if not self.trials:
            return None
        first = self.trials[0]
        has_result = first.loss_nats is not None and first.outcome != "running"
        return first if has_result else None

    @property
    def settings(self) -> dict[str, Any]:
        """Facts that belong to the losses."""
        training = self.config.training
        return {
            "split": "valid",
            "level": self.config.tokenizer.level,
            "seed": training.seed,
            "search": self.space,
            **{name: getattr(training, name) for name in BUDGETS},
            "version": VERSION,
        }

    @property
    def num_ended(self) -> int:
        """Number of trials that ended by themselves."""
        return sum(trial.outcome not in NOT_ENDED for trial in self.trials)

    @property
    def num_running(self) -> int:
        """Number of trials that are running."""
        return sum(trial.outcome == "running" for trial in self.trials)

    @property
    def best_run(self) -> Path | None:
        """Run folder of the best trial, on `best_host`."""
        if self.best is None:
            return None
        folder = Path(self.best.folder) if self.best_host else self.folder
        return folder / "trials" / str(self.best.number)

    @property
    def best_host(self) -> str:
        """Machine with the run folder of the best trial; empty if it is in this folder."""
        if self.best is None or (self.folder / "trials" / str(self.best.number)).is_dir():
            return ""
        return self.best.host

    @property
    def use(self) -> str:
        """Command that uses the best model, and the machine on which it works."""
        place = f"on {self.best_host}: " if self.best_host else ""
        command = "eval task" if self.config.task.has_pairs else "sample"
        return f"{place}charlm {command} {shlex.quote(str(self.best_run))}"

    def to_json(self) -> dict[str, Any]:
        """Return the trials, what is known of the best one, and the settings."""
        best = self.best
        facts: dict[str, Any] = {}
        if best is not None:
            facts = {
                "loss_nats": best.loss_nats,
                "config": str(self.folder / "best.yaml"),
                "run": str(self.best_run),
            }
        if self.best_host:
            facts["host"] = self.best_host
        trials = [asdict(trial) for trial in self.trials]
        return {
            **facts,
            "best": trials[0] if best else None,
            "trials": trials,
            "settings": self.settings,
        }

    def lines(self) -> Iterator[str]:
        """Yield a row for each trial, the best first."""
        names = ["trial", "outcome", "loss_nats", "seconds", *self.space]
        rows = [_row(trial, list(self.space)) for trial in self.trials]
        yield format_rows(names, rows)


def read_results(folder: Path, study: optuna.Study, storage: Storage, facts: StudyFacts) -> Tuning:
    """Return the results of all workers so far.

    Raises:
        CharlmError: The storage contains a trial that charlm cannot have written.
    """
    trials, periods = [], []
    now = None  # One time for all running trials.
    for stored in study.get_trials(deepcopy=False):
        if stored.state == TrialState.WAITING:
            continue
        trial_facts = read_facts(stored, storage)
        trials.append(_read_trial(stored, trial_facts, storage, facts))
        if stored.state == TrialState.RUNNING:
            now = storage.clock() if now is None else now
            periods.append(Period(now if trial_facts.began is None else trial_facts.began, now))
        elif stored.state != TrialState.FAIL:
            periods.append(_period(stored, trial_facts))
    return Tuning(
        folder=folder,
        space=facts.space,
        trials=sorted(
            (trial for trial in trials if trial.outcome != "repeated"),
            key=lambda trial: trial.rank,
        ),
        config=check_config(facts.config, str(folder)),
        spent_seconds=covered_seconds(periods),
    )


def write_results(tuning: Tuning, facts: StudyFacts) -> None:
    """Write trials.csv and best.yaml; remove the weights of all trials here except the best."""
    if not tuning.trials:
        return
    _write(tuning.folder / "trials.csv", _format_table(tuning))
    best = tuning.best
    if best is not None:
        _write(
            tuning.folder / "best.yaml", _format_header(tuning) + _best_config(tuning, best, facts)
        )
    for trial in tuning.trials:
        if trial != best and trial.outcome != "running":
            for checkpoint in ("best", "last"):
                run = tuning.folder / "trials" / str(trial.number)
                shutil.rmtree(run / checkpoint, ignore_errors=True)


def covered_seconds(periods: Iterable[Period]) -> float:
    """Return the time in which at least one trial was running, in seconds."""
    covered, until = 0.0, -math.inf
    for began, ended in sorted(periods):
        covered += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return covered


def _best_config(tuning: Tuning, best: Trial, facts: StudyFacts) -> str:
    """Return the configuration of the best trial as YAML."""
    path = tuning.folder / "trials" / str(best.number) / "config.yaml"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    # The run is in the folder of another worker. Use the path of the text in this folder.
    data = with_values(facts.config, best.values)
    return f"{check_config(data, f'trial {best.number}')}\n"


def _read_trial(
    stored: FrozenTrial, trial_facts: TrialFacts, storage: Storage, facts: StudyFacts
) -> Trial:
    """Return a trial of Optuna as ours; raise CharlmError if charlm cannot have written it."""
    damaged = damaged_trial(stored, storage)
    outcome = _outcome(stored, trial_facts, damaged)
    if not stored.params.keys() <= facts.space.keys():
        raise damaged
    try:
        values = {key: _read_value(value) for key, value in stored.params.items()}
    except ValueError:
        raise damaged from None
    losses = [loss for loss in stored.intermediate_values.values() if math.isfinite(loss)]
    seconds = None  # The duration of a lost trial is not known.
    if stored.state not in (TrialState.RUNNING, TrialState.FAIL):
        period = _period(stored, trial_facts)
        seconds = period.ended - period.began
    worker = trial_facts.worker
    return Trial(
        number=stored.number,
        outcome=outcome,
        loss_nats=min(losses, default=None),
        seconds=seconds,
        values=values,
        note=one_line(trial_facts.note),
        host="" if worker is None else one_line(worker.host),
        folder="" if worker is None else one_line(worker.folder),
    )


def _outcome(stored: FrozenTrial, trial_facts: TrialFacts, damaged: CharlmError) -> Outcome:
    outcome = trial_facts.outcome
    if outcome is not None and outcome not in get_args(Outcome):
        raise damaged
    if stored.state == TrialState.RUNNING:
        return "running"
    # A worker may have been lost after it wrote the outcome and before it told Optuna.
    if outcome is None or (stored.state == TrialState.FAIL and outcome != "repeated"):
        return "failed"
    return outcome  # type: ignore[return-value]


def _read_value(parameter: Any) -> Any:
    """Return a value from a parameter of Optuna, which is JSON if it is a choice."""
    return parse_json(parameter) if isinstance(parameter, str) else parameter


def _period(stored: FrozenTrial, trial_facts: TrialFacts) -> Period:
    """Return the period of a trial; Optuna's times come from the clocks of the workers."""
    began, ended = trial_facts.began, trial_facts.ended
    return Period(
        _timestamp(stored.datetime_start) if began is None else began,
        _timestamp(stored.datetime_complete) if ended is None else ended,
    )


def _timestamp(time: datetime | None) -> float:
    return 0.0 if time is None else time.timestamp()


def _format_table(tuning: Tuning) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["trial", "outcome", "loss_nats", "seconds", *tuning.space, "note", "host", "folder"]
    )
    for trial in tuning.trials:
        values = [trial.values.get(key) for key in tuning.space]
        facts = [trial.number, trial.outcome, trial.loss_nats, trial.seconds]
        table.writerow([*facts, *values, trial.note, trial.host, trial.folder])
    return text.getvalue()


def _format_header(tuning: Tuning) -> str:
    """Return the comments at the top of best.yaml."""
    best, training = tuning.trials[0], tuning.config.training
    num_finished = sum(trial.outcome == "finished" for trial in tuning.trials)
    unit, amount = training.budget
    budget = counted(amount, unit.removesuffix("s"))
    outcome = "" if best.outcome == "finished" else f", {best.outcome}"
    searches = (shlex.quote(f"{key}={text}") for key, text in tuning.space.items())
    predicted = "target" if tuning.config.task.has_pairs else "token"
    lines = [
        f"charlm train --config {shlex.quote(str(tuning.folder / 'best.yaml'))}",
        tuning.use,
        "",
        f"Validation loss during training: {best.loss_nats:.4f} nats per {predicted} "
        f"(seed {training.seed}, {budget} per trial{outcome}).",
        f"The best of {len(tuning.trials)} trials, {num_finished} of them finished; "
        f"charlm {VERSION}:",
        "charlm tune " + " ".join(f"--search {search}" for search in searches),
    ]
    return "".join(f"# {one_line(line)}".rstrip() + "\n" for line in lines)


def _write(path: Path, text: str) -> None:
    with atomic_write(
        path,
        error_type=CheckpointError,
        remedy="free the disk, then continue with charlm tune --resume",
    ) as file:
        file.write(text.encode())


def _row(trial: Trial, keys: Sequence[str]) -> list[str]:
    loss = "-" if trial.loss_nats is None else f"{trial.loss_nats:.4f}"
    seconds = "-" if trial.seconds is None else f"{trial.seconds:.1f}"
    values = [format_value(trial.values[key]) if key in trial.values else "-" for key in keys]
    return [str(trial.number), trial.outcome, loss, seconds, *values]


def format_value(value: Any) -> str:
    """Return a searched value in a table or message."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
