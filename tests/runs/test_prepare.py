"""Beginning and resuming: a resumed training equals one that never stopped, bit for bit."""

import itertools
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
from conftest import small_config, train_all
from trainings import assert_same_training, finish, metrics_of, stop_at, tensors_of

from charlm.data.windows.streams import StreamOptions, stream_windows
from charlm.errors import CheckpointError, CorpusError, UnsupportedOptionError
from charlm.model import recurrence
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Notice, training_windows
from charlm.training.devices import precision_name
from charlm.training.loss import Score

TASKS = {
    "complete": ["task.kind=complete", "model.dropout=0.2", "model.num_layers=2"],
    "translate": ["task.kind=translate", "model.dropout=0.2", "model.num_layers=2"],
    "classify": ["task.kind=classify", "task.pooling=max", "model.output_dropout=0.2"],
    "tag": ["task.kind=tag", "model.direction=both", "training.averaging=exponential"],
}
VARIANTS = {
    **TASKS,
    "stream-over-epochs": ["training.batch_size=16", "training.window=40", "training.steps=30"],
    "ngrams-muon": [
        "model.ngrams=3",
        "model.ngram_dropout=0.2",
        "training.optimizer=muon",
        "training.restart_windows=2",
    ],
    "records-gru-sgd": ["corpus.mode=records", "model.cell=gru", "training.optimizer=sgd"],
    # The state of a layer has 11 tensors.
    "nested-lstm-of-ten-levels": [
        "model.cell={kind: nested_lstm, depth: 10}",
        "model.hidden_size=4",
        "training.window=4",
    ],
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


def run_untraced(cell, projected, state, precision):
    """Run a window of a cell step by step, as `run_window` does with a traced step."""
    outputs = []
    for x in projected.unbind():
        state = cell.step(x, state)
        outputs.append(cell.output(state))
    return torch.stack(outputs), state


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_training_equals_one_that_never_stopped(
    variant, text_file, records_file, pairs_files, tmp_path, monkeypatch
):
    if variant == "nested-lstm-of-ten-levels":  # Tracing ten levels takes longer than training.
        monkeypatch.setattr(recurrence, "run_window", run_untraced)
    overrides = VARIANTS[variant]
    text = records_file if "corpus.mode=records" in overrides else text_file
    config = small_config(pairs_files.get(variant.split("-")[0], text), *overrides)
    train_all(config, tmp_path / "whole")
    experiment = prepare.begin(config, tmp_path / "parts")
    for step in (3, 7, 10**9):
        for _ in session.run(
            experiment, stop=lambda state=experiment.state, step=step: state.step >= step
        ):
            if "dropout" not in str(overrides):
                torch.rand(3)  # Only dropout may depend on torch's random generator.
        torch.manual_seed(99)
        experiment = prepare.resume(tmp_path / "parts")
    assert_same_training(tmp_path / "whole", tmp_path / "parts")


def test_a_resumed_training_keeps_the_budget_that_an_earlier_command_gave_it(text_file, tmp_path):
    config = small_config(text_file, "training.steps=4")
    train_all(config, tmp_path / "run")
    stop_at(prepare.resume(tmp_path / "run", budget={"epochs": 2}), 6)
    experiment = prepare.resume(tmp_path / "run")
    experiment.lock.release()
    assert experiment.config.training.budget == ("epochs", 2)


# Validation losses by step. They rise at steps 3, 4 and 6; from step 3 on weights are averaged.
LOSSES = [5.0, 4.0, 4.5, 4.2, 3.0, 3.5, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5]


@pytest.mark.parametrize("override", ["training.schedule=plateau", "training.averaging=triggered"])
def test_a_resumed_training_keeps_the_effects_of_validation(
    override, text_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        session,
        "validate",
        lambda experiment, **options: Score(LOSSES[experiment.state.step - 1] * 10, 10, 0),
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
    killed = Path(shutil.copytree(tmp_path / "run", tmp_path / "killed"))
    events.close()
    torch.manual_seed(99)
    experiment = prepare.resume(killed)
    assert experiment.state.step == 0
    finish(experiment)
    assert_same_training(tmp_path / "whole", killed)


def scores_of(run):
    return [(line["step"], line["loss_nats"], line["is_best"]) for line in metrics_of(run)]


def test_a_training_that_is_closed_after_any_event_has_saved_its_last_step(text_file, tmp_path):
    config = small_config(text_file, *VARIANTS["muon-exponential-average"], "training.steps=4")
    train_all(config, tmp_path / "whole")
    for number in range(1, 9):  # Prepared, and four steps with two evaluations.
        run = tmp_path / str(number)
        experiment = prepare.begin(config, run)
        with closing(session.run(experiment)) as events:
            for _ in range(number):
                event = next(events, None)
        steps = {"Progress": experiment.state.step, "Evaluated": experiment.state.step}
        resumed = prepare.resume(run)
        assert resumed.state.step == steps.get(type(event).__name__, resumed.state.step), number
        finish(resumed)
        assert_same_training(tmp_path / "whole", run)
        assert scores_of(run) == scores_of(tmp_path / "whole"), number


def test_weights_that_are_not_finite_are_not_saved_when_training_is_closed(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with closing(session.run(experiment)) as events:
        next(events), next(events)
        with torch.no_grad():
            experiment.model.projection.bias[0] = float("nan")
    assert prepare.resume(tmp_path / "run").state.step == 0


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_a_stop_during_an_evaluation_takes_effect_and_the_evaluation_is_done_after_resuming(
    mode, text_file, records_file, tmp_path, monkeypatch
):
    monkeypatch.setattr("charlm.data.windows.scoring._SCORING_TOKENS", 64)
    text = records_file if mode == "records" else text_file
    config = small_config(text, f"corpus.mode={mode}", "training.steps=4")
    train_all(config, tmp_path / "whole")
    stopped_in_evaluation = 0
    for number in range(1, 16):
        run = tmp_path / str(number)
        calls = itertools.count(1)
        *_, finished = session.run(
            prepare.begin(config, run), stop=lambda calls=calls, last=number: next(calls) >= last
        )
        assert finished.reason == "stopped" or number > 8, number
        assert next(calls) == number + 1 or finished.reason == "budget", number
        resumed = prepare.resume(run)
        stopped_in_evaluation += resumed.state.due_metrics is not None
        finish(resumed)
        assert_same_training(tmp_path / "whole", run)
        assert scores_of(run) == scores_of(tmp_path / "whole"), number
    assert stopped_in_evaluation > 4


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


PROCESSORS = {
    "AMX": "GenuineIntel avx512f avx512_bf16 amx_bf16",
    "slow bf16": "GenuineIntel avx512f avx512_bf16",
    "no bf16": "AuthenticAMD avx2",
}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("AMX", "slow bf16", "bf16"),
        ("AMX", "no bf16", "fp32"),
        ("no bf16", "AMX", "fp32"),
    ],
)
def test_a_run_moved_to_another_processor_keeps_its_precision_or_says_that_it_changes(
    before, after, expected, text_file, tmp_path, monkeypatch
):
    def move_to(processor: str) -> None:
        words = set(PROCESSORS[processor].split())
        monkeypatch.setattr("charlm.training.devices._processor_words", lambda: words)

    move_to(before)
    config = small_config(text_file, "training.precision=auto")
    stop_at(prepare.begin(config, tmp_path / "run"), 2)
    move_to(after)
    experiment = prepare.resume(tmp_path / "run")
    assert precision_name(experiment.hardware.precision) == expected
    notices = [event.message for event in session.run(experiment) if isinstance(event, Notice)]
    changes = [line for line in notices if "was trained in bf16 and continues in fp32" in line]
    assert len(changes) == ((before, after) == ("AMX", "no bf16"))
    assert load_checkpoint(tmp_path / "run" / "last").state["precision"] == expected


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (None, r"its budget is a total, 12 steps, and it has used 12 steps; .* steps 24$"),
        ({"steps": 5}, r"its budget is a total, 5 steps, and it has used 12 steps; .* steps 17$"),
        ({"epochs": 0.01}, r"a total, 0.01 epochs, and it has used 0.08\d+ epochs; .* epochs 0.1$"),
    ],
)
def test_a_total_budget_that_is_spent_is_refused_with_one_that_is_not(
    budget, message, text_file, tmp_path
):
    train_all(small_config(text_file), tmp_path / "run")
    with pytest.raises(UnsupportedOptionError, match=message):
        prepare.check_budget(prepare.resume(tmp_path / "run", budget=budget))
    resumed = prepare.resume(tmp_path / "run", budget={"steps": 2_500_000})
    prepare.check_budget(resumed)
    assert resumed.notices == ("continuing after step 12: 12 of 2,500,000 steps in total are used",)


def test_settings_that_change_nothing_are_named_before_the_training(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file, "model.dropout=0.1"), tmp_path / "run")
    experiment.lock.release()
    assert [line.partition(",")[0] for line in experiment.notices] == [
        "model.dropout: has no effect"
    ]


def test_a_run_that_several_processes_begin_is_not_said_to_continue(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    experiment.lock.release()
    assert prepare.resume(tmp_path / "run").notices == experiment.notices


def test_an_evaluation_that_is_due_is_left_in_a_budget_that_is_spent(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with closing(session.run(experiment)) as events:
        next(event for event in events if experiment.state.step == 12)
    resumed = prepare.resume(tmp_path / "run")
    prepare.check_budget(resumed)
    finish(resumed)
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [6, 12]
