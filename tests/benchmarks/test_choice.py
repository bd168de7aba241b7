"""The benchmark of automatic settings: which are compared, and the speed of its table."""

import argparse
import json
import sys
from contextlib import nullcontext

import pytest
from benchmark_modules import load

from charlm.config.load import load_config

choice = load("choice")


def test_settings_are_those_that_depend_on_the_speed():
    overrides = ["model.hidden_size=[96,96]", "model.output_dropout=0.25", "training.epochs=3"]
    found = choice.settings(load_config(None, [*overrides, "training.minutes=null"]))
    assert set(found) == set(choice.COLUMNS)
    assert (found["hidden_size"], found["output_dropout"], found["epochs"]) == (96, 0.25, 3)
    assert choice.format_settings(found).startswith("hidden_size 96  output_dropout 0.25")


def test_a_given_speed_falls_in_proportion_to_the_work():
    speed = choice.table_speed(argparse.Namespace(speed=96_000))
    assert speed(256) == 96_000
    assert 96_000 / 4 < speed(512) < 96_000 / 3
    assert 96_000 / 16 < speed(1024) < speed(512) / 3


def test_choices_beside_a_busy_program_are_compared_with_the_usual_idle_one(monkeypatch, capsys):
    sizes = iter([256, 192, 256, 256, 128, 192])  # Idle and busy in turn.
    usual = dict.fromkeys(choice.COLUMNS, 1)
    monkeypatch.setattr(
        choice, "in_fresh_process", lambda text, minutes: usual | {"hidden_size": next(sizes)}
    )
    monkeypatch.setattr(choice, "busy_program", nullcontext)
    options = argparse.Namespace(text="a.txt", minutes=1.0, rounds=3)
    result = choice.repeated(options)
    assert [found["hidden_size"] for found in result["choices"]["busy"]] == [192, 256, 192]
    out = capsys.readouterr().out
    assert "usually 256: 2 of 3 idle, 1 of 3 beside a busy program" in out
    assert "usually 1: 3 of 3 idle, 3 of 3 beside a busy program" in out


def test_a_choice_is_that_of_a_fresh_process(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 90, encoding="utf-8")
    assert set(choice.in_fresh_process(str(tmp_path / "a.txt"), 0.1)) == set(choice.COLUMNS)


def test_a_choice_without_a_text_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["choice.py", str(tmp_path / "a.txt"), "--once"])
    with pytest.raises(SystemExit) as ended:
        choice.run_main(choice.main)
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("choice.py: ") and "no such text" in lines[0]


def test_the_table_has_a_row_for_each_size_and_budget(tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.txt"
    path.write_text("the cat sat on the mat\n" * 90, encoding="utf-8")
    monkeypatch.setattr(choice, "TABLE_CHARACTERS", (1_000, 5_000))
    monkeypatch.setattr(choice, "TABLE_MINUTES", (1,))
    result = choice.table(argparse.Namespace(text=path, speed=1_000.0))
    assert [(row["bytes"], row["minutes"]) for row in result["rows"]] == [(1_000, 1), (5_000, 1)]
    assert json.dumps(result)
    assert capsys.readouterr().out.count("hidden_size") == 2
    assert result["tokens_per_second"][256] == pytest.approx(1_000)
