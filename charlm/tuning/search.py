"""A search for settings with Optuna: many trainings of one experiment, with different values.

DIR/study.db      what was searched and found, in Optuna's SQLite storage; or
DIR/study.json    the database that contains the search, and what is searched
DIR/trials/N/     run folder of a trial; only the best one keeps its weights
DIR/trials.csv    one line per trial, the best first
DIR/best.yaml     configuration of the best trial

Several processes can work on one search. They decide one at a time, while they hold a lock: a trial
begins only if fewer trials have ended or are running than the budget allows, and the trial of a
lost worker is tried again. So exactly as many trials end as the budget says.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from charlm.config.load import check_config
from charlm.config.schema import Config
from charlm.tuning.results import NOT_ENDED, Outcome, Trial, Tuning, read_results, write_results
from charlm.tuning.space import Space
from charlm.tuning.storage import MAX_ATTEMPTS, Storage, quiet_optuna
from charlm.tuning.study import (
    Budget,
    StudyFacts,
    begun_study,
    describe_search,
    read_budget,
    read_study_facts,
)
from charlm.tuning.workers import begin_trial, end_trial, fail_lost_trials, fail_trial, heartbeats

_MAX_REPEATS = 50  # After as many draws of values that were tried before, the search is exhausted.
_POLL_SECONDS = 0.5  # Time between two looks at the other workers, if there is nothing to begin.


@dataclass(frozen=True)
class Callbacks:
    """Functions that a search calls.

    Attributes:
        stop: Called after every step; if it returns true, the trial stops and the search ends.
        clock: Returns a time in seconds.
        report: Called with each trial of this process when it ends, and the best trial so far.
        wait: Called with the number of running trials of other workers, when nothing is left to
            begin.
        begin: Called after all checks, before the first trial.
    """

    stop: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    report: Callable[[Trial, Trial | None], None] = lambda trial, best: None
    wait: Callable[[int], None] = lambda running: None
    begin: Callable[[], None] = lambda: None


def tune(
    config: Config,
    search: Sequence[str],
    *,
    out: str | Path,
    budget: Budget | None = None,
    storage: str | None = None,
    study: str | None = None,
    callbacks: Callbacks | None = None,
) -> Tuning:
    """Search for the values with the lowest validation loss.

    If `out` contains the same search already, it is continued. If other workers are working on it,
    this process joins them and returns when the whole search is over. The first trial uses the
    values of the configuration, as far as they lie in the search space.

    Args:
        config: What all trials have in common. Its budget is that of a trial; its seed is also the
            seed of the search.
        search: Keys and values, such as `training.learning_rate=1e-3..3e-2` (a range, searched on
            a logarithmic scale if its ends differ by a factor of ten) or
            `model.hidden_size=256,512` (choices).
        out: Folder of the search.
        budget: Budget of the whole search. A trial that it stops is unfinished, and the first to
            be tried again. None keeps the budget of a search that exists.
        storage: URL of a PostgreSQL database, postgresql://user@host/database, for workers on
            several machines, each with its own folder. Without it, workers on one machine share
            study.db in the folder.
        study: Name of the search in the database; the default is charlm.
        callbacks: Functions that the search calls.

    Raises:
        CharlmError: A key or value is not valid, the text cannot be used or has no validation
            split, `out` or `study` contains something else, or the storage cannot be used.
    """
    folder, facts = Path(out), describe_search(config, search)
    with (
        quiet_optuna(),
        begun_study(folder, facts, budget or Budget(), url=storage, name=study) as begun,
    ):
        from charlm.tuning.trial import train  # It imports torch: after all checks.

        worker = _Worker(
            folder=folder,
            facts=facts,
            spaces=facts.spaces(),
            study=begun.study,
            storage=begun.storage,
            train=train,
            callbacks=callbacks or Callbacks(),
        )
        worker.callbacks.begin()
        return worker.work()


def resume(folder: str | Path, *, storage: str | None = None, **options: Any) -> Tuning:
    """Continue the search in `folder`, or join its workers.

    Args:
        folder: Folder of the search.
        storage: As in `tune`, for example with the password, which the folder does not contain.
        **options: As in `tune`; without a budget, that of the search applies.

    Raises:
        CharlmError: The folder contains no search, its text has changed, or its storage cannot be
            used.
    """
    folder = Path(folder)
    facts = read_study_facts(folder)
    config = check_config(facts.config, str(folder))
    search = [f"{key}={text}" for key, text in facts.space.items()]
    return tune(config, search, out=folder, storage=storage, **options)


@dataclass(frozen=True)
class _Draw:
    """A trial that begins, and its values by key."""

    trial: optuna.Trial
    values: dict[str, Any]


@dataclass
class _Worker:
    """This process at work on a search.

    Attributes:
        folder: Folder of the search on this machine.
        facts: What all trials have in common.
        spaces: Range or choices by key.
        study: Optuna's study.
        storage: Storage of the study.
        train: Function that trains a trial; see `charlm.tuning.trial`.
        callbacks: Functions to call.
        budget: Budget of the search, as this worker has read it last.
        deadline: Time on the clock at which the minutes are over.
        is_exhausted: Whether no values are left to draw.
        last: Results that this worker has written last.
    """

    folder: Path
    facts: StudyFacts
    spaces: dict[str, Space]
    study: optuna.Study
    storage: Storage
    train: Callable[..., tuple[Outcome, str]]
    callbacks: Callbacks
    budget: Budget = field(default_factory=Budget)
    deadline: float = math.inf
    is_exhausted: bool = False
    last: Tuning | None = None

    def work(self) -> Tuning:
        """Try one trial after the other until the search is over."""
        is_waiting = False
        while True:
            with self.storage.lock():
                results = self._update()
                if self._num_remaining(results) <= 0 or self._is_stopped():
                    return results
                draw = self._begin_next(results)
                if draw is None and not results.num_running:
                    return replace(results, exhausted=True)
            if draw is not None:
                is_waiting = False
                self._try(draw)
            else:
                if not is_waiting:
                    self.callbacks.wait(results.num_running)
                is_waiting = True
                time.sleep(_POLL_SECONDS)

    def _update(self) -> Tuning:
        """Fail the trials of lost workers, then read the results and the budget."""
        fail_lost_trials(self.study)
        results = self._read()
        if self.last is None or results.trials != self.last.trials:
            write_results(results, self.facts)
        self.last = results
        budget = read_budget(self.study, self.storage)
        if budget != self.budget:  # Another worker may have increased it.
            self.budget = budget
            self.deadline = self.callbacks.clock() + budget.max_seconds - results.spent_seconds
        return results

    def _read(self) -> Tuning:
        return read_results(self.folder, self.study, self.storage, self.facts)

    def _num_remaining(self, results: Tuning) -> float:
        return self.budget.max_trials - results.num_ended

    def _is_stopped(self) -> bool:
        return self.callbacks.stop() or self.callbacks.clock() >= self.deadline

    def _begin_next(self, results: Tuning) -> _Draw | None:
        """Begin a trial, unless the running ones use up the budget or no values are left."""
        if self._num_remaining(results) <= results.num_running:
            return None
        # When no values are left to draw, those of a lost or stopped trial may be in the queue.
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if self.is_exhausted and not waiting:
            return None
        draw = self._draw(results)
        self.is_exhausted = self.is_exhausted or draw is None
        return draw

    def _draw(self, results: Tuning) -> _Draw | None:
        """Begin a trial with values that no worker has tried or is trying."""
        failed = [trial.values for trial in results.trials if trial.outcome == "failed"]
        tried = [
            trial.values
            for trial in results.trials
            if trial.outcome not in NOT_ENDED or trial.outcome == "running"
        ]
        tried += [values for values in failed if failed.count(values) >= MAX_ATTEMPTS]
        for _ in range(_MAX_REPEATS):
            self.study.sampler = _make_sampler(results.config.training.seed, self.study)
            trial = self.study.ask()
            values = {key: space.suggest(trial, key) for key, space in self.spaces.items()}
            if values not in tried:
                begin_trial(self.study, trial, self.storage, self.folder)
                return _Draw(trial, values)
            trial.set_user_attr("outcome", "repeated")
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    def _try(self, draw: _Draw) -> None:
        """Train a trial, record its outcome and report it."""
        number = draw.trial.number
        try:
            with heartbeats(self.study, draw.trial, self.storage):
                outcome, note = self.train(
                    draw.trial, draw.values, self.facts.config, self.folder, self._is_stopped
                )
        except BaseException:
            with self.storage.lock():
                fail_trial(self.study, number)
            raise
        with self.storage.lock():
            end_trial(self.study, draw.trial, self.storage, outcome, note)
            results = self._read()
            write_results(results, self.facts)
        self.last = results
        ended = next(trial for trial in results.trials if trial.number == number)
        self.callbacks.report(ended, results.best)


def _make_sampler(seed: int, study: optuna.Study) -> optuna.samplers.BaseSampler:
    """Return a sampler for the next trial, so that a continued search draws the same values."""
    trials = study.get_trials(deepcopy=False)
    num_begun = sum(trial.state != TrialState.WAITING for trial in trials)
    sampler_seed = int(np.random.SeedSequence((seed, num_begun)).generate_state(1)[0])
    # The constant liar keeps away from the values that other workers are trying.
    return optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True)
