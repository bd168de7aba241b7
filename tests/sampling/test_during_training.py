"""Samples that a training keeps: one per evaluation, bounded, and the same after resuming."""

import copy
import json
import math
from dataclasses import replace

import torch
from conftest import small_config, train_all

from charlm.runs import prepare, session
from charlm.runs.experiment import Evaluated, Sampled
from charlm.runs.files import SAMPLES
from charlm.runs.metrics import read_metrics
from charlm.runs.samples import read_samples
from charlm.sampling import during_training
from charlm.sampling.during_training import sampled
from charlm.sampling.sample import sample


def train(config, folder, stop_after: int | None = None) -> list:
    experiment = prepare.begin(config, folder)
    events = []
    stopped = lambda: stop_after is not None and experiment.state.step >= stop_after  # noqa: E731
    for event in sampled(experiment, session.run(experiment, stop=stopped)):
        events.append(event)
    return events


def test_each_evaluation_is_followed_by_a_sample_that_is_kept(text_file, tmp_path):
    config = small_config(text_file, "training.evaluations=3")
    events = train(config, tmp_path / "run")
    kinds = [type(event) for event in events if isinstance(event, Evaluated | Sampled)]
    assert kinds == [Evaluated, Sampled] * 3
    samples = read_samples(tmp_path / "run")
    assert [line["step"] for line in samples] == [4, 8, 12]
    assert all(line["text"] for line in samples)
    assert [event.text for event in events if isinstance(event, Sampled)] == [
        line["text"] for line in samples
    ]


def test_sampling_does_not_change_the_training(text_file, tmp_path):
    config = small_config(text_file)
    train(config, tmp_path / "sampled")
    train_all(config, tmp_path / "plain")
    losses = [
        [row["loss_nats"] for row in read_metrics(tmp_path / name) if "loss_nats" in row]
        for name in ("sampled", "plain")
    ]
    assert losses[0]
    assert losses[0] == losses[1]


def test_samples_of_steps_that_are_repeated_are_removed(text_file, tmp_path):
    folder = tmp_path / "run"
    train(small_config(text_file, "training.evaluations=3"), folder, stop_after=9)
    lines = (folder / SAMPLES).read_bytes()
    later = json.dumps({"step": 11, "text": "later"}).encode()
    (folder / SAMPLES).write_bytes(lines + later + b"\nnot a line\n")
    experiment = prepare.resume(folder)
    for _ in sampled(experiment, session.run(experiment)):
        pass
    assert [line["step"] for line in read_samples(folder)] == [4, 8, 12]


def test_the_number_of_samples_is_bounded(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(during_training, "MAX_SAMPLES", 2)
    train(small_config(text_file, "training.evaluations=4"), tmp_path / "run")
    assert [line["step"] for line in read_samples(tmp_path / "run")] == [3, 6]


def test_a_diverged_model_without_a_sample_is_trained_on(text_file, tmp_path, monkeypatch):
    def sample_diverged(trained, options):
        diverged = copy.deepcopy(trained.model)
        torch.nn.init.constant_(diverged.projection.bias, math.inf)
        return sample(replace(trained, model=diverged), options)

    monkeypatch.setattr(during_training, "sample", sample_diverged)
    events = train(small_config(text_file), tmp_path / "run")
    assert [event.text for event in events if isinstance(event, Sampled)] == ["", ""]
    assert events[-1].reason == "budget"


def test_a_model_of_both_directions_writes_no_sample(text_file, tmp_path):
    events = train(small_config(text_file, "model.direction=both"), tmp_path / "run")
    assert not any(isinstance(event, Sampled) for event in events)
    assert read_samples(tmp_path / "run") == []
