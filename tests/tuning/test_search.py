"""The search for settings: values, pruning, results, and continuation."""

import csv
import shlex
from itertools import count
from types import SimpleNamespace

import optuna
import pytest
import torch
from conftest import small_config, train_all

from charlm.config.load import load_config
from charlm.errors import CheckpointError, ConfigError, CorpusError, DivergenceError, OptionError
from charlm.runs import session
from charlm.runs.experiment import Evaluated
from charlm.training.loss import Score
from charlm.tuning import search as tuning
from charlm.tuning.search import Callbacks, tune
from charlm.tuning.study import Budget
from charlm.tuning.trial import train_trial

RATE = "training.learning_rate=1e-3..1e-1"


def tried(results) -> list[tuple]:
    """Return the trials in their order."""
    trials = sorted(results.trials, key=lambda trial: trial.number)
    return [(trial.number, trial.outcome, trial.loss_nats, trial.values) for trial in trials]


def tuned_over(config, search, folder, trials=9) -> list:
    """Return the values that a search of one key tries."""
    return [
        value
        for *_, values in tried(tune(config, [search], out=folder, budget=Budget(trials=trials)))
        for value in values.values()
    ]


@pytest.fixture
def untrained(monkeypatch, in_memory):
    """Let every trial finish immediately."""

    def report(trial, experiment, is_stopped):
        trial.report(1.0, 1000)
        return "finished"

    monkeypatch.setattr("charlm.tuning.trial.train_trial", report)


