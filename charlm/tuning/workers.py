"""Processes that work on one search: heartbeats, lost trials, and what a trial says of its worker.

A worker records heartbeats in Optuna's storage. Optuna fails a trial without a recent heartbeat and
puts its parameters back into the queue. Only the thread that records them is our own: Optuna starts
one in `Study.optimize` alone, which would begin trials without the lock under which workers decide.
"""

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from charlm.errors import CharlmError
from charlm.storage.untrusted import StrictModel
from charlm.tuning.storage import HEARTBEAT_SECONDS, Storage, retry

# A running trial without this attribute has no heartbeat: its worker ended while it began the
# trial, or an earlier version of charlm left it.
_HAS_HEARTBEAT = "has_heartbeat"


class WorkerFacts(StrictModel):
    """The worker of a trial.

    Attributes:
        host: Name of the machine.
        folder: Folder of the search on this machine.
    """

    host: str = Field(max_length=1_000)
    folder: str = Field(max_length=10_000)


class TrialFacts(StrictModel):
    """The attributes that workers add to a trial of Optuna.

    Attributes:
        outcome: Outcome of the trial, or None while it is running.
        note: Reason for the outcome.
        worker: The worker, or None if it ended while it began the trial.
        began: Time of the start, in seconds of the storage's clock.
        ended: Time of the end.
    """

    outcome: str | None = None
    note: str = ""
    worker: WorkerFacts | None = None
    began: float | None = None
    ended: float | None = None


def read_facts(trial: FrozenTrial, storage: Storage) -> TrialFacts:
    """Return the checked attributes of a trial.

    Raises:
        CharlmError: charlm did not write them.
    """
    attributes: dict[str, Any] = trial.user_attrs
    try:
        return TrialFacts.model_validate(attributes)
    except ValueError:
        raise damaged_trial(trial, storage) from None


def damaged_trial(trial: FrozenTrial, storage: Storage) -> CharlmError:
    """Return the error for a trial that charlm cannot have written."""
    return storage.problem(f"trial {trial.number} was not written by charlm")


def begin_trial(study: optuna.Study, trial: optuna.Trial, storage: Storage, folder: Path) -> None:
    """Record the first heartbeat of a trial, and its worker. The caller holds the lock."""
    storage.record_heartbeat(study.study_name, trial.number)
    worker = WorkerFacts(host=socket.gethostname(), folder=str(folder.absolute()))
    trial.set_user_attr("began", storage.clock())
    trial.set_user_attr("worker", worker.model_dump())
    trial.set_user_attr(_HAS_HEARTBEAT, True)


@contextmanager
def heartbeats(study: optuna.Study, trial: optuna.Trial, storage: Storage) -> Iterator[None]:
    """Record heartbeats of a trial in a thread."""
    is_over = threading.Event()

    def record() -> None:
        while not is_over.wait(HEARTBEAT_SECONDS):
            # If the database cannot be reached now, it may be reached the next time.
            with suppress(Exception):
                storage.record_heartbeat(study.study_name, trial.number)

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def end_trial(
    study: optuna.Study, trial: optuna.Trial, storage: Storage, outcome: str, note: str
) -> None:
    """Record the outcome of a trial, unless another worker has taken it for lost."""
    stored = _stored(study, trial.number)
    if stored.state != TrialState.RUNNING:
        return
    trial.set_user_attr("outcome", outcome)
    trial.set_user_attr("note", note)
    trial.set_user_attr("ended", storage.clock())
    if outcome == "unfinished":  # First, so that a worker killed in between loses no values.
        study.enqueue_trial(trial.params)
    if outcome == "finished":
        losses = filter(math.isfinite, stored.intermediate_values.values())
        study.tell(trial, min(losses))
    else:
        study.tell(trial, state=TrialState.PRUNED)  # The sampler learns to avoid these values.


def fail_lost_trials(study: optuna.Study) -> None:
    """Fail the trials of lost workers and put their parameters back into the queue."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _HAS_HEARTBEAT not in trial.user_attrs:
            fail_trial(study, trial.number)


def fail_trial(study: optuna.Study, number: int) -> None:
    """Fail a running trial and put its parameters back into the queue."""
    stored = _stored(study, number)
    if stored.state == TrialState.RUNNING:
        study.tell(number, state=TrialState.FAIL)
        retry(study, stored)


def _stored(study: optuna.Study, number: int) -> FrozenTrial:
    return next(trial for trial in study.get_trials() if trial.number == number)
