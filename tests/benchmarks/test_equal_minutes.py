"""Networks at equal minutes, and automatic settings against a search."""

import argparse
import json
import time
from pathlib import Path

import pytest
import torch
from benchmark_modules import load, parse

from charlm.config.load import load_config
from charlm.errors import CharlmError
from charlm.runs.automatic.recipes import STREAM

equal, runs, text_budget = map(load, ("equal_minutes", "runs", "text_budget"))
TEXT = "the cat sat on the mat\n" * 90


def test_the_trials_of_every_side_are_different_valid_settings_and_equally_many(monkeypatch):
    options = parse(equal, monkeypatch, "a.txt", "--out", "b.json")
    for optimizer in options.optimizers:
        for name, side in options.sides.items():
            trials = equal.draw_trials(side, optimizer, options.trials)
            assert len(trials) == options.trials == 12, name
            assert len({tuple(trial) for trial in trials}) == 12, name
            assert trials == equal.draw_trials(side, optimizer, 12), name
            for trial in trials:
                load_config(None, [*equal.COMMON, *trial, f"training.optimizer={optimizer}"])


def test_a_longer_budget_has_more_dropout_and_a_lower_rate_for_both_sides_alike():
    trial = {
        "minutes": 0.5,
        "steps": 1_000,
        "epochs": 1.5,
        "overrides": ["training.learning_rate=4e-2", "model.hidden_size=256"],
    }
    same = dict(setting.split("=") for setting in equal.adjust(trial, 0.5, 1))
    assert float(same["training.learning_rate"]) == 4e-2
    assert float(same["model.output_dropout"]) == 0
    longer = dict(setting.split("=") for setting in equal.adjust(trial, 8, 2))
    assert longer["model.hidden_size"] == "256"
    assert float(longer["model.output_dropout"]) == pytest.approx(0.5)  # 48 passes: at the limit.
    assert float(longer["training.learning_rate"]) == pytest.approx(4e-2 * (1 / 8) ** 0.3, rel=0.05)


def test_each_training_is_run_once_and_the_best_trial_is_trained(tmp_path, monkeypatch, capsys):
    started = []

    def run_alone(run, threads, processor_time):
        assert not processor_time
        settings = dict(setting.split("=") for setting in run["overrides"])
        started.append((run["kind"], run["side"], threads))
        loss = 1 + 1 / float(settings["model.hidden_size"]) + (run["side"] == "b")
        return run | {"loss_nats": loss, "steps": 5, "epochs": 1.0}

    monkeypatch.setattr(equal, "run_alone", run_alone)
    sides = ["--side", "a", "model.hidden_size=8,16", "--side", "b", "model.hidden_size=8,4"]
    budget = ["--minutes", "1", "--seeds", "1", "--optimizers", "muon", "--trials", "6"]
    command = ["t.txt", *budget, *sides, "--out", tmp_path / "new" / "x.json"]
    parse(equal, monkeypatch, *command)
    equal.main()
    assert sorted(set(started)) == [
        ("run", "a", 2),
        ("run", "b", 2),
        ("trial", "a", 1),
        ("trial", "b", 1),
    ]
    assert len(started) == 2 * 6 + 2
    trained = json.loads((tmp_path / "new" / "x.json").read_text(encoding="utf-8"))["runs"]
    chosen = [run["overrides"] for run in trained if run["kind"] == "run"]
    assert ["model.hidden_size=16" in chosen[0], "model.hidden_size=8" in chosen[1]] == [True, True]
    assert "| t | muon | 1 | 1.062 | 2.125 | +1.062 |" in capsys.readouterr().out
    equal.main()
    assert len(started) == 14
    parse(equal, monkeypatch, *command, "--seeds", "1,2")
    equal.main()
    assert started[14:] == [("run", "a", 2), ("run", "b", 2)]
    parse(equal, monkeypatch, *command, "--threads", "1")
    with pytest.raises(CharlmError, match="its run_threads is 2, not 1; name another --out"):
        equal.main()


