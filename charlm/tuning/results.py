"""What a search has found: its trials, their table, and the best one's configuration."""

import csv
import io
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import optuna
from optuna.trial import FrozenTrial, TrialState

from charlm.config.load import check_config
from charlm.config.schema import BUDGETS, Config
from charlm.config.show import dump
from charlm.errors import CharlmError, CheckpointError
from charlm.storage.atomic import atomic_write
from charlm.storage.untrusted import one_line, parse_json
from charlm.tuning.space import with_values
from charlm.tuning.storage import Storage
from charlm.tuning.workers import TrialFacts, damaged_trial, facts_of
from charlm.version import VERSION

NO_END = ("unfinished", "failed", "running")
Outcome = Literal[
    "finished", "pruned", "diverged", "impossible", "unfinished", "failed", "repeated", "running"
]


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    Attributes:
        number: Its run folder is `trials/NUMBER`.
        outcome: finished; pruned: worse than the median at an evaluation; diverged; impossible: its values do not go
            together, or are too large for text or memory; unfinished: the search was stopped; failed: its worker
            ended in the midst of it; running: another worker is at it.
        loss_nats: Lowest validation loss, nats a token; None before its first evaluation.
        seconds: That it took, reading, evaluating and saving included; None where that is not known.
        values: By key.
        note: Why it is diverged or impossible.
        host: The machine that tried it.
        folder: That of the search there.
    """

    number: int
    outcome: Outcome
    loss_nats: float | None
    seconds: float | None
    values: dict[str, Any]
    note: str
    host: str = ""
    folder: str = ""


@dataclass(frozen=True)
class Tuning:
    """What a search has found.

    Attributes:
        folder: Of the search.
        space: What was searched: text by key.
        trials: Finished ones first, the lowest loss first.
        config: What every trial has in common.
        spent_seconds: For how long at least one trial was running.
        exhausted: Whether it ended since there was nothing left to try.
    """

    folder: Path
    space: dict[str, str]
    trials: list[Trial]
    config: Config
    spent_seconds: float = 0.0
    exhausted: bool = False

    @property
    def best(self) -> Trial | None:
        """The finished trial of lowest loss; an unfinished one where none is finished; None where none has a loss."""
        first = self.trials[0] if self.trials else None
        return (
            None
            if first is None or first.loss_nats is None or first.outcome == "running"
            else first
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the losses belong to."""
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
    def ended(self) -> int:
        """How many trials came to an end of their own."""
        return sum(trial.outcome not in NO_END for trial in self.trials)

    @property
    def running(self) -> int:
        """How many trials are being trained."""
        return sum(trial.outcome == "running" for trial in self.trials)

    @property
    def best_run(self) -> Path | None:
        """The run folder of the best trial, on `best_host`."""
        if self.best is None:
            return None
        return (
            (Path(self.best.folder) if self.best_host else self.folder)
            / "trials"
            / str(self.best.number)
        )

    @property
    def best_host(self) -> str:
        """The machine that has the best trial's run; empty where this folder has it."""
        best = self.best
        return (
            ""
            if best is None or (self.folder / "trials" / str(best.number)).is_dir()
            else best.host
        )

    @property
    def use(self) -> str:
        """How to use the best trial's model, and where."""
        return f"{f'on {self.best_host}: ' if self.best_host else ''}charlm sample {self.best_run}"


def read_results(
    folder: Path, study: optuna.Study, storage: Storage, facts: Mapping[str, Any]
) -> Tuning:
    """Return what all workers have found so far.

    Raises:
        CharlmError: The storage holds what no worker writes.
    """
    trials, periods, now = [], [], None
    for known in study.get_trials(deepcopy=False):
        if known.state != TrialState.WAITING:
            found = facts_of(known, storage)
            trials.append(_record(known, found, damaged_trial(known, storage), facts["space"]))
            if known.state == TrialState.RUNNING:
                now = storage.clock() if now is None else now
                periods.append((now if found.began is None else found.began, now))
            elif known.state != TrialState.FAIL:
                periods.append(_period(known, found))
    trials = sorted((trial for trial in trials if trial.outcome != "repeated"), key=_rank)
    return Tuning(
        folder, facts["space"], trials, check_config(facts["config"], str(folder)), _spent(periods)
    )


