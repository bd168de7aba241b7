"""`charlm runs`: the runs in a folder as a table."""

import csv
import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
from conftest import small_config, train_all

import charlm
from charlm.cli.main import run as command
from charlm.runs.metrics import read_metrics
from charlm.storage.tables import format_rows


@pytest.fixture
def folder(trained, trained_records, tmp_path) -> Path:
    """A folder with two runs, one of them in a subfolder, and a folder that is no run."""
    shutil.copytree(trained, tmp_path / "a_b")
    shutil.copytree(trained_records, tmp_path / "inner" / "records")
    (tmp_path / "empty").mkdir()
    return tmp_path


def output(capfd, *arguments: object) -> str:
    assert command(["runs", *map(str, arguments)]) == 0
    return capfd.readouterr().out


def test_runs_are_listed_with_settings_and_the_scores_of_the_best_evaluation(folder, capfd):
    listed = json.loads(output(capfd, folder, "--json"))["runs"]
    assert [run["run"] for run in listed] == [
        str(folder / "a_b"),
        str(folder / "inner" / "records"),
    ]
    first, second = listed
    (best,) = [line for line in read_metrics(folder / "a_b") if line["step"] == first["step"]]
    for name in ("loss_nats", "perplexity", "bits_per_character"):
        assert first[name] == best[name]
    model = charlm.load(folder / "a_b").model
    assert first["parameters"] == sum(tensor.numel() for tensor in model.parameters())
    assert first["hidden_sizes"] == [16] and first["budget"] == "60 steps" and first["steps"] == 60
    assert (first["mode"], second["mode"]) == ("stream", "records")
    runs = charlm.list_runs(folder)
    assert [run.to_json() for run in runs] == listed
    assert f"{runs}\n" == output(capfd, folder)


def test_the_table_is_also_csv_and_latex(folder, capfd):
    (names, *rows) = csv.reader(StringIO(output(capfd, folder, "--format", "csv")))
    assert len(rows) == 2 and names[:2] == ["run", "bits/char"]
    shown = output(capfd, folder).splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [row[:2] for row in rows]
    latex = output(capfd, folder, "--format", "latex")
    assert latex.startswith(r"\begin{tabular}{lll") and r"a\_b & " in latex
    assert latex.count(r" \\") == 3


def test_a_damaged_run_is_named_and_the_others_are_listed(folder, capfd):
    (folder / "a_b" / "corpus.json").write_text("[]", encoding="utf-8")
    assert command(["runs", str(folder)]) == 0
    out, err = capfd.readouterr()
    assert f"{folder / 'a_b'}: not listed: " in err and "records" in out and "a_b" not in out
    with pytest.warns(UserWarning, match="not listed") as warned:
        (run,) = charlm.list_runs(folder)
    assert run.run.endswith("records")
    assert [str(warned[0].message), warned[0].filename] == [err.rstrip(), __file__]


def test_a_run_that_was_not_evaluated_has_no_score(folder, capfd):
    (folder / "a_b" / "metrics.jsonl").unlink()
    (run, _) = json.loads(output(capfd, folder, "--json"))["runs"]
    assert run["loss_nats"] is None and run["steps"] == 0
    assert output(capfd, folder).splitlines()[1].split()[1] == "-"


def test_a_run_that_was_resumed_with_another_budget_shows_it(text_file, tmp_path, capfd):
    folder = tmp_path / "run"
    train_all(small_config(text_file, "training.steps=4"), folder)
    assert command(["train", "--resume", str(folder), "--steps", "8"]) == 0
    capfd.readouterr()
    (listed,) = json.loads(output(capfd, folder, "--json"))["runs"]
    assert (listed["budget"], listed["steps"]) == ("8 steps", 8)
    run = charlm.load(folder, which="last")
    assert run.trained.budget == ("steps", 8) and run.config.training.steps == 4
    commands = "charlm train --config model.yaml\ncharlm train --resume RUN --steps 8\n"
    assert commands in charlm.model_card(run)
    state = folder / "last" / "state.json"
    facts = json.loads(state.read_text())
    old = {name: fact for name, fact in facts.items() if name not in ("sha256", "budget")}
    for text in (json.dumps(old), "damaged"):  # An earlier version does not save the budget.
        state.write_text(text)
        assert json.loads(output(capfd, folder, "--json"))["runs"][0]["budget"] == "4 steps"


def test_a_folder_without_runs_is_refused(tmp_path, capfd):
    assert command(["runs", str(tmp_path)]) == 1
    assert "contains no run folder" in capfd.readouterr().err
    (tmp_path / "a.txt").write_text("a text\n", encoding="utf-8")
    for name, problem in (("a.txt", "is a file"), ("nowhere", "no such folder")):
        assert command(["runs", str(tmp_path / name)]) == 1
        line = capfd.readouterr().err
        assert line.startswith(f"charlm: {tmp_path / name}: {problem}; name a folder with runs")


def test_columns_are_aligned_below_characters_that_take_two_columns_or_none():
    table = format_rows(["label", "n"], [["名詞", "1"], ["e\u0301", "2"], ["verb", "3"]], "table")
    assert table.splitlines() == ["label  n", "名詞   1", "e\u0301      2", "verb   3"]


def test_the_score_of_a_diverged_run_does_not_widen_the_table(folder, capfd):
    widths = [len(line) for line in output(capfd, folder).splitlines()]
    metrics = folder / "a_b" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    scores = {"loss_nats": 1e33, "bits_per_character": 2e33, "perplexity": None}
    text = "".join(json.dumps(line | scores) + "\n" for line in lines)
    metrics.write_text(text, encoding="utf-8")
    assert "2e+33" in output(capfd, folder)
    assert [len(line) for line in output(capfd, folder).splitlines()] <= widths
