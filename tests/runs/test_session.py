"""A whole training: its events, the best model, patience, the learning rate, the clock."""

import numpy as np
import pytest
import torch
from conftest import small_config, train_all
from trainings import Clock, set_losses

from charlm.data.windows.scoring import scoring_windows
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Evaluated, Notice
from charlm.runs.metrics import read_metrics
from charlm.training.loop import Progress
from charlm.training.loss import score


def test_the_best_checkpoint_has_the_lowest_validation_loss(text_file, tmp_path, monkeypatch):
    set_losses(monkeypatch, 2.0, 1.0, 3.0)
    experiment = prepare.begin(small_config(text_file, "training.evaluations=3"), tmp_path / "run")
    evaluated = [event for event in session.run(experiment) if isinstance(event, Evaluated)]
    assert [event.is_best for event in evaluated] == [True, True, False]
    assert load_checkpoint(tmp_path / "run" / "best").state["step"] == 8
    assert load_checkpoint(tmp_path / "run" / "last").state["step"] == 12


def test_patience_ends_training_after_n_evaluations_without_a_new_best(
    text_file, tmp_path, monkeypatch
):
    set_losses(monkeypatch, 1.0, 2.0, 3.0, 4.0)
    config = small_config(text_file, "training.evaluations=4", "training.patience=2")
    *_, finished = session.run(prepare.begin(config, tmp_path / "run"))
    assert finished.reason == "patience"
    assert finished.experiment.state.step == 9


def test_the_rate_of_a_plateau_schedule_falls_at_the_step_after_a_stall(
    text_file, tmp_path, monkeypatch
):
    set_losses(monkeypatch, 5.0, 4.0, 4.5, 4.2, 3.0, 3.5, 2.0, 1.9, 1.8, 1.7, 1.6, 1.5)
    overrides = [
        "training.schedule=plateau",
        "training.evaluations=12",
        "training.learning_rate=1.0e-2",
        "training.warmup_steps=0",
    ]
    experiment = prepare.begin(small_config(text_file, *overrides), tmp_path / "run")
    events = session.run(experiment)
    rates = [event.learning_rate for event in events if isinstance(event, Progress)]
    assert rates == pytest.approx([1e-2] * 3 + [1e-2 / 4] + [1e-2 / 16] * 2 + [1e-2 / 64] * 6)


def test_a_text_without_a_validation_part_is_trained(text_file, tmp_path):
    experiment = train_all(small_config(text_file, "corpus.valid_share=0"), tmp_path / "run")
    assert "valid" not in experiment.tokens
    assert load_checkpoint(tmp_path / "run" / "best").state["step"] == 12


def test_the_training_loss_is_the_mean_over_tokens_where_windows_differ_in_them(tmp_path):
    records = tmp_path / "records.txt"
    records.write_text("\n".join(f"{n:03} is a record ok" for n in range(100)))
    config = small_config(records, "corpus.mode=records", "training.evaluations=1")
    experiment = prepare.begin(config, tmp_path / "run")
    losses, totals = [], [0]
    for event in session.run(experiment):
        if isinstance(event, Progress):
            losses.append(float(event.loss))
            totals.append(event.state.tokens)
    tokens = np.diff(totals)
    assert set(tokens) == {4 * 16, 4 * 3}  # The first and the second window of four records.
    (line,) = read_metrics(tmp_path / "run")
    mean = np.average(losses, weights=tokens)
    assert line["training_loss_nats"] == pytest.approx(mean, rel=1e-6)


def test_a_score_in_parallel_streams_is_within_a_thousandth_of_the_exact_score(text_file, tmp_path):
    experiment = train_all(
        small_config(text_file, "training.steps=150", "training.learning_rate=2e-2"),
        tmp_path / "run",
    )
    ids = np.concatenate([experiment.tokens["train"].ids, experiment.tokens["valid"].ids])
    settings = {"device": torch.device("cpu"), "precision": torch.float32}
    exact = score(experiment.model, scoring_windows(ids), **settings)
    windows = scoring_windows(ids, streams=len(ids) // 1024, warm_up=256)
    parallel = score(experiment.model, windows, **settings)
    assert parallel.tokens == exact.tokens == len(ids)
    assert parallel.nats != exact.nats
    assert abs(parallel.loss_nats - exact.loss_nats) < 0.001


def test_a_clock_that_goes_back_or_a_suspension_leaves_a_budget_of_minutes(text_file, tmp_path):
    config = small_config(text_file, "training.minutes=0.2")

    def count_steps(name: str, clock: Clock) -> int:
        events = session.run(prepare.begin(config, tmp_path / name), clock=clock)
        seconds = [event.state.seconds for event in events if isinstance(event, Progress)]
        assert seconds == sorted(seconds) and seconds[0] >= 0, name
        return len(seconds)

    steps = count_steps("steady", Clock(0, 0.0))
    for jump_at in (11, 12):
        for by in (-1e9, -3.0, 60.0, 1e6):
            name = f"{by} s at call {jump_at}"
            # The step in which the clock jumps counts as zero seconds, or as the mean of a step.
            assert steps <= count_steps(name, Clock(jump_at, by)) <= steps + 2, name


def test_overfitting_is_told_at_the_end_with_the_step_that_is_kept(
    text_file, tmp_path, monkeypatch
):
    set_losses(monkeypatch, 1.0, 2.0)
    settings = ["training.learning_rate=2e-2", "training.steps=160"]
    *_, notice, finished = session.run(
        prepare.begin(small_config(text_file, *settings), tmp_path / "run")
    )
    assert notice.message.startswith("the model overfits: since step 80")
    assert finished.reason == "budget"


def test_a_warm_up_that_is_longer_than_the_budget_is_shortened_and_this_is_told_once(
    text_file, tmp_path
):
    def train(name: str, *settings: str) -> tuple[list[float], list[str]]:
        config = small_config(text_file, "training.learning_rate=1e-2", *settings)
        events = list(session.run(prepare.begin(config, tmp_path / name), clock=Clock(0, 0.0)))
        rates = [event.learning_rate for event in events if isinstance(event, Progress)]
        told = [event.message for event in events if isinstance(event, Notice)]
        return rates, [message for message in told if "warm-up" in message]

    for budget in ("training.steps=40", "training.minutes=0.67", "training.epochs=0.28"):
        rates, told = train(budget, "training.warmup_steps=100", budget)
        assert 38 <= len(rates) <= 42, budget
        assert rates.index(max(rates)) in (3, 4, 5), budget
        assert max(rates) > 8.5e-3, budget
        assert told == [
            "the budget is shorter than the warm-up of 100 steps (training.warmup_steps): the "
            "warm-up is shortened to a tenth of the budget"
        ], budget
    rates, told = train("long enough", "training.warmup_steps=39", "training.steps=40")
    assert rates == pytest.approx(
        [1e-2 * (step + 1) / 39 * (1 - step / 40) for step in range(39)] + [1e-2 / 40]
    )
    assert told == []