def test_a_search_ends_in_a_table_and_a_config_that_trains_to_the_best_loss(config, tmp_path):
    found = tune(
        config, [RATE, "model.hidden_size=8,16"], out=tmp_path / "tuned", budget=Budget(trials=3)
    )
    best = found.best
    assert best.loss_nats == min(trial.loss_nats for trial in found.trials)
    assert found.trials == sorted(found.trials, key=lambda trial: trial.loss_nats)
    rows = list(csv.DictReader((tmp_path / "tuned/trials.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in found.trials]
    assert float(rows[0]["loss_nats"]) == best.loss_nats
    assert float(rows[0]["training.learning_rate"]) == best.values["training.learning_rate"]
    settings = load_config(tmp_path / "tuned/best.yaml")
    assert settings.training.learning_rate == best.values["training.learning_rate"]
    assert settings.model.hidden_size == (best.values["model.hidden_size"],)
    again = train_all(settings, tmp_path / "again")
    assert again.state.best_loss_nats == pytest.approx(best.loss_nats)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/tuned/study.db")
    assert study.best_value == best.loss_nats and study.best_trial.number == best.number
    header = (tmp_path / "tuned/best.yaml").read_text().split("corpus:")[0]
    assert (
        f"{best.loss_nats:.4f} nats per token" in header
        and "The best of 3 trials" in header
        and f"--search {RATE}" in header
    )


def test_the_header_of_the_best_configuration_has_commands_to_paste(config, in_memory, tmp_path):
    search = "model.hidden_size=[8, 8],\n[16]"
    tune(config, [search], out=tmp_path / "tuned", budget=Budget(trials=2))
    path = tmp_path / "tuned/best.yaml"
    assert load_config(path).training.steps == config.training.steps
    command = next(line for line in path.read_text().splitlines() if "charlm tune" in line)
    assert shlex.split(command)[-1] == search.replace("\n", r"\n")


def test_only_the_best_trial_keeps_its_weights(config, in_memory, tmp_path):
    found = tune(config, [RATE], out=tmp_path / "tuned", budget=Budget(trials=3))
    kept = {path.parents[1].name for path in (tmp_path / "tuned/trials").glob("*/*/*.safetensors")}
    assert kept == {str(found.best.number)}
    assert len(list((tmp_path / "tuned/trials").glob("*/metrics.jsonl"))) == 3


def test_the_first_trial_has_the_values_of_the_configuration(text_file, untrained, tmp_path):
    config = small_config(
        text_file, "training.steps=2", "training.learning_rate=0.0123", "model.cell=gru"
    )
    search = [
        RATE,
        "model.hidden_size=4,8,12,16,20,24,28",
        "model.cell=lstm,gru,elman,min_gru",
        "model.output_dropout=0..0.5",
    ]
    found = tune(config, search, out=tmp_path / "tuned", budget=Budget(trials=1))
    assert found.best.values == {
        "training.learning_rate": 0.0123,
        "model.hidden_size": 16,
        "model.cell": "gru",
        "model.output_dropout": 0.0,
    }


def test_a_configured_value_outside_the_search_space_is_not_tried(config, untrained, tmp_path):
    search = ["training.batch_size=6..9", "model.hidden_size=8,16"]
    values = tune(config, search, out=tmp_path / "tuned", budget=Budget(trials=1)).best.values
    assert 6 <= values["training.batch_size"] <= 9 and values["model.hidden_size"] == 16


def test_a_range_over_a_factor_of_ten_is_searched_on_a_logarithmic_scale(
    config, untrained, tmp_path
):
    values = tuned_over(config, "training.learning_rate=1e-9..1", tmp_path / "log")
    assert sum(value < 1e-3 for value in values) >= 4
    values = tuned_over(config, "training.weight_decay=1..9", tmp_path / "linear")
    assert sum(value > 3 for value in values) >= 4 and any(
        value != round(value) for value in values
    )


def test_an_integer_setting_is_searched_in_integers(config, untrained, tmp_path):
    for text in ("1..3", "1.0..3e0"):
        values = tuned_over(config, f"training.batch_size={text}", tmp_path / text)
        assert set(values) == {1, 2, 3} and all(isinstance(value, int) for value in values), text


def test_choices_can_be_numbers_lists_and_null(config, untrained, tmp_path):
    values = tuned_over(config, "training.clipnorm=null,1e1,3", tmp_path / "a")
    assert set(values) == {None, 10.0, 3}
    values = tuned_over(config, "model.hidden_size=8,[16,8]", tmp_path / "b")
    assert {str(value) for value in values} == {"8", "[16, 8]"}


def test_a_resumed_search_equals_an_uninterrupted_one(config, in_memory, tmp_path):
    search = [RATE, "model.hidden_size=8,16,24"]
    whole = tune(config, search, out=tmp_path / "whole", budget=Budget(trials=4))
    tune(config, search, out=tmp_path / "parts", budget=Budget(trials=2))
    assert (
        tried(tune(config, search, out=tmp_path / "parts", budget=Budget(trials=3)))
        == tried(whole)[:3]
    )
    assert tried(tuning.resume(tmp_path / "parts", budget=Budget(trials=4))) == tried(whole)
    assert len({str(values) for *_, values in tried(whole)}) == 4


def test_another_seed_tries_other_values(text_file, untrained, tmp_path):
    values = [
        tuned_over(
            small_config(text_file, f"training.seed={seed}"), RATE, tmp_path / str(seed), trials=2
        )[1]
        for seed in (1, 2)
    ]
    assert values[0] != values[1]


def test_a_trial_worse_than_the_median_is_pruned(config, in_memory, tmp_path):
    search = ["training.learning_rate=1e-9,1e-8,1e-7,5e-2,7e-2,9e-2"]
    found = tune(config, search, out=tmp_path / "tuned", budget=Budget(trials=6))
    pruned = [trial for trial in found.trials if trial.outcome == "pruned"]
    assert pruned and found.best.values["training.learning_rate"] > 1e-2
    for trial in pruned:
        assert trial.number >= 3 and trial.loss_nats > found.best.loss_nats
        lines = (tmp_path / f"tuned/trials/{trial.number}/metrics.jsonl").read_text()
        assert lines.count("\n") == 1  # Two evaluations were planned.


def test_no_values_are_tried_twice_and_a_search_ends_when_none_are_left(
    config, untrained, tmp_path
):
    found = tune(
        config, ["model.hidden_size=8,16,24"], out=tmp_path / "tuned", budget=Budget(trials=9)
    )
    assert sorted(trial.values["model.hidden_size"] for trial in found.trials) == [8, 16, 24]
    assert found.exhausted


def test_a_trial_that_diverges_is_reported_and_the_search_continues(
    config, in_memory, tmp_path, monkeypatch
):
    begun = session.run

    def diverge_at_first(experiment, **options):
        if experiment.folder.name == "0":
            raise DivergenceError("step 1: the loss is nan", "lower the rate")
        return begun(experiment, **options)

    monkeypatch.setattr(session, "run", diverge_at_first)
    found = tune(config, [RATE], out=tmp_path / "tuned", budget=Budget(trials=2))
    assert [trial.outcome for trial in found.trials] == ["finished", "diverged"]
    assert (
        found.trials[1].note == "step 1: the loss is nan; lower the rate" and found.best.number == 1
    )


@pytest.mark.parametrize(
    ("search", "note"),
    [
        ("training.window=16,100000", "window"),
        ("model.embedding_size=16,24", "tied: "),
        ("model.hidden_size=8,16", "needs more memory"),
    ],
)
def test_impossible_values_end_only_their_own_trial(
    text_file, in_memory, tmp_path, monkeypatch, search, note
):
    def short_of_memory(trial, experiment, is_over):
        if experiment.config.model.hidden_size == (8,):
            raise torch.OutOfMemoryError
        return train_trial(trial, experiment, is_over)

    monkeypatch.setattr("charlm.tuning.trial.train_trial", short_of_memory)
    config = small_config(text_file, "training.steps=2", "model.embedding_size=16")
    also = (
        ["model.tied=true,false", "model.embedding=learned,one_hot"]
        if "embedding" in search
        else []
    )
    found = tune(
        config, [search, *also], out=tmp_path / "tuned", budget=Budget(trials=8 if also else 4)
    )
    notes = [trial.note for trial in found.trials if trial.outcome == "impossible"]
    assert notes and note in notes[0]
    assert found.best.outcome == "finished"


class Ticks:
    """A clock that advances by one second whenever it is read."""

    def __init__(self):
        self.ticks = count()

    def __call__(self) -> float:
        return float(next(self.ticks))


def test_the_minutes_stop_the_running_trial_and_no_other_begins(config, in_memory, tmp_path):
    # A trial reads the clock once before its first step, once after each of its 6 steps, and with
    # each prediction of its two evaluations.
    found = tune(
        config,
        [RATE],
        out=tmp_path / "tuned",
        budget=Budget(minutes=22 / 60, trials=5),
        callbacks=Callbacks(clock=Ticks()),
    )
    assert [trial.outcome for trial in found.trials] == ["finished", "finished", "unfinished"]
    assert found.best.number in (0, 1)


def test_an_unfinished_trial_is_tried_again_and_is_the_best_only_if_none_is_finished(
    config, in_memory, tmp_path
):
    stopped = count()
    # Called before the trial, after each step, and during evaluations: from the sixth time on after
    # the first of two evaluations.
    found = tune(
        config,
        [RATE],
        out=tmp_path / "tuned",
        budget=Budget(trials=2),
        callbacks=Callbacks(stop=lambda: next(stopped) == 6),
    )
    assert [trial.outcome for trial in found.trials][-1] == "unfinished"
    first = found.trials[-1]
    assert first.number == 0 and first.loss_nats is not None and found.best.outcome == "finished"
    assert (
        found.trials[0].number == 1
        and min(found.trials, key=lambda trial: trial.number).values == first.values
    )


def test_an_unfinished_trial_that_is_the_only_one_keeps_its_results(config, in_memory, tmp_path):
    asked = count()
    found = tune(
        config,
        [RATE],
        out=tmp_path / "tuned",
        budget=Budget(trials=2),
        callbacks=Callbacks(stop=lambda: next(asked) >= 6),
    )
    assert [trial.outcome for trial in found.trials] == [
        "unfinished"
    ] and found.best == found.trials[0]
    assert "unfinished" in (tmp_path / "tuned/best.yaml").read_text().split("corpus:")[0]
    went_on = tuning.resume(tmp_path / "tuned")
    assert [trial.outcome for trial in went_on.trials] == ["finished", "finished", "unfinished"]
    assert tried(went_on)[1][3] == tried(went_on)[0][3]  # The values of the stopped trial.


def test_a_trial_that_ends_in_an_error_is_marked_failed_and_tried_again(
    config, tmp_path, monkeypatch
):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("charlm.tuning.trial.train_trial", crash)
    with pytest.raises(KeyboardInterrupt):
        tune(config, [RATE], out=tmp_path / "tuned", budget=Budget(trials=2))
    monkeypatch.setattr("charlm.tuning.trial.train_trial", train_trial)
    found = tuning.resume(tmp_path / "tuned")
    assert [trial.outcome for trial in found.trials] == ["finished", "finished", "failed"]
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path}/tuned/study.db")
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_the_minutes_before_a_resumption_count(config, untrained, tmp_path):
    before = tune(config, [RATE], out=tmp_path / "tuned", budget=Budget(trials=2))
    spent = 0.99 * sum(trial.seconds for trial in before.trials)  # 60 * (x / 60) can exceed x.
    again = tuning.resume(
        tmp_path / "tuned",
        budget=Budget(minutes=spent / 60, trials=4),
        callbacks=Callbacks(clock=lambda: 0.0),
    )
    assert again.trials == before.trials


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        (
            "training.learning_rat=1..2",
            "unknown key training.learning_rat (nearest: training.learning_rate)",
        ),
        ("model.hidden_size=0..64", "model.hidden_size: must be at least 1, got 0"),
        ("model.dropout=0..1", "must be less than 1"),
        ("training.optimizer=adam,adamx", "got 'adamx'"),
        ("training.batch_size=1.5..3", "got 1.5"),
        ("training.learning_rate=3e-2..1e-3", "must be less than"),
        ("training.learning_rate=1e-3", "is one value"),
        ("training.learning_rate=1e-3...1e-2", "write a range with two dots, as in 0..0.5"),
        ("model.tied=true,1", "is one value"),
        ("model.hidden_size=8,8.0,[8]", "is one value"),
        ("model.hidden_size=[8,16", "neither a range"),
        ("model.tied=0..1", "is true or false, not a number; give choices: model.tied=true,false"),
        ("model.tied=false..true", "give choices: model.tied=true,false"),
        ("training.optimizer=0..1", "must be 'adamw', 'adam'"),
        ("model.vectors=0..1", "is not a number; give choices, separated by commas"),
        ("model.hidden_size", "must be section.key=values"),
        ("training.steps=10,20", "all trials have the same budget"),
        ("tokenizer.level=char,word", "are not comparable"),
        ("corpus.text=a,b", "are not comparable"),
    ],
)
def test_an_impossible_search_is_refused_before_anything_is_written(
    config, tmp_path, search, problem
):
    with pytest.raises(OptionError) as error:
        tune(config, [search], out=tmp_path / "tuned", budget=Budget(trials=1))
    assert str(error.value).startswith("search: ") and problem in str(error.value)
    assert search in str(error.value)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        (
            ["model.cell=lstm,gru", "model.cell.kind=lstm,gru"],
            "model.cell.kind: is a part of model",
        ),
        (
            ["model.cell.kind=lstm,gru", "model.cell=lstm,gru"],
            "model.cell.kind: is a part of model",
        ),
        (["model.hidden_size=4,8", "model.hidden_size=4,6"], "model.hidden_size: is given twice"),
    ],
)
def test_a_setting_is_searched_once(config, tmp_path, search, problem):
    with pytest.raises(OptionError, match=f"^search: {problem}"):
        tune(config, search, out=tmp_path / "tuned", budget=Budget(trials=1))
    assert not (tmp_path / "tuned").exists()


