"""Beginning and resuming: a resumed training equals one that never stopped, bit for bit."""

import itertools

import pytest
import torch
from conftest import small_config, train_all
from runs.trainings import assert_same_training, finish, metrics_of, stop_at, tensors_of

from charlm.data.windows import StreamOptions, stream_windows
from charlm.errors import CheckpointError, CorpusError
from charlm.runs import prepare, session
from charlm.runs.experiment import training_windows
from charlm.training.loss import Score

VARIANTS = {
    "stream-over-epochs": ["training.batch_size=16", "training.window=40", "training.steps=30"],
    "records-gru-sgd": ["corpus.mode=records", "model.cell=gru", "training.optimizer=sgd"],
    "bf16-nadam": [
        "training.epochs=0.2",
        "training.precision=bf16",
        "training.optimizer=nadam",
    ],
    "muon-exponential-average": [
        "model.num_layers=2",
        "training.optimizer=muon",
        "training.averaging=exponential",
        "training.average_steps=3",
    ],
    "varied-shuffled-windows": [
        "training.vary_window=true",
        "training.partial_shuffle=true",
        "training.batch_size=16",
        "training.window=40",
        "training.steps=30",
    ],
    "adaptive-words": [
        "tokenizer.level=word",
        "model.adaptive_cutoffs=[8]",
        "training.batch_size=2",
    ],
    "dropout-per-window": [
        "model.num_layers=2",
        "model.word_dropout=0.1",
        "model.embedding_dropout=0.2",
        "model.dropout=0.3",
        "model.output_dropout=0.4",
        "model.weight_dropout=0.3",
        "model.dropout_mask=window",
    ],
    "dropout-with-regularization": [
        "model.num_layers=2",
        "model.dropout=0.3",
        "model.weight_dropout=0.3",
        "model.word_dropout=0.1",
        "model.output_dropout=0.4",
        "model.tied=true",
        "model.mixture=3",
        "model.cell={kind: lstm, capped: true}",
        "training.optimizer=muon",
        "training.averaging=exponential",
        "training.label_smoothing=0.1",
        "training.activation_regularization=2",
        "training.temporal_regularization=1",
    ],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_training_equals_one_that_never_stopped(
    variant, text_file, records_file, tmp_path
):
    overrides = VARIANTS[variant]
    text = records_file if "corpus.mode=records" in overrides else text_file
    config = small_config(text, *overrides)
    train_all(config, tmp_path / "whole")
    experiment = prepare.begin(config, tmp_path / "parts")
    for step in (3, 7, 10**9):
        for _ in session.run(
            experiment, stop=lambda state=experiment.state, step=step: state.step >= step
        ):
            if "dropout" not in variant:
                torch.rand(3)  # Only dropout may depend on torch's random generator.
        torch.manual_seed(99)
        experiment = prepare.resume(tmp_path / "parts")
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


# Validation losses by step. They rise at steps 3, 4 and 6; from step 3 on weights are averaged.
LOSSES = [5.0, 4.0, 4.5, 4.2, 3.0, 3.5, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]


@pytest.mark.parametrize("override", ["training.schedule=plateau", "training.averaging=triggered"])
def test_a_resumed_training_keeps_the_effects_of_validation(
    override, text_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        session, "validate", lambda experiment: Score(LOSSES[experiment.state.step - 1] * 10, 10, 0)
    )
    config = small_config(
        text_file, override, "training.evaluations=12", "training.trigger_evaluations=1"
    )
    train_all(config, tmp_path / "whole")
    for stops in ((2, 8), (3, 4)):
        run = tmp_path / f"stopped at {stops}"
        experiment = prepare.begin(config, run)
        for step in (*stops, 10**9):
            stop_at(experiment, step)
            experiment = prepare.resume(run)
        experiment.lock.release()
        assert_same_training(tmp_path / "whole", run)
        assert experiment.state.stalls == 3
        assert bool(experiment.average.weights) == (override == "training.averaging=triggered")


def test_a_training_killed_before_its_first_evaluation_resumes_from_the_beginning(
    text_file, tmp_path
):
    config = small_config(text_file, *VARIANTS["dropout-per-window"])
    train_all(config, tmp_path / "whole")
    events = session.run(prepare.begin(config, tmp_path / "run"))
    for _ in range(4):
        next(events)
    events.close()
    torch.manual_seed(99)
    experiment = prepare.resume(tmp_path / "run")
    assert experiment.state.step == 0
    finish(experiment)
    assert_same_training(tmp_path / "whole", tmp_path / "run")


def test_another_seed_gives_other_weights(text_file, tmp_path):
    train_all(small_config(text_file), tmp_path / "first")
    train_all(small_config(text_file, "training.seed=2"), tmp_path / "second")
    first, second = tensors_of(tmp_path / "first"), tensors_of(tmp_path / "second")
    assert any((tensor != second[name]).any() for name, tensor in first.items())


def test_a_larger_budget_continues_a_finished_run(text_file, tmp_path):
    train_all(small_config(text_file), tmp_path / "run")
    experiment = prepare.resume(tmp_path / "run", budget={"steps": 20})
    finish(experiment)
    assert experiment.state.step == 20
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [6, 12, 20]


def test_the_windows_of_a_training_are_those_of_its_configuration(text_file, tmp_path):
    overrides = ["training.vary_window=true", "training.partial_shuffle=true", "training.seed=5"]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    expected = stream_windows(
        experiment.tokens["train"].ids,
        start=experiment.state.position,
        batch_size=4,
        window=16,
        options=StreamOptions(seed=5, vary=True, shuffle=True, restart_windows=16),
    )
    windows = zip(training_windows(experiment), expected, strict=True)
    for window, other in itertools.islice(windows, 40):
        assert torch.equal(window.inputs, other.inputs)


def test_a_text_that_has_changed_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("A text that will change. " * 60)
    train_all(small_config(path), tmp_path / "run")
    path.write_text("A text that has changed. " * 60)
    with pytest.raises(CheckpointError, match=r"has changed since.*; restore the text"):
        prepare.resume(tmp_path / "run")


def test_a_text_too_small_for_a_window_is_refused_before_a_folder_is_made(tmp_path):
    path = tmp_path / "small.txt"
    path.write_text("too small")
    with pytest.raises(CorpusError, match=r"too small.*lower training.batch_size"):
        prepare.begin(small_config(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_vocabulary_is_learned_from_the_training_part_only(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("abcd " * 200 + "Z" * 100)
    experiment = prepare.begin(small_config(path), tmp_path / "run")
    assert experiment.tokenizer.find_unknown("Z") == ["Z"]
    assert experiment.tokens["valid"].counts.unknown > 0
