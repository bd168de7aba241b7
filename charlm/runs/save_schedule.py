"""Decide when checkpoints are written, so that saving takes a bounded fraction of the time."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from charlm.runs.checkpoint import save_checkpoint, state_facts, weights_of
from charlm.runs.experiment import Experiment, save
from charlm.runs.folder import check_there

# Until a save was timed: a plain disk takes so many bytes a second; a weight has four, and Adam keeps two numbers more.
_BYTES_A_SECOND, _BYTES_A_WEIGHT = 1.5e8, 12


class _Saves:
    """Writes checkpoints when they are due: soon, but so seldom that they take no more than a share of training's time.

    The best weights wait in memory. What a crash takes with it comes again: `last` is written after `best`, so that
    training goes on from before an evaluation whose weights are not on disk.

    Attributes:
        asked: Whether an evaluation waits to be saved.
        keeps_good: Whether evaluations are kept to go back to: then each is saved at once, so that where training
            goes back to does not depend on the clock.
    """

    def __init__(self, experiment: Experiment, clock: Callable[[], float]) -> None:
        self.asked = False
        self.keeps_good = experiment.config.training.on_divergence == "halve"
        self._experiment, self._clock, self._section = (
            experiment,
            clock,
            experiment.config.checkpoint,
        )
        self._best: dict[str, Tensor] = {}
        self._best_facts: dict[str, Any] = {}
        self._good = False
        self._trained_before, self._ended = experiment.state.seconds, clock()
        weights = sum(tensor.numel() for tensor in experiment.model.parameters())
        self._spent, self._expected = 0.0, _BYTES_A_WEIGHT * weights / _BYTES_A_SECOND

    def note_evaluation(self, *, best: bool, good: bool) -> None:
        """Ask for the model as it stands to be saved, as the best so far or one to go back to, too."""
        experiment = self._experiment
        if best and experiment.group.is_first:
            weights = weights_of(experiment.model) | experiment.average.weights
            self._best = {name: tensor.to("cpu", copy=True) for name, tensor in weights.items()}
            self._best_facts = state_facts(experiment.state, experiment.average)
        self.asked, self._good = True, good and self.keeps_good

    def are_due(self) -> bool:
        """Return whether to write now: it is time, and takes no more than its share so far."""
        now, share = self._clock(), self._section.save_share
        if not self.asked and now - self._ended < self._section.save_seconds:
            return False
        if share is None or (self.asked and self.keeps_good):
            return True
        trained = self._experiment.state.seconds - self._trained_before
        return self._spent + self._expected <= share * trained

    def write(self) -> None:
        """Write what is to be kept, `last` in any case."""
        began = self._clock()
        self.write_best()
        if self._experiment.group.is_first:
            check_there(self._experiment.folder)
        save(self._experiment, "last")
        if self._good:
            save(self._experiment, "good")
        self.asked = self._good = False
        self._ended = self._clock()
        self._expected = self._ended - began
        self._spent += self._expected

    def write_best(self) -> None:
        """Write the best weights, if they are not on disk yet."""
        if self._best:
            check_there(self._experiment.folder)
            save_checkpoint(
                self._experiment.folder / "best", self._best_facts, {"weights": self._best}
            )
            self._best = {}
