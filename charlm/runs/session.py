"""Train, evaluate and save a run: a generator of events."""

import math
import shlex
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from charlm.config.training import Training as TrainingSection
from charlm.errors import DivergenceError, counted
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import (
    Evaluated,
    Event,
    Events,
    Experiment,
    Finished,
    Halved,
    Notice,
    Prepared,
    training_windows,
)
from charlm.runs.folder import acquired, check_exists, remove_checkpoint
from charlm.runs.metrics import (
    append_metrics,
    evaluation_metrics,
    overfitting,
    read_metrics,
)
from charlm.runs.old_text import forgetting
from charlm.runs.save_schedule import SaveSchedule
from charlm.runs.snapshot import rewind, save_snapshot
from charlm.runs.validation import (
    EvaluationStopped,
    fraction_scored,
    is_better_than_guessing,
    old_text_metrics,
    record_score,
    validate,
)
from charlm.training.clipping import group_norms
from charlm.training.devices import fast_math
from charlm.training.loop import Progress, steady_clock, train
from charlm.training.loss import Score
from charlm.training.objective import make_objective
from charlm.training.process_group import AnyObjective
from charlm.training.schedule import is_warm_up_shortened

_LONG_EVALUATION_SECONDS = 5.0  # A shorter evaluation is not reported.


