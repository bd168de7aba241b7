"""Decide when checkpoints are written, so that saving takes a bounded fraction of the time."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from charlm.runs.checkpoint import save_checkpoint
from charlm.runs.experiment import Experiment
from charlm.runs.folder import check_exists
from charlm.runs.snapshot import save_snapshot, scored_weights, state_facts
from charlm.training.durations import Durations

# Estimate of the first save: an ordinary disk, four bytes per weight, and eight in Adam's state.
_BYTES_PER_SECOND = 1.5e8
_BYTES_PER_WEIGHT = 12


class SaveSchedule:
    """Writes checkpoints soon, but so rarely that saving takes at most a fraction of the time.

    The best weights wait in memory until they are written. A crash loses no evaluation, but repeats
    it: `last` is written after `best`, so training resumes from before an evaluation whose weights
    are not on disk.

    Attributes:
        is_pending: Whether an evaluation is not saved yet.
        keeps_good: Whether training returns to the checkpoint `good` after a divergence. Then every
            evaluation is saved at once, so that `good` does not depend on the clock.
    """

    def __init__(self, experiment: Experiment, clock: Callable[[], float]) -> None:
        """Start with nothing to save.

        Args:
            experiment: The training run.
            clock: Function that returns seconds.
        """
        self.is_pending = False
        self.keeps_good = experiment.config.training.on_divergence == "halve"
        self._experiment = experiment
        self._clock = clock
        self._section = experiment.config.checkpoint
        self._best_weights: dict[str, Tensor] = {}
        self._best_facts: dict[str, Any] = {}
        self._is_good = False
        self._trained_before = experiment.state.seconds
        self._last_save_ended = clock()
        self._seconds_saving = 0.0
        self._durations = Durations()
        weights = sum(tensor.numel() for tensor in experiment.model.parameters())
        self._expected_seconds = _BYTES_PER_WEIGHT * weights / _BYTES_PER_SECOND

    def after_evaluation(self, *, is_best: bool, is_good: bool) -> None:
        """Save the evaluated model, now or later.

        All processes of a group call this together.

        Args:
            is_best: Whether it is the best model so far.
            is_good: Whether training may return to it after a divergence.

        Raises:
            CheckpointError: The folder cannot be written, or has disappeared.
        """
        experiment = self._experiment
        if is_best and experiment.group.is_first:
            self._best_weights = {
                name: tensor.to("cpu", copy=True)
                for name, tensor in scored_weights(experiment).items()
            }
            self._best_facts = state_facts(experiment)
        self.is_pending = True
        self._is_good = is_good and self.keeps_good
        if any(experiment.group.all_reduce(experiment.group.is_first and self.is_due())):
            self.save()

    def is_due(self) -> bool:
        """Return whether to save now.

        A save is due after an evaluation and after `save_seconds`, unless saving would then have
        taken more than `save_share` of the time.
        """
        now = self._clock()
        fraction = self._section.save_share
        if not self.is_pending and now - self._last_save_ended < self._section.save_seconds:
            return False
        if fraction is None or (self.is_pending and self.keeps_good):
            return True
        trained = self._experiment.state.seconds - self._trained_before
        return self._seconds_saving + self._expected_seconds <= fraction * trained

    def save(self) -> None:
        """Write the best weights, if they wait, and the last state; after a good evaluation `good`.

        Raises:
            CheckpointError: The folder cannot be written, or has disappeared.
        """
        began = self._clock()
        self.save_best()
        if self._experiment.group.is_first:
            check_exists(self._experiment.folder)
        save_snapshot(self._experiment, "last")
        if self._is_good:
            save_snapshot(self._experiment, "good")
        self.is_pending = self._is_good = False
        self._last_save_ended = self._clock()
        # A save in which the process was suspended must not prevent later ones.
        self._expected_seconds = self._durations.counted(self._last_save_ended - began)
        self._seconds_saving += self._expected_seconds

    def save_best(self) -> None:
        """Write the best weights, if they are not on disk yet.

        Raises:
            CheckpointError: The folder cannot be written, or has disappeared.
        """
        if self._best_weights:
            folder = self._experiment.folder
            check_exists(folder)
            save_checkpoint(folder / "best", self._best_facts, {"weights": self._best_weights})
            self._best_weights = {}
