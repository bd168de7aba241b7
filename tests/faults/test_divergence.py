"""Losses, gradients and weights that are not finite: detected at once, reported, never saved."""

import math
import weakref

import pytest
import torch
from conftest import small_config
from trainings import metrics_of

from charlm.errors import DivergenceError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Evaluated, Finished, Halved
from charlm.runs.metrics import append_metrics
from charlm.runs.progress_bar import halving_line
from charlm.training import loop
from charlm.training.loop import Progress
from charlm.training.loss import Score

HALVE = [
    "training.on_divergence=halve",
    "training.steps=24",
    "training.evaluations=4",
    "training.learning_rate=1.0e-2",
]


def poison(experiment):
    """Make a weight NaN."""
    with torch.no_grad():
        experiment.model.projection.bias[0] = math.nan


def train(experiment, *, poison_after=(), max_halvings=0, stop_at=10**9):
    """Train and return the events.

    Args:
        experiment: The training run.
        poison_after: Steps after which a weight becomes NaN.
        max_halvings: Number of halvings up to which it does.
        stop_at: Step at which training is stopped.
    """
    events, state = [], experiment.state
    for event in session.run(experiment, stop=lambda: state.step >= stop_at):
        events.append(event)
        is_step = not isinstance(event, Evaluated)
        if is_step and state.step in poison_after and state.halvings <= max_halvings:
            poison(experiment)
    return events


def saved(run, checkpoint="last"):
    return load_checkpoint(run / checkpoint)


def halved_events(events):
    return [event for event in events if isinstance(event, Halved)]


def test_nan_is_detected_in_the_next_step_and_the_last_checkpoint_is_kept(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    pattern = r"step 9: the loss is nan.*lower training.learning_rate"
    with pytest.raises(DivergenceError, match=pattern):
        train(experiment, poison_after=[8])
    checkpoint = saved(tmp_path / "run")
    assert checkpoint.state["step"] == 6
    assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values())


def test_the_message_names_the_parameter_group_with_the_largest_gradient(text_file, tmp_path):
    overrides = ["model.num_layers=2", "training.clipnorm=null"]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    events = session.run(experiment)
    next(events), next(events)
    experiment.model.encoder.recurrence.cells[1].kernel.weight_hh_l0.register_hook(
        lambda gradient: gradient * math.inf
    )
    with pytest.raises(DivergenceError, match=r"the largest in layer_1 with inf"):
        next(events)


