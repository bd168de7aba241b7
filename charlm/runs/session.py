"""Train, evaluate and save a run: a generator of events."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from charlm.config.schema import Training as TrainingSection
from charlm.errors import DivergenceError
from charlm.runs.checkpoint import load_checkpoint, remove_checkpoint
from charlm.runs.experiment import (
    Evaluated,
    Event,
    Experiment,
    Finished,
    Halved,
    Prepared,
    training_windows,
)
from charlm.runs.folder import acquired, check_exists
from charlm.runs.metrics import StepMetrics, append_metrics, evaluation_metrics
from charlm.runs.save_schedule import SaveSchedule
from charlm.runs.snapshot import rewind, save_snapshot
from charlm.runs.validation import is_better_than_guessing, record_score, validate
from charlm.training.clipping import group_norms
from charlm.training.devices import fast_math
from charlm.training.loop import DIVERGENCE_REMEDY, Progress, steady_clock, train
from charlm.training.objective import LanguageModelObjective
from charlm.training.process_group import AnyObjective


def run(
    experiment: Experiment,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Event]:
    """Train until the budget is spent, evaluate and save, and yield every event.

    Args:
        experiment: Training run from `prepare.begin` or `prepare.resume`.
        stop: Function that is called after every step. If it returns True, the step is saved and
            training ends.
        clock: Function that returns seconds.

    Raises:
        DivergenceError: The loss is not finite; the last good checkpoint is kept.
        CheckpointError: A checkpoint cannot be written, or another process trains in the folder.
        GroupError: Another process of the group has ended, or does not answer.
    """
    group = experiment.group
    section = experiment.config.training
    try:
        with (
            fast_math(),
            acquired(experiment.lock) if group.is_first else nullcontext(),
            group.lost_process_reported(),
        ):
            group.connect(experiment.hardware.device, timeout_seconds=section.timeout_seconds)
            yield from _run(experiment, stop, steady_clock(clock))
            group.leave()
    finally:
        experiment.lock.release()


def _run(
    experiment: Experiment, stop: Callable[[], bool], clock: Callable[[], float]
) -> Iterator[Event]:
    objective = _make_objective(experiment)
    yield Prepared(experiment)
    session = _Session(
        experiment=experiment,
        objective=objective,
        save_schedule=SaveSchedule(experiment, clock),
        stop=stop,
        clock=clock,
    )
    session.prepare_good_checkpoint()
    reason = yield from session.train()
    yield Finished(experiment, reason)


def _make_objective(experiment: Experiment) -> AnyObjective:
    section = experiment.config.training
    objective = LanguageModelObjective(experiment.model, section, experiment.hardware)
    return experiment.group.wrap(objective, compression=section.gradient_compression)


@dataclass(frozen=True)
class _Session:
    """A training in progress.

    Attributes:
        experiment: The training run.
        objective: Training objective of the model, wrapped for the processes of the group.
        save_schedule: Schedule of the checkpoints.
        stop: Function that returns True to end the training after the current step.
        clock: Function that returns seconds.
    """

    experiment: Experiment
    objective: AnyObjective
    save_schedule: SaveSchedule
    stop: Callable[[], bool]
    clock: Callable[[], float]

    def prepare_good_checkpoint(self) -> None:
        """Make sure that a training that halves its rate has a checkpoint to return to.

        Another training removes it. Otherwise a later one would return to an old state.
        """
        group = self.experiment.group
        good = self.experiment.folder / "good"
        if group.is_first and not self.save_schedule.keeps_good:
            remove_checkpoint(good)
        is_missing = group.is_first and not (good / "state.json").is_file()
        if self.save_schedule.keeps_good and any(group.all_reduce(is_missing)):
            save_snapshot(self.experiment, "good")

    def train(self) -> Generator[Event, None, str]:
        """Train to the end, halving the rate after divergences; return the reason of the end."""
        while True:
            try:
                reason = yield from self._train_to_divergence()
                break
            except GeneratorExit:  # The caller may load the best model next.
                self.save_schedule.save_best()
                raise
            except DivergenceError as error:
                self.save_schedule.save_best()
                divergence = error
            yield self._halve(divergence)
        if self.save_schedule.is_pending:
            self.save_schedule.save()
        return reason

    def _train_to_divergence(self) -> Generator[Event, None, str]:
        """Train, evaluate and save until the end or a divergence; return the reason of the end."""
        group = self.experiment.group
        section = self.experiment.config.training
        evaluations = _evaluations_due(self.experiment.state.fraction_done(section), section)
        step_metrics = StepMetrics(self.experiment.model)
        for progress in self._steps():
            yield progress
            step_metrics.add(progress)
            due = _evaluations_due(progress.fraction_done, section)
            # A process that is asked to stop stops all; the clock of the first decides on saves.
            is_stopping, is_saving = group.all_reduce(
                self.stop(), group.is_first and due == evaluations and self.save_schedule.is_due()
            )
            if due > evaluations:
                evaluations = due
                event = self._evaluate(progress, step_metrics)
                with self.experiment.average.applied():
                    yield event
                step_metrics = StepMetrics(self.experiment.model)
                if _is_out_of_patience(self.experiment):
                    return "patience"
            elif is_stopping or is_saving:
                _check_finite(self.experiment, progress)
                self.save_schedule.save()
            if is_stopping:
                return "stopped"
        return "budget"

    def _steps(self) -> Iterator[Progress]:
        experiment = self.experiment
        return train(
            self.objective,
            training_windows(experiment),
            experiment.optimizer,
            experiment.config.training,
            state=experiment.state,
            average=experiment.average,
            group=experiment.group,
            clock=self.clock,
        )

    def _evaluate(self, progress: Progress, step_metrics: StepMetrics) -> Evaluated:
        """Score the model, add a line to metrics.jsonl, and save the model or schedule its save."""
        experiment = self.experiment
        _check_finite(experiment, progress)
        began = self.clock()
        with experiment.average.applied():
            score = validate(experiment)
        is_best = record_score(experiment, score)
        metrics = evaluation_metrics(
            experiment,
            progress,
            step_metrics,
            score,
            evaluation_seconds=self.clock() - began,
            is_best=is_best,
        )
        if experiment.group.is_first:
            check_exists(experiment.folder)
            # Before saving: a step without its line is trained again.
            append_metrics(experiment.folder, metrics)
        self.save_schedule.after_evaluation(
            is_best=is_best, is_good=is_better_than_guessing(experiment, score)
        )
        return Evaluated(experiment=experiment, score=score, metrics=metrics, is_best=is_best)

    def _halve(self, divergence: DivergenceError) -> Halved:
        """Return to the last good evaluation, to continue with half the learning rate.

        Raises:
            DivergenceError: `on_divergence` is `stop`, or the limit of halvings is reached.
        """
        experiment = self.experiment
        _check_may_halve(experiment, divergence)
        metrics = _return_to_good(experiment)
        if experiment.group.is_first:
            append_metrics(experiment.folder, metrics)
        save_snapshot(experiment, "last")
        save_snapshot(experiment, "good")
        return Halved(experiment=experiment, message=str(divergence), metrics=metrics)


def _evaluations_due(fraction_done: float, section: TrainingSection) -> int:
    """Return the number of evaluations that belong to a spent fraction of the budget."""
    return int(min(fraction_done, 1.0) * section.evaluations + 1e-9)


def _is_out_of_patience(experiment: Experiment) -> bool:
    patience = experiment.config.training.patience
    return patience is not None and experiment.state.evaluations_since_best >= patience


def _check_may_halve(experiment: Experiment, divergence: DivergenceError) -> None:
    """Raise DivergenceError if the learning rate is not to be halved after a divergence."""
    section = experiment.config.training
    if section.on_divergence == "stop":
        raise divergence
    halvings = experiment.state.halvings
    if halvings >= section.halvings:
        raise DivergenceError(
            f"{divergence} (the learning rate was already halved {halvings} times)"
        )


def _return_to_good(experiment: Experiment) -> dict[str, Any]:
    """Return to the checkpoint `good` with half the learning rate.

    Returns:
        The line of metrics.jsonl about the halving.
    """
    state = experiment.state
    halvings = state.halvings + 1
    seconds = state.seconds
    diverged_at = state.step
    experiment.group.barrier()  # The first process may still be writing the checkpoint.
    rewind(experiment, load_checkpoint(experiment.folder / "good"))
    state.halvings = halvings
    state.seconds = seconds  # The time stays spent.
    experiment.group.barrier()  # Every process has read the checkpoint.
    return {
        "step": state.step,
        "halvings": halvings,
        "diverged_after_step": diverged_at,
        "seconds": round(seconds, 3),
        "learning_rate": experiment.config.training.learning_rate * 0.5**halvings,
    }


def _check_finite(experiment: Experiment, progress: Progress) -> None:
    """Raise DivergenceError if the loss, its gradient or the weights are not finite."""
    progress.check_finite()
    norms = torch.stack(torch._foreach_norm(list(experiment.model.parameters()), math.inf))
    if not norms.isfinite().all():
        norms_by_group = group_norms(norms, progress.groups)
        group = max(norms_by_group, key=norms_by_group.__getitem__)
        raise DivergenceError(
            f"step {progress.step}: the weights of {group} are not finite any more; "
            f"{DIVERGENCE_REMEDY}"
        )
