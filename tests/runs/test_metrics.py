"""The lines of metrics.jsonl."""

import json
import math

import pytest
import torch
from conftest import small_config, train_all
from trainings import metrics_of

from charlm.runs import prepare, session
from charlm.runs.metrics import append_metrics, overfitting, read_metrics
from charlm.training.loop import Progress


def test_a_line_has_the_fraction_of_steps_that_each_limit_clipped(text_file, tmp_path):
    for number, (overrides, by_norm, by_value) in enumerate(
        [
            (["training.clipnorm=1.0e-3"], 1.0, None),
            (["training.clipnorm=1.0e+6"], 0.0, None),
            (["training.clipnorm=null", "training.clipvalue=1.0e-4"], None, 1.0),
            (["training.clipnorm=1.0e+6", "training.clipvalue=1.0e+6"], 0.0, 0.0),
        ]
    ):
        run = tmp_path / str(number)
        train_all(small_config(text_file, *overrides), run)
        for line in metrics_of(run):
            assert line["clipped_share"] == by_norm, overrides
            assert line["clipped_by_value_share"] == by_value, overrides


def test_a_line_describes_the_gradients_of_the_steps_since_the_previous_line(text_file, tmp_path):
    run = tmp_path / "run"
    experiment = prepare.begin(small_config(text_file, "model.num_layers=2"), run)
    steps = [event for event in session.run(experiment) if isinstance(event, Progress)]
    norms = [float(step.clipping.norm) for step in steps]
    lines = metrics_of(run)
    for line, since in zip(lines, (norms[:6], norms[6:]), strict=True):
        assert line["gradient_norm"] == pytest.approx(sum(since) / 6)
        assert line["gradient_norm_max"] == pytest.approx(max(since))
        assert list(line["gradient_norms"]) == ["embedding", "layer_0", "layer_1", "projection"]
        squares = sum(norm**2 for norm in line["gradient_norms"].values())
        assert squares == pytest.approx(sum(norm**2 for norm in since) / 6)
    names = [name for name, _ in experiment.model.named_parameters()]
    column = next(number for number, name in enumerate(names) if "embedding.weight" in name)
    embedding = torch.stack([step.clipping.norms for step in steps])[:6, column]
    root_mean_square = embedding.square().mean().sqrt().item()
    assert lines[0]["gradient_norms"]["embedding"] == pytest.approx(root_mean_square)


def test_lines_after_the_checkpoint_and_damaged_lines_are_removed_on_resuming(text_file, tmp_path):
    run = tmp_path / "run"
    train_all(small_config(text_file), run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 14}\n{"step": 1')
    prepare.resume(run)
    assert [line["step"] for line in metrics_of(run)] == [6, 12]


def test_an_infinite_perplexity_is_null_in_the_file_and_infinite_where_it_is_read(tmp_path):
    written = {"step": 6, "loss_nats": 800.0, "perplexity": math.inf}
    append_metrics(tmp_path, written)
    assert "Infinity" not in (tmp_path / "metrics.jsonl").read_text()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(written) + "\n")  # As earlier versions wrote it.
    assert read_metrics(tmp_path) == [written, written]


def line(
    step: int, training: float, validation: float, *, is_best: bool, epochs: float = 2.0
) -> dict:
    return {
        "step": step,
        "epochs": epochs,
        "training_loss_nats": training,
        "loss_nats": validation,
        "is_best": is_best,
    }


def test_a_rising_validation_loss_is_overfitting_only_while_the_training_loss_falls():
    best = line(400, 1.5, 1.6, is_best=True)
    (text,) = overfitting([best, line(600, 1.2, 1.8, is_best=False)])
    assert text.startswith(
        "the model overfits: since step 400 the validation loss rose from 1.6000"
    )
    assert "best/ is the model of step 400" in text
    for training, validation in ((1.7, 1.8), (1.2, 1.601)):
        (text,) = overfitting([best, line(600, training, validation, is_best=False)])
        assert "overfits" not in text and text.endswith("best/ is the model of step 400")
    (text,) = overfitting([best, line(600, 1.2, 1.8, is_best=False, epochs=0.6)])
    assert "overfits" not in text and "rose from 1.6000 to 1.8000" in text
    (text,) = overfitting([best, line(600, 1.5, 1.60004, is_best=False)])
    assert text.startswith("since step 400 the validation loss has not fallen below 1.6000 nats; ")
    assert overfitting([line(200, 2.0, 2.0, is_best=True), best]) == []
    assert overfitting([{"step": 4, "is_best": True}]) == overfitting([]) == []
    assert overfitting([best, {"step": 600, "loss_nats": 1.7}]) == []
