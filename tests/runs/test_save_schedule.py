"""When checkpoints are written: soon, but saving takes at most a fraction of the time."""

import itertools

import pytest
import torch
from conftest import small_config
from trainings import Clock, set_losses, stop_at

from charlm.errors import DivergenceError
from charlm.runs import prepare, save_schedule, session, snapshot
from charlm.runs.checkpoint import load_checkpoint, save_checkpoint
from charlm.runs.experiment import Evaluated
from charlm.training.loop import Progress


def train_with_slow_saves(text_file, run, monkeypatch, *overrides, seconds):
    """Train with steps of seconds and saves of N seconds.

    Returns:
        Name and step of every saved checkpoint, and the time of all saves as a fraction of the time
        of all steps.
    """
    now, saves = 0.0, []

    def save_slowly(folder, state, tensors, **options):
        nonlocal now
        now += seconds
        saves.append((folder.name, state["step"]))
        save_checkpoint(folder, state, tensors, **options)

    def clock():
        nonlocal now
        now += 1.0
        return now

    config = small_config(text_file, "checkpoint.save_share=0.03", *overrides)
    experiment = prepare.begin(config, run)
    for module in (snapshot, save_schedule):
        monkeypatch.setattr(module, "save_checkpoint", save_slowly)
    for _ in session.run(experiment, clock=clock):
        pass
    return saves, seconds * len(saves) / experiment.state.seconds


@pytest.mark.parametrize(
    "settings",
    [["training.evaluations=10"], ["training.evaluations=1", "training.on_divergence=halve"]],
    ids=["evaluations", "halve"],
)
def test_saving_takes_at_most_its_fraction_of_the_time(settings, text_file, tmp_path, monkeypatch):
    overrides = ["training.steps=150", "checkpoint.save_seconds=1e-9", *settings]
    saves, fraction = train_with_slow_saves(
        text_file, tmp_path / "run", monkeypatch, *overrides, seconds=2.0
    )
    assert 0.01 < fraction < 0.08  # The last save, of two or three checkpoints, is never left out.
    assert ("last", 150) in saves[-2:]


def test_best_weights_that_wait_are_saved_as_they_were_scored(text_file, tmp_path, monkeypatch):
    set_losses(monkeypatch, 2.0, 1.0, 3.0, 4.0)
    saves, _ = train_with_slow_saves(
        text_file, tmp_path / "run", monkeypatch, "training.evaluations=4", seconds=1e3
    )
    assert saves == [("best", 3), ("last", 3), ("best", 6), ("last", 12)]
    monkeypatch.undo()
    stop_at(
        prepare.begin(small_config(text_file, "training.evaluations=4"), tmp_path / "stopped"), 6
    )
    best = load_checkpoint(tmp_path / "run" / "best").state
    stopped = load_checkpoint(tmp_path / "stopped" / "last").state
    assert (best["step"], best["best_loss_nats"]) == (6, 1.0)
    assert best["files"]["weights"] == stopped["files"]["weights"]


@pytest.mark.parametrize("end", ["closed", "diverged"])
def test_best_weights_that_wait_are_saved_when_training_is_closed_or_diverges(
    end, text_file, tmp_path
):
    config = small_config(text_file, "checkpoint.save_share=1.0e-9")
    experiment = prepare.begin(config, tmp_path / "run")
    events = session.run(experiment)
    next(event for event in events if isinstance(event, Evaluated))
    assert not (tmp_path / "run" / "best").exists()
    if end == "closed":
        events.close()
    else:
        with torch.no_grad():
            experiment.model.projection.bias[0] = float("nan")
        with pytest.raises(DivergenceError):
            next(events)
    assert load_checkpoint(tmp_path / "run" / "best").state["step"] == 6


def test_saves_continue_after_the_clock_went_back(text_file, tmp_path):
    overrides = ["checkpoint.save_seconds=3", "training.evaluations=1"]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    saved = [
        load_checkpoint(tmp_path / "run" / "last").state["step"]
        for event in session.run(experiment, clock=Clock(12, -1e9))
        if isinstance(event, Progress)
    ]
    assert max(later - earlier for earlier, later in itertools.pairwise(saved)) <= 2
    assert saved[-1] >= 9


def test_saves_continue_after_the_process_was_suspended_during_one(
    text_file, tmp_path, monkeypatch
):
    now, saved = 0.0, []

    def save(folder, state, tensors, **options):
        nonlocal now
        if folder.name == "last":
            saved.append(state["step"])
            now += 1e6 if len(saved) == 6 else 1e-3
        save_checkpoint(folder, state, tensors, **options)

    def clock():
        nonlocal now
        now += 1.0
        return now

    overrides = ["training.steps=40", "checkpoint.save_seconds=1", "checkpoint.save_share=0.9"]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    monkeypatch.setattr(snapshot, "save_checkpoint", save)
    for _ in session.run(experiment, clock=clock):
        pass
    assert len(saved) > 10
