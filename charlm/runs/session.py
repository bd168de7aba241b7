"""Train, evaluate and save: the stream of events of a run."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from charlm.config.schema import Training
from charlm.errors import DivergenceError
from charlm.runs.checkpoint import forget_checkpoint, load_checkpoint
from charlm.runs.experiment import (
    Evaluated,
    Event,
    Experiment,
    Finished,
    Halved,
    Prepared,
    save,
    training_windows,
)
from charlm.runs.folder import check_there
from charlm.runs.metrics import _Totals, append_metrics
from charlm.runs.prepare import _go_to, _held
from charlm.runs.save_schedule import _Saves
from charlm.runs.validation import validate
from charlm.training.clipping import group_norms
from charlm.training.devices import Hardware, fast_math
from charlm.training.loop import DIVERGENCE_REMEDY, Progress, steady_clock, train
from charlm.training.objective import LanguageModelObjective
from charlm.training.process_group import AnyObjective


def run(
    experiment: Experiment,
    *,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Event]:
    """Train, evaluate and save until the budget is spent, yielding what happens.

    Args:
        experiment: From `begin` or `resume`.
        stop: Asked after every step; when true, the step is saved and training ends.
        clock: Seconds.

    Raises:
        DivergenceError: The loss is no longer finite; the last good checkpoint is kept.
        CheckpointError: A checkpoint cannot be written, or another process trains in the folder.
        GroupError: A process of the group has ended, or does not answer.
    """
    group = experiment.group
    try:
        with (
            fast_math(),
            _held(experiment.lock) if group.is_first else nullcontext(),
            group.lost_process_reported(),
        ):
            group.connect(
                experiment.device, timeout_seconds=experiment.config.training.timeout_seconds
            )
            yield from _run(experiment, stop, steady_clock(clock))
            group.leave()
    finally:
        experiment.lock.release()


def _run(
    experiment: Experiment, stop: Callable[[], bool], clock: Callable[[], float]
) -> Iterator[Event]:
    section, group = experiment.config.training, experiment.group
    hardware = Hardware(experiment.device, experiment.precision)
    objective = group.wrap(
        LanguageModelObjective(experiment.model, section, hardware),
        compression=section.gradient_compression,
    )
    yield Prepared(experiment)
    saves, good = _Saves(experiment, clock), experiment.folder / "good"
    if group.is_first and not saves.keeps_good:
        forget_checkpoint(good)  # Not to be gone back to by a later training from far ahead.
    if saves.keeps_good and any(
        group.all_reduce(group.is_first and not (good / "state.json").is_file())
    ):
        save(experiment, "good")
    while True:
        try:
            reason = yield from _steps(experiment, objective, saves, stop, clock)
            break
        except (
            GeneratorExit
        ):  # Whoever asked for events has had enough, and may load the best next.
            saves.write_best()
            raise
        except DivergenceError as error:
            saves.write_best()
            diverged = error
        yield _halve(experiment, diverged)
    if saves.asked:
        saves.write()
    yield Finished(experiment, reason)


def _steps(
    experiment: Experiment,
    objective: AnyObjective,
    saves: "_Saves",
    stop: Callable[[], bool],
    clock: Callable[[], float],
) -> Generator[Event, None, str]:
    """Train on, evaluating and saving; return why it ended."""
    section, state, group = experiment.config.training, experiment.state, experiment.group
    evaluated, totals = (
        _evaluations_due(state.fraction_done(section), section),
        _Totals(experiment.model),
    )
    for progress in train(
        objective,
        training_windows(experiment),
        experiment.optimizer,
        section,
        state=state,
        average=experiment.average,
        group=group,
        clock=clock,
    ):
        yield progress
        totals.add(progress)
        # One that is asked to stop stops all; the first one's clock says when to save.
        due = _evaluations_due(progress.fraction_done, section)
        stopping, saving = group.all_reduce(
            stop(), group.is_first and due == evaluated and saves.are_due()
        )
        if due > evaluated:
            evaluated = due
            event = _evaluate(experiment, progress, totals, clock, saves)
            with experiment.average.applied():
                yield event
            totals = _Totals(experiment.model)
            if section.patience is not None and state.evaluations_since_best >= section.patience:
                return "patience"
        elif stopping or saving:
            _check(experiment, progress)
            saves.write()
        if stopping:
            return "stopped"
    return "budget"


def _halve(experiment: Experiment, error: DivergenceError) -> Halved:
    """Go back to the last good evaluation, to go on with half the rate.

    Raises:
        DivergenceError: That is not asked for, or was done as often as is allowed.
    """
    section, state = experiment.config.training, experiment.state
    if section.on_divergence == "stop":
        raise error
    if state.halvings >= section.halvings:
        raise DivergenceError(f"{error} (the rate was halved {state.halvings} times already)")
    halvings, seconds, diverged_at = state.halvings + 1, state.seconds, state.step
    experiment.group.barrier()  # The first one may still be writing what all go back to.
    _go_to(experiment, load_checkpoint(experiment.folder / "good"))
    state.halvings, state.seconds = halvings, seconds  # What was spent is spent.
    metrics = {
        "step": state.step,
        "halvings": halvings,
        "diverged_after_step": diverged_at,
        "seconds": round(seconds, 3),
        "learning_rate": section.learning_rate * 0.5**halvings,
    }
    experiment.group.barrier()  # Now all have read it.
    if experiment.group.is_first:
        append_metrics(experiment.folder, metrics)
    save(experiment, "last")
    save(experiment, "good")
    return Halved(experiment, str(error), metrics)


def _check(experiment: Experiment, progress: Progress) -> None:
    """Raise DivergenceError if the loss, its gradient or the weights that came of them are not finite."""
    progress.check_finite()
    sizes = torch.stack(torch._foreach_norm(list(experiment.model.parameters()), math.inf))
    if not sizes.isfinite().all():
        sizes_by_group = group_norms(sizes, progress.groups)
        group = max(sizes_by_group, key=sizes_by_group.__getitem__)
        raise DivergenceError(
            f"step {progress.step}: the weights of {group} are no longer finite; {DIVERGENCE_REMEDY}"
        )


def _evaluate(
    experiment: Experiment,
    progress: Progress,
    totals: _Totals,
    clock: Callable[[], float],
    saves: _Saves,
) -> Evaluated:
    """Score the model, note it in metrics.jsonl and have it saved, also as the best if it is."""
    _check(experiment, progress)
    began = clock()
    state, average = experiment.state, experiment.average
    with average.applied():
        scored = validate(experiment)
    if scored is not None:
        if not math.isfinite(scored.loss_nats):
            raise DivergenceError(
                f"step {state.step}: the validation loss is {scored.loss_nats}; {DIVERGENCE_REMEDY}"
            )
        average.record_validation_loss(scored.loss_nats)
    is_best = (
        scored is None or state.best_loss_nats is None or scored.loss_nats < state.best_loss_nats
    )
    state.evaluations_since_best = 0 if is_best else state.evaluations_since_best + 1
    state.stalls += not is_best
    if is_best:
        state.best_loss_nats = scored.loss_nats if scored else None
    # No worse than guessing: what to go back to.
    good = scored is None or scored.loss_nats <= math.log(experiment.tokenizer.vocabulary_size)
    saves.note_evaluation(best=is_best, good=good)
    metrics: dict[str, Any] = {
        "step": state.step,
        "epochs": round(state.epochs, 4),
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "evaluation_seconds": round(clock() - began, 3),
        "learning_rate": progress.learning_rate,
        **totals.metrics(experiment.config.training),
        "is_best": is_best,
    }
    if scored is not None:
        counts = experiment.tokens["valid"].counts
        metrics |= {
            "loss_nats": scored.loss_nats,
            "perplexity": scored.perplexity,
            "bits_per_character": scored.bits_per(counts.characters),
            "bits_per_byte": scored.bits_per(counts.bytes),
        }
    group = experiment.group
    if group.is_first:
        check_there(experiment.folder)
        append_metrics(
            experiment.folder, metrics
        )  # Before the save: what has none then comes again.
    if any(group.all_reduce(group.is_first and saves.are_due())):
        saves.write()
    return Evaluated(experiment, scored, metrics, is_best)


def _evaluations_due(share: float, section: Training) -> int:
    return int(min(share, 1.0) * section.evaluations + 1e-9)