def test_without_a_finite_gradient_the_message_describes_the_step_before(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    pattern = r"step 4: .*the largest in \w+ one step before with \d"
    with pytest.raises(DivergenceError, match=pattern):
        train(experiment, poison_after=[3])
    first = prepare.begin(small_config(text_file), tmp_path / "first")
    with pytest.raises(DivergenceError, match=r"step 1: .*not finite in any group"):
        train(first, poison_after=[0])


def test_weights_that_a_step_made_nan_are_neither_scored_nor_saved(text_file, tmp_path):
    for override in ("training.evaluations=12", "checkpoint.save_seconds=1e-9"):
        run = tmp_path / override
        experiment = prepare.begin(small_config(text_file, override), run)
        pattern = "step 2: the weights of projection are not finite any more; lower"
        with pytest.raises(DivergenceError, match=pattern):
            train(experiment, poison_after=[2])
        assert saved(run).state["step"] == 1, override


def test_a_validation_loss_that_is_nan_is_a_divergence(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "validate", lambda experiment, **options: Score(math.nan, 10, 0))
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with pytest.raises(DivergenceError, match="step 6: the validation loss is nan"):
        train(experiment)
    assert saved(tmp_path / "run").state["step"] == 0


def test_after_a_divergence_training_returns_to_the_last_good_evaluation_with_half_the_rate(
    text_file, tmp_path
):
    experiment = prepare.begin(small_config(text_file, *HALVE), tmp_path / "run")
    events = train(experiment, poison_after=[15])
    (halved,) = halved_events(events)
    assert (halved.metrics["step"], halved.metrics["diverged_after_step"]) == (12, 15)
    line = halving_line(halved)
    assert line.startswith("step 16: the loss is nan")
    assert line.endswith(
        "; continuing from step 12 with a peak learning rate of 0.005 (halving 1 of at most 3)"
    )
    assert "lower training" not in line  # Training continues: nothing is to be done.
    index = events.index(halved)
    before, after = (
        {event.step: event.learning_rate for event in part if isinstance(event, Progress)}
        for part in (events[:index], events[index:])
    )
    assert list(after) == list(range(13, 25))
    for step in (13, 15):
        assert after[step] == pytest.approx(before[step] / 2)
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [6, 12, 12, 18, 24]
    assert lines[2] == halved.metrics and lines[2]["learning_rate"] == 0.005
    assert saved(tmp_path / "run").state["halvings"] == 1


def test_after_a_divergence_nothing_of_the_steps_before_stays_in_memory(
    text_file, tmp_path, monkeypatch
):
    """On a GPU it would be the CUDA graphs of these steps."""
    made = []

    class Steps(loop._Steps):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(loop, "_Steps", Steps)
    experiment = prepare.begin(small_config(text_file, *HALVE), tmp_path / "run")
    alive = []
    for _ in session.run(experiment):
        alive.append(sum(steps() is not None for steps in made))
        if experiment.state.step == 15 and not experiment.state.halvings:
            poison(experiment)
    assert len(made) == 2
    assert max(alive) == 1


def test_a_halving_is_on_disk_when_its_event_is_yielded(text_file, tmp_path):
    overrides = [*HALVE, "checkpoint.save_seconds=1e-9"]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    for event in session.run(experiment):
        if isinstance(event, Halved):
            break
        if experiment.state.step == 15:
            poison(experiment)
    state = saved(tmp_path / "run").state
    assert (state["step"], state["halvings"]) == (12, 1)


def test_a_rate_far_too_high_is_halved_from_the_beginning_as_often_as_allowed(text_file, tmp_path):
    overrides = [
        *HALVE,
        "training.learning_rate=1e38",
        "training.optimizer=sgd",
        "training.clipnorm=null",
        "training.warmup_steps=0",
        "training.halvings=2",
    ]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    pattern = r"\(the learning rate was already halved 2 times\)"
    with pytest.raises(DivergenceError, match=pattern):
        train(experiment)
    lines = metrics_of(tmp_path / "run")
    assert [(line["step"], line["halvings"]) for line in lines] == [(0, 1), (0, 2)]
    assert saved(tmp_path / "run").state["step"] == 0


def test_a_rate_too_high_is_halved_until_training_ends(text_file, tmp_path):
    overrides = [
        *HALVE,
        "training.learning_rate=8",
        "model.cell={kind: elman, activation: relu}",
        "training.halvings=9",
    ]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    events = train(experiment)
    assert isinstance(events[-1], Finished) and events[-1].reason == "budget"
    assert 1 <= experiment.state.halvings <= 9
    assert saved(tmp_path / "run").state["step"] == 24


def test_training_does_not_return_to_an_evaluation_worse_than_guessing(
    text_file, tmp_path, monkeypatch
):
    losses = {6: 1.0, 12: 99.0, 18: 1.0, 24: 1.0}
    monkeypatch.setattr(
        session,
        "validate",
        lambda experiment, **options: Score(losses[experiment.state.step] * 10, 10, 0),
    )
    experiment = prepare.begin(small_config(text_file, *HALVE), tmp_path / "run")
    events = train(experiment, poison_after=[15])
    assert [event.metrics["step"] for event in halved_events(events)] == [6]
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [6, 6, 12, 18, 24]


def test_a_training_that_halves_its_rate_resumes_as_if_it_had_never_stopped(text_file, tmp_path):
    def facts(run):
        lines = [
            (line["step"], line.get("halvings"), line.get("loss_nats")) for line in metrics_of(run)
        ]
        state = saved(run).state
        return lines, state["halvings"], state["files"]

    poisoned = {"poison_after": [15, 21], "max_halvings": 1}
    config = small_config(text_file, *HALVE, "model.output_dropout=0.2")
    train(prepare.begin(config, tmp_path / "whole"), **poisoned)
    expected = facts(tmp_path / "whole")
    assert expected[1] == 2
    for stops in ((4, 14), (13, 20), (12, 17)):
        run = tmp_path / f"stopped at {stops}"
        experiment = prepare.begin(config, run)
        for step in (*stops, 10**9):
            train(experiment, **poisoned, stop_at=step)
            torch.manual_seed(99)
            experiment = prepare.resume(run)
        experiment.lock.release()
        assert facts(run) == expected, stops


def test_a_run_that_stopped_at_a_divergence_can_be_resumed_with_halving(text_file, tmp_path):
    overrides = [override for override in HALVE if "on_divergence" not in override]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    with pytest.raises(DivergenceError):
        train(experiment, poison_after=[15])
    experiment = prepare.resume(tmp_path / "run", on_divergence="halve")
    assert experiment.state.step == 12
    train(experiment, poison_after=[15])
    assert saved(tmp_path / "run").state["step"] == 24
    assert experiment.state.halvings == 1


def test_training_does_not_return_to_before_a_training_without_halving(text_file, tmp_path):
    run = tmp_path / "run"
    train(prepare.begin(small_config(text_file, *HALVE), run), stop_at=7)
    train(prepare.resume(run, on_divergence="stop"), stop_at=20)
    events = train(prepare.resume(run, on_divergence="halve"), poison_after=[22])
    assert [event.metrics["step"] for event in halved_events(events)] == [20]


def test_the_line_of_a_halving_that_a_crash_undid_is_written_once(text_file, tmp_path, monkeypatch):
    def crash_after_halving(folder, line):
        append_metrics(folder, line)
        if "diverged_after_step" in line:
            raise KeyboardInterrupt

    experiment = prepare.begin(small_config(text_file, *HALVE), tmp_path / "run")
    monkeypatch.setattr(session, "append_metrics", crash_after_halving)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, poison_after=[15])
    monkeypatch.undo()
    train(prepare.resume(tmp_path / "run"), poison_after=[15])
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [6, 12, 12, 18, 24]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_nan_is_detected_within_32_steps_and_never_saved(text_file, tmp_path):
    overrides = [
        "training.device=cuda",
        "training.steps=90",
        "training.evaluations=1",
        "training.clipnorm=null",
    ]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    with pytest.raises(DivergenceError, match=r"step (3\d|4[01]): the loss is nan"):
        train(experiment, poison_after=[8])
    assert saved(tmp_path / "run").state["step"] == 0
