"""Finish, stop and compare trainings, and replace their clock and their validation losses."""

import json
from pathlib import Path

import torch

from charlm.runs import session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Experiment
from charlm.training.loss import Score


class Clock:
    """A clock that advances by one second per call, and jumps at one of the calls."""

    def __init__(self, jump_at: int, by: float) -> None:
        self.calls, self.jump_at, self.by = 0, jump_at, by

    def __call__(self) -> float:
        self.calls += 1
        return self.calls + self.by * (self.calls >= self.jump_at)


def set_losses(monkeypatch, *losses: float) -> None:
    """Replace the validation losses by these, one per evaluation."""
    remaining = iter(losses)
    monkeypatch.setattr(
        session, "validate", lambda experiment, **options: Score(next(remaining) * 10, 10, 0)
    )


def finish(experiment: Experiment) -> None:
    for _ in session.run(experiment):
        pass


def stop_at(experiment: Experiment, step: int) -> None:
    for _ in session.run(experiment, stop=lambda: experiment.state.step >= step):
        pass


def metrics_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def untimed_metrics_of(run: Path) -> list[dict]:
    """Return the lines of metrics.jsonl without the fields that depend on the clock."""
    return [
        {name: value for name, value in line.items() if not name.endswith("seconds")}
        for line in metrics_of(run)
    ]


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of the last checkpoint except the states of random generators."""
    tensors = load_checkpoint(run / "last").tensors
    training = {
        name: tensor
        for name, tensor in tensors["training"].items()
        if not name.startswith("generator.")
    }
    return tensors["weights"] | training


def assert_same_training(run: Path, other: Path) -> None:
    """Compare metrics, weights, raw weights, optimizer and recurrent states of two trainings."""
    assert untimed_metrics_of(run) == untimed_metrics_of(other)
    tensors, expected = tensors_of(run), tensors_of(other)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name]), name