def run(
    experiment: Experiment,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> Events:
    """Train until the budget is spent, evaluate and save, and yield every event.

    If the caller closes the generator, as `contextlib.closing` does after an exception, the last
    step is saved. A process of a group saves only the best model then.

    Args:
        experiment: Training run from `prepare.begin` or `prepare.resume`.
        stop: Function that is called after every step and during evaluations. If it returns True,
            the step is saved and training ends. An evaluation that it ends is done first when the
            run is resumed.
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
            fast_math(experiment.hardware.device),
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
    yield from map(Notice, experiment.notices)
    session = _Session(
        experiment=experiment,
        objective=objective,
        save_schedule=SaveSchedule(experiment, clock),
        stop=stop,
        clock=clock,
    )
    session.prepare_good_checkpoint()
    reason = yield from session.train()
    if reason != "stopped":
        history = read_metrics(experiment.folder)
        yield from map(Notice, overfitting(history))
        replay = experiment.config.training.replay
        yield from map(Notice, forgetting(experiment.ancestor, history, replay=replay))
    yield Finished(experiment, reason)


def _make_objective(experiment: Experiment) -> AnyObjective:
    section = experiment.config.training
    objective = make_objective(experiment.model, section, experiment.hardware)
    return experiment.group.wrap(objective, compression=section.gradient_compression)


@dataclass
class _Session:
    """A training in progress.

    Attributes:
        experiment: The training run.
        objective: Training objective of the model, wrapped for the processes of the group.
        save_schedule: Schedule of the checkpoints.
        stop: Function that returns True to end the training after the current step.
        clock: Function that returns seconds.
        is_warm_up_reported: Whether the notice about a shortened warm-up was yielded.
    """

    experiment: Experiment
    objective: AnyObjective
    save_schedule: SaveSchedule
    stop: Callable[[], bool]
    clock: Callable[[], float]
    is_warm_up_reported: bool = False

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
                self._save_interrupted()
                raise
            except DivergenceError as error:
                self.save_schedule.save_best()
                divergence = error.with_traceback(None)  # Its frames hold tensors of the steps.
            yield self._halve(divergence)
        if self.save_schedule.is_pending:
            self.save_schedule.save()
        return reason

    def _train_to_divergence(self) -> Generator[Event, None, str]:
        """Train, evaluate and save until the end or a divergence; return the reason of the end."""
        state = self.experiment.state
        section = self.experiment.config.training
        evaluations = _evaluations_due(state.fraction_done(section), section)
        step_metrics = self.experiment.step_metrics
        # A stop has ended the evaluation that is due.
        reason = (yield from self._evaluate()) if state.due_metrics is not None else None
        if reason is not None:
            return reason
        for progress in self._steps():
            step_metrics.add(progress)
            due = _evaluations_due(progress.fraction_done, section)
            if due > evaluations:
                evaluations = due
                rate = progress.learning_rate
                state.due_metrics = step_metrics.summary(section, learning_rate=rate)
                step_metrics.clear()
            yield progress
            yield from self._notices(progress)
            reason = yield from self._evaluate_or_save(progress)
            if reason is not None:
                return reason
        return "budget"

    def _notices(self, progress: Progress) -> Iterator[Notice]:
        """Yield lines about a step: a suspension, and once that the warm-up is shortened."""
        section = self.experiment.config.training
        step, fraction = progress.step, progress.fraction_done
        if progress.suspended_seconds:
            yield Notice(
                f"step {step:,} was interrupted for {progress.suspended_seconds:,.0f} s, which do "
                "not count as training time"
            )
        is_shortened = is_warm_up_shortened(section, step=step, fraction_done=fraction)
        if is_shortened and not self.is_warm_up_reported:
            self.is_warm_up_reported = True
            yield Notice(
                f"the budget is shorter than the warm-up of {section.warmup_steps:,} steps "
                "(training.warmup_steps): the warm-up is shortened to a tenth of the budget"
            )

    def _evaluate_or_save(self, progress: Progress) -> Generator[Event, None, str | None]:
        """After a step, evaluate or save if it is time to; return the reason to end, or None."""
        group = self.experiment.group
        is_evaluation_due = self.experiment.state.due_metrics is not None
        # If one process is asked to stop, all stop; the clock of the first decides on saves.
        is_save_due = group.is_first and not is_evaluation_due and self.save_schedule.is_due()
        is_stopping, is_saving = group.all_reduce(self.stop(), is_save_due)
        if is_evaluation_due or is_stopping or is_saving:
            _check_finite(self.experiment, progress)
        if is_stopping or is_saving:
            self.save_schedule.save()
        if is_stopping:
            return "stopped"
        return (yield from self._evaluate()) if is_evaluation_due else None

    def _steps(self) -> Iterator[Progress]:
        experiment = self.experiment
        section = experiment.config.training
        if experiment.config.task.has_pairs:  # Whole records have too many lengths to record all.
            section = section.model_copy(update={"cuda_graph": False})
        return train(
            self.objective,
            training_windows(experiment),
            experiment.optimizer,
            section,
            state=experiment.state,
            average=experiment.average,
            group=experiment.group,
            clock=self.clock,
        )

    def _evaluate(self) -> Generator[Event, None, str | None]:
        """Score the model, add a line to metrics.jsonl, and save the model or schedule its save.

        Returns:
            The reason to end the training; None to continue.
        """
        experiment = self.experiment
        is_first = experiment.state.validation_part is None
        began = self.clock()
        try:
            with experiment.average.applied():
                score = validate(experiment, stop=self.stop, clock=self.clock)
                old_text = old_text_metrics(experiment)
        except EvaluationStopped:
            self.save_schedule.save()
            return "stopped"
        seconds = self.clock() - began
        if is_first:
            yield from _slow_evaluation(experiment, score, seconds)
        event = self._record(score, seconds, old_text)
        with experiment.average.applied():
            yield event
        is_over = experiment.state.is_out_of_patience(experiment.config.training)
        return "patience" if is_over else None

    def _record(self, score: Score | None, seconds: float, old_text: dict[str, float]) -> Evaluated:
        experiment = self.experiment
        is_best = record_score(experiment, score)
        metrics = old_text | evaluation_metrics(
            experiment,
            score,
            fraction_scored=fraction_scored(experiment, score),
            evaluation_seconds=seconds,
            is_best=is_best,
        )
        experiment.state.due_metrics = None
        if experiment.group.is_first:
            check_exists(experiment.folder)
            # Before saving: a step without its line is trained again.
            append_metrics(experiment.folder, metrics)
        self.save_schedule.after_evaluation(
            is_best=is_best, is_good=is_better_than_guessing(experiment, score)
        )
        return Evaluated(experiment=experiment, score=score, metrics=metrics, is_best=is_best)

    def _save_interrupted(self) -> None:
        """Save the last step, if its weights are finite, and the best model.

        The processes of a group would have to save together; one of them saves the best model only.
        """
        if self.experiment.group.size == 1 and _weight_norms(self.experiment).isfinite().all():
            self.save_schedule.save()
        else:
            self.save_schedule.save_best()

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
        return Halved(experiment=experiment, message=divergence.problem, metrics=metrics)


def _evaluations_due(fraction_done: float, section: TrainingSection) -> int:
    """Return the number of evaluations that belong to a spent fraction of the budget."""
    return int(min(fraction_done, 1.0) * section.evaluations + 1e-9)


def _check_may_halve(experiment: Experiment, divergence: DivergenceError) -> None:
    """Raise DivergenceError if the learning rate is not to be halved after a divergence."""
    section = experiment.config.training
    if section.on_divergence == "stop":
        remedy = f"{divergence.remedy}, or set training.on_divergence=halve"
        raise DivergenceError(divergence.problem, remedy)
    halvings = experiment.state.halvings
    if halvings >= section.halvings:
        times = counted(halvings, "time")
        remedy = f"{divergence.remedy} (the learning rate was already halved {times})"
        raise DivergenceError(divergence.problem, remedy)


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


def _slow_evaluation(
    experiment: Experiment, score: Score | None, seconds: float
) -> Iterator[Notice]:
    """Yield a line about the duration of the first evaluation, if it is long."""
    fraction = fraction_scored(experiment, score)
    measure = "task" if experiment.config.task.has_pairs else "perplexity"
    if fraction < 1:
        yield Notice(
            f"evaluations of the whole validation split would take more than the fraction "
            f"{experiment.config.training.evaluation_share} of the budget "
            f"(training.evaluation_share), so {fraction:.2%} of the split is scored during "
            f"training; charlm eval {measure} {shlex.quote(str(experiment.folder))} scores all "
            "of it"
        )
    elif seconds > max(experiment.state.seconds, _LONG_EVALUATION_SECONDS):
        yield Notice(
            f"the evaluation took {seconds:,.0f} s after {experiment.state.seconds:,.0f} s of "
            "training; for fewer or shorter ones, set training.evaluations=1, or make the "
            "validation split smaller (corpus.valid_share, corpus.valid_text) in a new run"
        )


def _check_finite(experiment: Experiment, progress: Progress) -> None:
    """Raise DivergenceError if the loss, its gradient or the weights are not finite."""
    progress.check_finite()
    norms = _weight_norms(experiment)
    if not norms.isfinite().all():
        norms_by_group = group_norms(norms, progress.groups)
        group = max(norms_by_group, key=norms_by_group.__getitem__)
        raise DivergenceError(
            f"step {progress.step}: the weights of {group} are not finite any more"
        )


def _weight_norms(experiment: Experiment) -> Tensor:
    """Return the largest absolute value of each weight tensor."""
    return torch.stack(torch._foreach_norm(list(experiment.model.parameters()), math.inf))
