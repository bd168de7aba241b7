"""What a search has found: its trials, their table, and the best one's configuration."""

import csv
import io
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

import charlm
from charlm.config import BUDGETS, Config, check_config
from charlm.errors import CheckpointError
from charlm.files import writing

NO_END = ("unfinished", "failed")
Outcome = Literal["finished", "pruned", "diverged", "impossible", "unfinished", "failed", "repeated"]


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    Attributes:
        number: Its run folder is `trials/NUMBER`.
        outcome: finished; pruned: worse than the median at an evaluation; diverged; impossible: its values do not go
            together, or are too large for text or memory; unfinished: the search was stopped; failed: by a crash.
        loss_nats: Lowest validation loss, nats a token; None before its first evaluation.
        seconds: That it took, reading, evaluating and saving included; None where that is not known.
        values: By key.
        note: Why it is diverged or impossible.
    """

    number: int
    outcome: Outcome
    loss_nats: float | None
    seconds: float | None
    values: dict[str, Any]
    note: str


@dataclass(frozen=True)
class Tuning:
    """What a search has found.

    Attributes:
        folder: Of the search.
        space: What was searched: text by key.
        trials: Finished ones first, the lowest loss first.
        config: What every trial has in common.
        exhausted: Whether it ended since there was nothing left to try.
    """

    folder: Path
    space: dict[str, str]
    trials: list[Trial]
    config: Config
    exhausted: bool = False

    @property
    def best(self) -> Trial | None:
        """The finished trial of lowest loss; an unfinished one where none is finished; None where none has a loss."""
        return self.trials[0] if self.trials and self.trials[0].loss_nats is not None else None

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
            "version": charlm.__version__,
        }

    @property
    def ended(self) -> int:
        """How many trials came to an end of their own."""
        return sum(trial.outcome not in NO_END for trial in self.trials)

    @property
    def best_run(self) -> Path | None:
        """The run folder of the best trial."""
        return self.folder / "trials" / str(self.best.number) if self.best else None


def write_results(folder: Path, study: optuna.Study, facts: Mapping[str, Any]) -> Tuning:
    """Return what is found so far, written to `folder`; the weights of all but the best are removed."""
    trials = [_record(known) for known in study.get_trials(deepcopy=False) if known.state != TrialState.WAITING]
    trials = [trial for trial in trials if trial.outcome != "repeated"]
    trials.sort(key=lambda one: (one.outcome != "finished", _or_infinite(one.loss_nats), one.number))
    tuning = Tuning(folder, facts["space"], trials, check_config(facts["config"], str(folder)))
    if not trials:
        return tuning
    _write(folder / "trials.csv", _table(tuning))
    if tuning.best_run is not None and (tuning.best_run / "config.yaml").is_file():
        text = (tuning.best_run / "config.yaml").read_text(encoding="utf-8")
        _write(folder / "best.yaml", _header(tuning, tuning.best_run) + text)
    for other in (folder / "trials").glob("*/"):
        for which in ("best", "last") if other != tuning.best_run else ():
            shutil.rmtree(other / which, ignore_errors=True)
    return tuning


def _record(known: optuna.trial.FrozenTrial) -> Trial:
    losses = [loss for loss in known.intermediate_values.values() if math.isfinite(loss)]
    values = {key: json.loads(value) if isinstance(value, str) else value for key, value in known.params.items()}
    outcome, note = known.user_attrs.get("outcome", "failed"), known.user_attrs.get("note", "")
    if known.state == TrialState.FAIL:  # How long it ran before the crash, nobody wrote down.
        return Trial(known.number, outcome, min(losses, default=None), None, values, note)
    seconds = known.duration.total_seconds() if known.duration else None
    return Trial(known.number, outcome, min(losses, default=None), seconds, values, note)


def _or_infinite(loss_nats: float | None) -> float:
    return math.inf if loss_nats is None else loss_nats


def _table(tuning: Tuning) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["trial", "outcome", "loss_nats", "seconds", *tuning.space, "note"])
    for trial in tuning.trials:
        values = [trial.values.get(key) for key in tuning.space]
        table.writerow([trial.number, trial.outcome, trial.loss_nats, trial.seconds, *values, trial.note])
    return text.getvalue()


def _header(tuning: Tuning, best_run: Path) -> str:
    best, training = tuning.trials[0], tuning.config.training
    finished = sum(trial.outcome == "finished" for trial in tuning.trials)
    budget = next(f"{getattr(training, name):g} {name}" for name in BUDGETS if getattr(training, name) is not None)
    lines = [
        f"charlm train --config {tuning.folder / 'best.yaml'}",
        f"charlm sample {best_run}",
        "",
        f"{best.loss_nats:.4f} nats a token on the validation split as training scores it (seed {training.seed}), "
        f"{'' if best.outcome == 'finished' else best.outcome + ', '}a trial having {budget}.",
        f"The best of {len(tuning.trials)} trials, {finished} of them finished, by charlm {charlm.__version__}:",
        "charlm tune " + " ".join(f"--search {key}={text}" for key, text in tuning.space.items()),
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines)


def _write(path: Path, text: str) -> None:
    with writing(path, kind=CheckpointError, remedy="make room, then charlm tune --resume") as file:
        file.write(text.encode())
