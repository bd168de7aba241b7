"""The processes that work at a search: who tries what, and who is still there.

Of those in one folder the kernel says it: a worker holds `DIR/.workers/ID` locked for as long as it lives. Of one in
another folder, on another machine perhaps, one can know only that it has not been heard of for a while.
"""

import math
import socket
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from charlm.errors import CharlmError, CheckpointError
from charlm.storage.locks import ProcessLock
from charlm.storage.untrusted import StrictModel
from charlm.tuning.storage import Storage

BEAT_SECONDS = 10.0  # Between two signs of life of a worker,
LOST_SECONDS = 60.0  # and without any for so long it is taken for lost.


class WorkerFacts(StrictModel):
    """What a trial says of its worker."""

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    host: str = Field(max_length=1_000)
    folder: str = Field(max_length=10_000)


class TrialFacts(StrictModel):
    """What the workers write into a trial, besides what Optuna keeps of it."""

    outcome: str | None = None
    note: str = ""
    worker: WorkerFacts | None = None
    began: float | None = None
    seen: float | None = None
    ended: float | None = None


class Worker:
    """This process, as long as it works at a search."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        """Be nobody yet.

        Args:
            folder: Where its trials' runs stand.
            storage: Of the search.
        """
        self._folder, self._storage = folder, storage
        self._id, self._lost = uuid.uuid4().hex, threading.Event()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Let the other workers on this machine know that this one lives."""
        path = self._folder / ".workers" / self._id
        lock = ProcessLock(path)
        lock.acquire(error_type=CheckpointError, remedy="begin again")
        try:
            yield
            with suppress(
                OSError
            ):  # Left behind by one that fails: its trial's loss is seen by it.
                path.unlink()
        finally:
            lock.release()

    def begin(self, trial: optuna.Trial) -> None:
        """Put this worker's name to a trial."""
        now, host = self._storage.clock(), socket.gethostname()
        trial.set_user_attr("began", now)
        trial.set_user_attr("seen", now)
        trial.set_user_attr(
            "worker", {"id": self._id, "host": host, "folder": str(self._folder.absolute())}
        )
        self._lost.clear()

    @contextmanager
    def trying(self, trial: optuna.Trial) -> Iterator[None]:
        """Give signs of life while a trial is running."""
        if not self._storage.is_shared:
            yield
            return
        end = threading.Event()
        beats = threading.Thread(target=self._beat, args=(trial, end), daemon=True)
        beats.start()
        try:
            yield
        finally:
            end.set()
            beats.join()

    def is_lost(self) -> bool:
        """Whether the others have taken this worker for lost, so that its trial is not its own any more."""
        return self._lost.is_set()

    def end(self, study: optuna.Study, trial: optuna.Trial, outcome: str, note: str) -> None:
        """Tell the study what came of a trial, unless another worker has taken it up."""
        known = next(
            known for known in study.get_trials(deepcopy=False) if known.number == trial.number
        )
        if known.state != TrialState.RUNNING:
            return
        trial.set_user_attr("outcome", outcome)
        trial.set_user_attr("note", note)
        trial.set_user_attr("ended", self._storage.clock())
        if (
            outcome == "unfinished"
        ):  # Before it is told: one that is killed between the two leaves it twice, not never.
            study.enqueue_trial(trial.params)
        if outcome == "finished":
            study.tell(
                trial,
                min(loss for loss in known.intermediate_values.values() if math.isfinite(loss)),
            )
        else:
            study.tell(trial, state=TrialState.PRUNED)  # So that the sampler learns to stay away.

    def take_up(self, study: optuna.Study) -> None:
        """Have the trials of lost workers tried again."""
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        now = self._storage.clock() if running else 0.0
        for left in running:
            if not self._is_alive(left, now):
                if values := left.system_attrs.get("fixed_params", {}) | left.params:
                    study.enqueue_trial(values)
                study.tell(left.number, state=TrialState.FAIL)

    def _is_alive(self, trial: FrozenTrial, now: float) -> bool:
        facts = facts_of(trial, self._storage)
        if (
            facts.worker is None
        ):  # They are written while all others wait, so that its worker ended in the midst of it.
            return False
        path = self._folder / ".workers" / facts.worker.id
        if path.exists():
            if ProcessLock(path).is_held():
                return True
            with suppress(OSError):
                path.unlink()
            return False
        return self._storage.is_shared and now - (facts.seen or 0.0) < LOST_SECONDS

    def _beat(self, trial: optuna.Trial, end: threading.Event) -> None:
        while not end.wait(BEAT_SECONDS):
            try:
                trial.set_user_attr("seen", self._storage.clock())
            except UpdateFinishedTrialError:
                return self._lost.set()
            except Exception:  # The database is away: the training goes on, and may find it again.
                continue


def facts_of(trial: FrozenTrial, storage: Storage) -> TrialFacts:
    """Return what a trial says of itself, checked.

    Raises:
        CharlmError: It is not like what a worker writes.
    """
    attributes: Mapping[str, Any] = trial.user_attrs
    try:
        return TrialFacts.model_validate(attributes)
    except ValueError:
        raise damaged_trial(trial, storage) from None


def damaged_trial(trial: FrozenTrial, storage: Storage) -> CharlmError:
    """Return what a trial that no worker can have written is told as."""
    return storage.damage(f"trial {trial.number} is not as charlm writes it")
