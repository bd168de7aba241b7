"""Numbers that are no longer finite: seen at once, told, never saved; and how training goes on with half the rate."""

import json
import math

import pytest
import torch
from conftest import small_config

from charlm.errors import DivergenceError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Evaluated, Finished, Halved
from charlm.runs.metrics import append_metrics
from charlm.training.loop import Progress
from charlm.training.loss import Score

HALVE = [
    "training.on_divergence=halve",
    "training.steps=24",
    "training.evaluations=4",
    "training.learning_rate=1.0e-2",
]


def break_a_weight(experiment):
    with torch.no_grad():
        experiment.model.projection.bias[0] = math.nan


def train_on(experiment, *, poison=lambda state: False, stop_at=10**9):
    """Train to the end or a step; before each step of which `poison` says so, a weight becomes no number."""
    events = []
    for event in session.run(experiment, stop=lambda: experiment.state.step >= stop_at):
        events.append(event)
        if poison(experiment.state) and not isinstance(event, Evaluated):
            break_a_weight(experiment)
    return events


def at_step(*steps, halvings=0):
    """Return a poison for after these steps, for as long as the rate was not halved more often."""
    return lambda state: state.step in steps and state.halvings <= halvings


def saved(folder, which="last"):
    return load_checkpoint(folder / which)


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_number_that_is_none_is_seen_in_the_step_after_it_came(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with pytest.raises(
        DivergenceError, match=r"step 9: the loss is nan.*lower training.learning_rate"
    ):
        train_on(experiment, poison=at_step(8))
    weights = saved(tmp_path / "run")
    assert weights.state["step"] == 6
    assert all(tensor.isfinite().all() for tensor in weights.tensors["weights"].values())


def test_the_line_names_the_group_with_the_largest_gradient(text_file, tmp_path):
    experiment = prepare.begin(
        small_config(text_file, "model.num_layers=2", "training.clipnorm=null"), tmp_path / "run"
    )
    events = session.run(experiment)
    next(events), next(events)
    experiment.model.encoder.recurrence.cells[1].kernel.weight_hh_l0.register_hook(
        lambda gradient: gradient * math.inf
    )
    with pytest.raises(DivergenceError, match=r"the largest in layer_1 with inf"):
        next(events)


def test_where_no_group_is_finite_the_step_before_tells(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with pytest.raises(
        DivergenceError, match=r"step 4: .*the largest in \w+ one step before with \d"
    ):
        train_on(experiment, poison=at_step(3))
    first = prepare.begin(small_config(text_file), tmp_path / "first")
    with pytest.raises(DivergenceError, match=r"step 1: .*not finite in any group"):
        train_on(first, poison=at_step(0))


@pytest.mark.parametrize("change", ["training.evaluations=12", "checkpoint.save_seconds=1e-9"])
def test_weights_that_a_step_broke_are_neither_scored_nor_saved(change, text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file, change), tmp_path / "run")
    with pytest.raises(
        DivergenceError, match="step 2: the weights of projection are not finite any more; lower"
    ):
        train_on(experiment, poison=at_step(2))
    assert saved(tmp_path / "run").state["step"] == 1


def test_a_validation_loss_that_is_no_number_is_a_divergence(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "validate", lambda experiment: Score(math.nan, 10, 0))
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with pytest.raises(DivergenceError, match="step 6: the validation loss is nan"):
        train_on(experiment)
    assert saved(tmp_path / "run").state["step"] == 0


def test_a_divergence_goes_back_to_the_last_good_evaluation_with_half_the_rate(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file, *HALVE), tmp_path / "run")
    events = train_on(experiment, poison=at_step(15))
    (halved,) = [event for event in events if isinstance(event, Halved)]
    assert (halved.metrics["step"], halved.metrics["diverged_after_step"]) == (12, 15)
    assert "step 16: the loss is nan" in halved.message
    at = events.index(halved)
    rates = {
        event.step: event.learning_rate for event in events[:at] if isinstance(event, Progress)
    }
    after = {
        event.step: event.learning_rate for event in events[at:] if isinstance(event, Progress)
    }
    assert list(after) == list(range(13, 25))
    assert after[13] == pytest.approx(rates[13] / 2) and after[15] == pytest.approx(rates[15] / 2)
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [6, 12, 12, 18, 24]
    assert lines[2] == halved.metrics and lines[2]["learning_rate"] == 0.005
    assert saved(tmp_path / "run").state["halvings"] == 1


def test_a_halving_is_on_disk_when_it_is_told(text_file, tmp_path):
    experiment = prepare.begin(
        small_config(text_file, *HALVE, "checkpoint.save_seconds=1e-9"), tmp_path / "run"
    )
    for event in session.run(experiment):
        if isinstance(event, Halved):
            break
        if experiment.state.step == 15:
            break_a_weight(experiment)
    state = saved(tmp_path / "run").state
    assert (state["step"], state["halvings"]) == (12, 1)


