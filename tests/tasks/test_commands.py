"""What the commands do with a run of each task: a result, or one line that names what works."""

import io
import json
import sys

import pytest

from charlm.api import load_any
from charlm.cli.main import run as charlm
from charlm.errors import CharlmError
from charlm.serving.models import ServedModels
from charlm.serving.options import ServeOptions

TASKS = {
    "classify": "charlm predict",
    "tag": "charlm predict",
    "complete": "--source",
    "translate": "--source",
}
# Commands about whole texts; {} is the run folder and OUT a new file.
REFUSED = [
    "sample {}",
    "sample {} --prompt a --count 2",
    "sample {} --next",
    "eval perplexity {}",
    "eval sentences {} TEXT",
    "eval tokens {}",
    "eval compare {} {}",
    "eval gradients {}",
    "eval memory {}",
    "eval context {}",
    "eval cells {}",
    "eval agreement {}",
    "eval parity {}",
    "eval novelty {}",
    "compress {} TEXT",
    "card {}",
    *(f"export {{}} --to {target} --out OUT" for target in ("html", "onnx", "torch")),
    "export {} --to transformers --out OUT",
]
USEFUL = ["inspect {}", "runs {}", "eval task {}", "view {}", "view {} --only task,network"]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("command", REFUSED)
def test_a_command_about_whole_texts_is_refused_in_one_line(
    command, kind, task_folders, tmp_path, capfd
):
    (tmp_path / "text.txt").write_text("bano\n", encoding="utf-8")
    names = {"{}": str(task_folders[kind]), "TEXT": str(tmp_path / "text.txt")}
    names["OUT"] = str(tmp_path / "out")
    arguments = [names.get(word, word) for word in command.split()]
    assert charlm(arguments) == 1
    out, error = capfd.readouterr()
    assert TASKS[kind] in error and error.count("\n") == 1, error
    assert f"task {kind}" in error
    assert out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("command", USEFUL)
def test_a_command_about_runs_has_a_result(command, kind, task_folders, capfd):
    assert charlm([word.replace("{}", str(task_folders[kind])) for word in command.split()]) == 0
    assert capfd.readouterr().out != ""


@pytest.mark.parametrize("kind", TASKS)
def test_a_server_refuses_a_run_of_a_task(kind, task_folders, capfd):
    assert charlm(["serve", str(task_folders[kind]), "--port", "0"]) == 1
    error = capfd.readouterr().err
    assert TASKS[kind] in error and error.count("\n") == 1
    if kind == "complete":
        with pytest.raises(CharlmError, match="--source"):
            ServedModels([load_any(task_folders[kind]).trained], ServeOptions())


def test_tasks_have_columns_in_the_list_of_runs(task_folders, trained, capfd):
    parent = task_folders["tag"].parent
    assert charlm(["runs", str(parent), "--format", "csv"]) == 0
    head, *rows = [line.split(",") for line in capfd.readouterr().out.splitlines()]
    kinds = [row[head.index("task")] for row in rows]
    assert kinds == ["classify", "complete", "tag", "translate"]
    assert all(row[head.index("accuracy")].endswith("%") for row in rows)
    assert all(row[head.index("bits/char")] == "-" for row in rows)
    assert charlm(["runs", str(trained), "--format", "csv"]) == 0
    assert "task" not in capfd.readouterr().out.splitlines()[0]
    assert charlm(["runs", str(parent), "--json"]) == 0
    listed = json.loads(capfd.readouterr().out)["runs"]
    assert 0 <= listed[0]["accuracy"] <= 1
    for run in listed:
        weights = load_any(run["run"]).trained.model.parameters()
        assert run["parameters"] == sum(tensor.numel() for tensor in weights), run["task"]


@pytest.mark.parametrize("kind", ["classify", "tag"])
def test_unknown_characters_are_counted_at_the_end(kind, task_folders, capfd, monkeypatch):
    for text, line in (
        ("bano\nb\u0436n\u0436\nse\u00e9\n", "\u0436' 2, '\u00e9' 1\n"),
        ("\u00e9\n", "1 unknown character in 1 text, read as <UNK>: '\u00e9' 1\n"),
        ("\ufeffbano\r\n", ""),  # As some editors and shells write it.
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert charlm(["predict", str(task_folders[kind])]) == 0
        out, error = capfd.readouterr()
        assert out.count("\n") == text.count("\n")
        assert error.endswith(line) and error.count("\n") == bool(line)
        assert "3 unknown characters in 2 texts, read as <UNK>: " in error or "\u0436" not in text