def test_a_search_needs_a_key_a_budget_and_a_validation_split(
    config, text_file, tmp_path, monkeypatch
):
    with pytest.raises(OptionError, match="nothing to search"):
        tune(config, [], out=tmp_path / "tuned", budget=Budget(trials=1))
    with pytest.raises(ConfigError, match="give --minutes or --trials"):
        tune(config, [RATE], out=tmp_path / "tuned")
    monkeypatch.chdir(text_file.parent)
    message = rf"^{text_file.name}: there is no validation split .* set corpus.valid_share"
    with pytest.raises(CorpusError, match=message):
        tune(
            small_config(text_file, "corpus.valid_share=0"),
            [RATE],
            out=tmp_path / "tuned",
            budget=Budget(trials=1),
        )
    assert not (tmp_path / "tuned").exists()


def test_a_folder_of_another_search_is_refused(config, untrained, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("abc " * 200)
    folder, changed = tmp_path / "tuned", small_config(text)
    tune(changed, [RATE], out=folder, budget=Budget(trials=1))
    with pytest.raises(CheckpointError, match="the search space changed since"):
        tune(changed, ["training.learning_rate=1e-3..1"], out=folder, budget=Budget(trials=2))
    with pytest.raises(CheckpointError, match="the configuration changed since"):
        tune(small_config(text, "model.hidden_size=8"), [RATE], out=folder, budget=Budget(trials=2))
    text.write_text("abd " * 200)
    with pytest.raises(CheckpointError, match="contains another search: the text changed since"):
        tuning.resume(folder, budget=Budget(trials=2))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(CheckpointError, match="not empty"):
        tune(config, [RATE], out=tmp_path / "full", budget=Budget(trials=1))
    with pytest.raises(CheckpointError, match="contains no search"):
        tuning.resume(tmp_path / "full")


def test_a_damaged_study_is_refused(tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/study.db").write_bytes(b"no database at all")
    with pytest.raises(CheckpointError, match=r"study.db: is damaged"):
        tuning.resume(tmp_path / "tuned")


def test_optuna_prints_nothing_and_keeps_its_verbosity_afterwards(
    config, untrained, tmp_path, capfd
):
    tune(config, [RATE], out=tmp_path / "tuned", budget=Budget(trials=1))
    tuning.resume(tmp_path / "tuned", budget=Budget(trials=2))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_a_repeated_evaluation_is_reported_once_and_the_last_one_never_prunes(monkeypatch):
    progress, state = iter([0.25, 0.5, 0.5, 0.75, 1.0]), SimpleNamespace(step=1)
    section, reported = SimpleNamespace(evaluations=4), []
    experiment = SimpleNamespace(config=SimpleNamespace(training=section), state=state)

    def events(_, stop):
        for done in progress:
            state.fraction_done = lambda section, done=done: done
            yield Evaluated(experiment, Score(10 * (2 - done), 10, 0), {}, True)

    monkeypatch.setattr(session, "run", events)
    trial = SimpleNamespace(
        report=lambda loss, step: reported.append((step, loss)),
        should_prune=lambda: reported[-1][0] == 1000,
    )
    assert train_trial(trial, experiment, lambda: False) == "finished"
    assert reported == [(250, 1.75), (500, 1.5), (750, 1.25), (1000, 1.0)]