def test_a_wild_rate_is_halved_from_the_beginning_as_often_as_allowed(text_file, tmp_path):
    changes = [
        *HALVE,
        "training.learning_rate=1e38",
        "training.optimizer=sgd",
        "training.clipnorm=null",
        "training.warmup_steps=0",
        "training.halvings=2",
    ]
    experiment = prepare.begin(small_config(text_file, *changes), tmp_path / "run")
    with pytest.raises(DivergenceError, match=r"\(the learning rate was already halved 2 times\)"):
        train_on(experiment)
    assert [(line["step"], line["halvings"]) for line in metrics_of(tmp_path / "run")] == [
        (0, 1),
        (0, 2),
    ]
    assert saved(tmp_path / "run").state["step"] == 0


def test_an_evaluation_worse_than_guessing_is_not_gone_back_to(text_file, tmp_path, monkeypatch):
    nats = {6: 1.0, 12: 99.0, 18: 1.0, 24: 1.0}
    monkeypatch.setattr(
        session, "validate", lambda experiment: Score(nats[experiment.state.step] * 10, 10, 0)
    )
    experiment = prepare.begin(small_config(text_file, *HALVE), tmp_path / "run")
    events = train_on(experiment, poison=at_step(15))
    assert [event.metrics["step"] for event in events if isinstance(event, Halved)] == [6]
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [6, 6, 12, 18, 24]


@pytest.mark.parametrize("stops", [(4, 14), (13, 20), (12, 17)], ids=str)
def test_a_training_that_halves_its_rate_is_resumed_to_the_bit(stops, text_file, tmp_path):
    poison = at_step(15, 21, halvings=1)
    config = small_config(text_file, *HALVE, "model.dropout=0.2")
    train_on(prepare.begin(config, tmp_path / "whole"), poison=poison)
    experiment = prepare.begin(config, tmp_path / "parts")
    for stop_at in (*stops, 10**9):
        train_on(experiment, poison=poison, stop_at=stop_at)
        torch.manual_seed(99)
        experiment = prepare.resume(tmp_path / "parts")
    whole, parts = (saved(tmp_path / name).state for name in ("whole", "parts"))
    assert whole["halvings"] == parts["halvings"] == 2
    assert whole["files"] == parts["files"]
    told = [
        [
            (line["step"], line.get("halvings"), line.get("loss_nats"))
            for line in metrics_of(tmp_path / name)
        ]
        for name in ("whole", "parts")
    ]
    assert told[0] == told[1]


def test_a_run_that_stopped_at_a_divergence_can_be_resumed_with_halving(text_file, tmp_path):
    changes = [change for change in HALVE if "on_divergence" not in change]
    with pytest.raises(DivergenceError):
        train_on(
            prepare.begin(small_config(text_file, *changes), tmp_path / "run"), poison=at_step(15)
        )
    experiment = prepare.resume(tmp_path / "run", on_divergence="halve")
    assert experiment.state.step == 12
    train_on(experiment, poison=at_step(15))
    assert saved(tmp_path / "run").state["step"] == 24
    assert experiment.state.halvings == 1


def test_what_was_good_before_a_training_without_halving_is_not_gone_back_to(text_file, tmp_path):
    train_on(prepare.begin(small_config(text_file, *HALVE), tmp_path / "run"), stop_at=7)
    train_on(prepare.resume(tmp_path / "run", on_divergence="stop"), stop_at=20)
    events = train_on(prepare.resume(tmp_path / "run", on_divergence="halve"), poison=at_step(22))
    assert [event.metrics["step"] for event in events if isinstance(event, Halved)] == [20]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_number_that_is_none_is_seen_within_32_steps_and_never_saved(
    text_file, tmp_path
):
    changes = [
        "training.device=cuda",
        "training.steps=90",
        "training.evaluations=1",
        "training.clipnorm=null",
    ]
    experiment = prepare.begin(small_config(text_file, *changes), tmp_path / "run")
    with pytest.raises(DivergenceError, match=r"step (3\d|4[01]): the loss is nan"):
        train_on(experiment, poison=at_step(8))
    assert saved(tmp_path / "run").state["step"] == 0


def test_a_note_of_a_halving_that_a_crash_undid_comes_once(text_file, tmp_path, monkeypatch):
    experiment = prepare.begin(small_config(text_file, *HALVE), tmp_path / "run")
    append = append_metrics

    def crash_after(folder, line):
        append(folder, line)
        if "diverged_after_step" in line:
            raise KeyboardInterrupt

    monkeypatch.setattr(session, "append_metrics", crash_after)
    with pytest.raises(KeyboardInterrupt):
        train_on(experiment, poison=at_step(15))
    monkeypatch.undo()
    train_on(prepare.resume(tmp_path / "run"), poison=at_step(15))
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [6, 12, 12, 18, 24]


def test_a_wild_rate_is_halved_until_training_comes_to_its_end(text_file, tmp_path):
    changes = [
        *HALVE,
        "training.learning_rate=8",
        "model.cell={kind: elman, activation: relu}",
        "training.halvings=9",
    ]
    experiment = prepare.begin(small_config(text_file, *changes), tmp_path / "run")
    events = train_on(experiment)
    assert isinstance(events[-1], Finished) and events[-1].reason == "budget"
    assert 1 <= experiment.state.halvings <= 9
    assert saved(tmp_path / "run").state["step"] == 24