def write_results(tuning: Tuning, facts: Mapping[str, Any]) -> None:
    """Write what is found into the folder; the weights of this folder's trials are removed but for the best."""
    best, folder = tuning.best, tuning.folder
    if not tuning.trials:
        return
    _write(folder / "trials.csv", _table(tuning))
    if best is not None:
        own = folder / "trials" / str(best.number) / "config.yaml"
        if own.is_file():
            text = own.read_text(encoding="utf-8")
        else:  # It stands in another's folder: the same settings, for the text as it is called here.
            text = dump(
                check_config(with_values(facts["config"], best.values), f"trial {best.number}")
            )
        _write(folder / "best.yaml", _header(tuning) + text)
    for trial in tuning.trials:
        for which in ("best", "last") if trial != best and trial.outcome != "running" else ():
            shutil.rmtree(folder / "trials" / str(trial.number) / which, ignore_errors=True)


def _rank(trial: Trial) -> tuple[bool, bool, float, int]:
    return (
        trial.outcome != "finished",
        trial.outcome == "running",
        _or_infinite(trial.loss_nats),
        trial.number,
    )


def _record(
    known: FrozenTrial, found: TrialFacts, damage: CharlmError, space: Mapping[str, Any]
) -> Trial:
    outcome = found.outcome or "failed"
    if outcome not in get_args(Outcome) or not known.params.keys() <= space.keys():
        raise damage
    if known.state == TrialState.RUNNING:
        outcome = "running"
    elif known.state == TrialState.FAIL and outcome != "repeated":
        outcome = "failed"  # Its worker may have ended just before it could tell the study what came of it.
    try:
        values = {
            key: parse_json(value) if isinstance(value, str) else value
            for key, value in known.params.items()
        }
    except ValueError:
        raise damage from None
    losses = [loss for loss in known.intermediate_values.values() if math.isfinite(loss)]
    seconds = None  # Of a running one; and how long one ran before a crash, nobody wrote down.
    if known.state not in (TrialState.RUNNING, TrialState.FAIL):
        began, ended = _period(known, found)
        seconds = ended - began
    places = (
        [] if found.worker is None else [one_line(found.worker.host), one_line(found.worker.folder)]
    )
    return Trial(
        known.number,
        outcome,  # type: ignore[arg-type]
        min(losses, default=None),
        seconds,
        values,
        one_line(found.note),
        *places,
    )


def _period(known: FrozenTrial, found: TrialFacts) -> tuple[float, float]:
    """Return when a trial began and ended, in seconds of the clock that all workers have in common."""
    began, ended = [
        0.0 if time is None else time.timestamp()
        for time in (known.datetime_start, known.datetime_complete)
    ]
    return (
        began if found.began is None else found.began,
        ended if found.ended is None else found.ended,
    )


def _spent(periods: Iterable[tuple[float, float]]) -> float:
    """Return for how many seconds at least one trial was running."""
    spent, until = 0.0, -math.inf
    for began, ended in sorted(periods):
        spent, until = spent + max(0.0, ended - max(began, until)), max(until, ended)
    return spent


def _or_infinite(loss_nats: float | None) -> float:
    return math.inf if loss_nats is None else loss_nats


def _table(tuning: Tuning) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        ["trial", "outcome", "loss_nats", "seconds", *tuning.space, "note", "host", "folder"]
    )
    for trial in tuning.trials:
        values = [trial.values.get(key) for key in tuning.space]
        row = [trial.number, trial.outcome, trial.loss_nats, trial.seconds, *values, trial.note]
        table.writerow([*row, trial.host, trial.folder])
    return text.getvalue()


def _header(tuning: Tuning) -> str:
    best, training = tuning.trials[0], tuning.config.training
    finished = sum(trial.outcome == "finished" for trial in tuning.trials)
    budget = next(
        f"{getattr(training, name):g} {name}"
        for name in BUDGETS
        if getattr(training, name) is not None
    )
    lines = [
        f"charlm train --config {tuning.folder / 'best.yaml'}",
        tuning.use,
        "",
        f"{best.loss_nats:.4f} nats a token on the validation split as training scores it (seed {training.seed}), "
        f"{'' if best.outcome == 'finished' else best.outcome + ', '}a trial having {budget}.",
        f"The best of {len(tuning.trials)} trials, {finished} of them finished, by charlm {VERSION}:",
        "charlm tune " + " ".join(f"--search {key}={text}" for key, text in tuning.space.items()),
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _write(path: Path, text: str) -> None:
    with atomic_write(
        path, error_type=CheckpointError, remedy="make room, then charlm tune --resume"
    ) as file:
        file.write(text.encode())