def test_no_training_begins_after_one_that_failed(tmp_path, monkeypatch):
    started = []

    def run_alone(run, threads, processor_time):
        started.append(run)
        time.sleep(0.05)
        raise CharlmError("failed")

    monkeypatch.setattr(equal, "run_alone", run_alone)
    monkeypatch.setattr(equal.os, "cpu_count", lambda: 1)
    parse(equal, monkeypatch, "t.txt", "--trials", "12", "--out", tmp_path / "x.json")
    with pytest.raises(CharlmError, match="failed"):
        equal.main()
    assert len(started) <= 2  # The second one may have begun before the first was read.


def test_a_budget_in_processor_time_stands_still_while_the_program_waits(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    settings = ["model.hidden_size=8", "training.batch_size=2", "training.window=8"]
    overrides = [equal.text_override(str(path)), *settings, "training.minutes=0.002"]
    config, clocks = load_config(None, overrides), []
    with runs.budgets_in_processor_time():
        experiment = runs.prepare.begin(config, tmp_path / "run")
        began = time.process_time()
        for _ in runs.session.run(experiment):
            clocks.append((time.process_time() - began, experiment.state.seconds))
            time.sleep(0.02)
    assert experiment.state.seconds >= 0.002 * 60
    assert all(seconds <= spent for spent, seconds in clocks)


def test_processor_time_is_refused_with_several_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    problem = "needs one thread, got 2; set OMP_NUM_THREADS=1"
    with pytest.raises(CharlmError, match=problem), runs.budgets_in_processor_time():
        pass
    with runs.budgets_in_processor_time(enabled=False):
        pass


def test_the_rules_for_a_longer_budget_are_those_of_the_automatic_settings():
    assert STREAM.dropout_per_doubling == equal.DROPOUT_PER_DOUBLING
    assert STREAM.passes_without_dropout == equal.PASSES_WITHOUT_DROPOUT
    assert STREAM.output_dropout(1e6) == equal.MAX_DROPOUT
    rate = STREAM.learning_rate / 10**equal.RATE_POWER
    assert STREAM.peak_rate(256, 10 * equal.STEPS_AT_PEAK_RATE, passes=8) == pytest.approx(
        rate, rel=0.01
    )
    assert STREAM.peak_rate(256, equal.STEPS_AT_PEAK_RATE, passes=8) == STREAM.learning_rate


def test_a_training_that_diverges_has_no_loss(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    tiny = ["model.hidden_size=8", "training.batch_size=2", "training.window=8"]
    tiny += ["training.optimizer=sgd", "training.precision=fp32", "training.minutes=null"]
    run = equal.measure(str(path), [*tiny, "training.steps=2"])
    assert run["steps"] == 2 and run["loss_nats"] > 0
    far = "training.clipnorm=1e30", "training.learning_rate=1e30", "training.steps=5"
    diverged = equal.measure(str(path), [*tiny, *far])
    assert diverged["loss_nats"] is None and "not finite" in diverged["error"]
    assert 0 < diverged["steps"] < 5 and diverged["parameters"] == run["parameters"]


def test_the_search_contains_the_automatic_settings_and_the_beginning_of_a_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    part = Path(text_budget.source_of(f"{path}:1000", tmp_path / "texts"))
    assert TEXT.startswith(part.read_text(encoding="utf-8"))
    assert 1000 - len("the cat sat on the mat\n") < part.stat().st_size <= 1000
    config = load_config(None, ["model.hidden_size=48", "training.learning_rate=2e-2"])
    space = dict(text.split("=") for text in text_budget.search_space(config))
    assert "48" in space["model.hidden_size"].split(",")
    assert space["training.learning_rate"] == "0.005..0.08"


def test_the_automatic_settings_are_compared_with_the_best_trial(tmp_path):
    pytest.importorskip("optuna")
    path = tmp_path / "a.txt"
    path.write_text(TEXT, encoding="utf-8")
    options = argparse.Namespace(
        overrides=["model.embedding_size=4", "training.window=8", "training.batch_size=2"],
        unit="steps",
        trials=1,
        folder=tmp_path,
    )
    row = text_budget.measure(str(path), 2, options)
    assert row["trials"] == 1 and row["automatic"]["steps"] == 2
    assert row["best_loss_nats"] <= row["automatic"]["loss_nats"]
    assert row["best_values"].keys() == {
        text.partition("=")[0]
        for text in text_budget.search_space(text_budget.choose(str(path), 2, options).config)
    }
    assert text_budget.format_table([row], "steps").splitlines()[2].startswith("| a.txt | 2 | ")
