"""The command `charlm tune`."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli import running
from conftest import SMALL

from charlm.cli.main import run as charlm
from charlm.cli.tune import _make_callbacks
from charlm.runs import session, signals
from charlm.training.loop import Progress, train

pytestmark = pytest.mark.usefixtures("empty_folder")
SETTINGS = [part for override in [*SMALL, "training.steps=4"] for part in ("--set", override)]
NAME_ENDINGS = [
    a + b for a in ("dorf", "kirch", "bach", "stein") for b in ("au", "en", "sund", "y")
]
SEARCH = ["--search", "training.learning_rate=1e-3..1e-1", "--search", "model.hidden_size=8,16"]


def refused(capfd, *arguments: object, status: int = 1) -> str:
    return running.refused(capfd, "tune", *arguments, status=status)


def test_tune_then_resume_then_train_with_the_best_settings(capfd, text_file):
    assert (
        charlm(
            [
                "tune",
                str(text_file),
                *SETTINGS,
                *SEARCH,
                "--trials",
                "2",
                "--out",
                "tuned",
                "--seed",
                "5",
            ]
        )
        == 0
    )
    out, err = capfd.readouterr()
    heads, *rows = [line.split() for line in out.splitlines()]
    assert heads == [
        "trial",
        "outcome",
        "loss_nats",
        "seconds",
        "training.learning_rate",
        "model.hidden_size",
    ]
    assert sorted(row[0] for row in rows) == ["0", "1"]
    assert float(rows[0][2]) <= float(rows[1][2])
    text, *lines = err.splitlines()
    assert text.startswith("text: ") and text.endswith(
        "reading one long text: many lines are equal"
    )
    assert (
        lines[0].startswith("trial 0: ")
        and "nats, finished; training.learning_rate=0.008, model" in lines[0]
    )
    assert (
        lines[-1]
        == f"tuned/best.yaml: settings of trial {rows[0][0]}; use its model with: charlm sample "
        f"tuned/trials/{rows[0][0]}"
    )
    assert charlm(["tune", "--resume", "tuned", "--trials", "3", "--json"]) == 0
    out, err = capfd.readouterr()
    whole = json.loads(out)
    assert len(whole["trials"]) == 3 and err.count("trial 2: ") == 1 and "trial 1: " not in err
    assert whole["loss_nats"] == min(trial["loss_nats"] for trial in whole["trials"])
    assert whole["settings"]["seed"] == 5 and whole["settings"]["split"] == "valid"
    assert charlm(["tune", "--resume", "tuned"]) == 0
    assert "the budget is spent" in capfd.readouterr().err
    assert charlm(["train", "--config", whole["config"], "--out", "trained"]) == 0
    assert charlm(["sample", whole["run"], "--length", "5"]) == 0


def test_the_default_folder_is_a_new_one_in_runs(capfd, text_file):
    assert charlm(["tune", str(text_file), *SETTINGS, *SEARCH, "--trials", "1"]) == 0
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("tune-text-") and (folder / "best.yaml").is_file()


def test_ctrl_c_ends_the_search_with_a_table_and_a_configuration(text_file, monkeypatch, capfd):
    def press_after_an_evaluation(*values: object, **options: object) -> Iterator[Progress]:
        for progress in train(*values, **options):
            if Path("tuned/trials/0/metrics.jsonl").is_file():
                signal.raise_signal(signal.SIGINT)
            yield progress

    monkeypatch.setattr(session, "train", press_after_an_evaluation)
    endless = ["--set", "training.steps=100000", "--set", "training.evaluations=10000"]
    budget = ["--minutes", "9", "--out", "tuned"]
    command = ["tune", str(text_file), *SETTINGS, *endless, *SEARCH, *budget]
    assert charlm(command) == 128 + signal.SIGINT
    out, err = capfd.readouterr()
    assert out.splitlines()[1].split()[:2] == ["0", "unfinished"]
    assert "stopped; continue with: charlm tune --resume tuned\n" in err
    assert Path("tuned/best.yaml").is_file()


def test_ctrl_c_before_the_first_evaluation_is_no_error(monkeypatch, capsys, text_file):
    monkeypatch.setattr(signals.StopRequest, "__call__", lambda stop: True)
    monkeypatch.setattr(signals.StopRequest, "exit_status", 130)
    assert charlm(["tune", str(text_file), *SETTINGS, *SEARCH, "--trials=1", "--out=tuned"]) == 130
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("stopped; continue with: charlm tune")
    )


def test_a_search_without_any_score_states_the_reason(capfd, text_file):
    changes = ["--set", "training.learning_rate=1e30", "--set", "training.clipnorm=null"]
    search = ["--search", "training.learning_rate=1e30..1e31"]
    assert (
        charlm(
            [
                "tune",
                str(text_file),
                *SETTINGS,
                *changes,
                *search,
                "--trials",
                "1",
                "--out",
                "tuned",
            ]
        )
        == 1
    )
    out, err = capfd.readouterr()
    assert out.splitlines()[1].split()[:3] == ["0", "diverged", "-"]
    last = err.splitlines()[-1]
    assert "no trial reached an evaluation; step 2: the weights" in last
    assert "--" not in last  # More time would not help, and the remedies are settings.
    assert last.endswith("or set training.on_divergence=halve")


def test_a_best_value_at_the_end_of_its_range_is_a_line_before_the_last(capfd, text_file):
    search = ["--search", "training.learning_rate=1e-9,1e-8,1e-7"]
    arguments = [str(text_file), *SETTINGS, "--set", "training.learning_rate=1e-7", *search]
    assert charlm(["tune", *arguments, "--trials", "3", "--out", "tuned"]) == 0
    *_, end, last = capfd.readouterr().err.splitlines()
    assert end == (
        "training.learning_rate: the best value, 1e-07, is at the upper end of its range, 1e-07; a "
        "search of a wider range may find a better one"
    )
    assert last.startswith("tuned/best.yaml: ")


def test_mistakes_are_reported_in_one_line(capfd, text_file):
    assert "nothing to search" in refused(capfd, text_file, *SETTINGS, "--trials", "1", status=2)
    assert "give --minutes or --trials" in refused(capfd, text_file, *SETTINGS, *SEARCH)
    line = refused(
        capfd, text_file, *SETTINGS, "--search", "model.hiden_size=1,2", "--trials", "1", status=2
    )
    assert (
        "--search: model.hiden_size=1,2: unknown key model.hiden_size (nearest: model.hidden_size)"
        in line
    )
    assert "contains no search" in refused(capfd, "--resume", "nothing")
    Path("run").mkdir()
    Path("run/config.yaml").touch()
    remedy = "continue the run: charlm train --resume run"
    assert remedy in refused(capfd, "--resume", "run")
    assert "--search: cannot be combined with --resume" in refused(
        capfd, "--resume", "nothing", *SEARCH, status=2
    )
    unreachable = ["--storage", "postgresql://me:secret@127.0.0.1:1/data", "--study", "mine"]
    line = refused(capfd, text_file, *SETTINGS, *SEARCH, "--trials", "1", *unreachable)
    assert "postgresql://me@127.0.0.1:1/data: cannot be used: " in line and "secret" not in line
    assert not list(Path().glob("runs/*"))


def test_a_missing_optuna_is_reported_with_its_installation(capfd, text_file, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("charlm.tuning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("charlm.tuning", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'charlm-rnn[tune]'" in refused(capfd, text_file, *SEARCH, "--trials", "1")


def test_waiting_for_one_trial_is_singular(capsys):
    wait = _make_callbacks(lambda: False, []).wait
    for number, trials in ((1, "1 trial of"), (2, "2 trials of")):
        wait(number)
        assert f"waiting for {trials} other processes" in capsys.readouterr().err


def test_without_a_configuration_the_text_is_read_as_train_reads_it(capfd, empty_folder):
    names = [f"{first}{last}" for first in ("Bad", "Neu", "Ober") for last in NAME_ENDINGS]
    Path("names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    sizes = ("training.steps=2", "training.window=8", "model.hidden_size=8")
    small = [part for size in sizes for part in ("--set", size)]
    command = ["tune", "names.txt", *small, "--search", "model.num_layers=1,2", "--trials", "1"]
    for mode, reading in (("records", "reading one record per line"), ("stream", "corpus.mode is")):
        given = ["--set", "corpus.mode=stream"] if mode == "stream" else []
        assert charlm([*command, *given, "--out", mode]) == 0
        assert reading in capfd.readouterr().err
        assert f"\n  mode: {mode} " in Path(mode, "best.yaml").read_text(encoding="utf-8")
