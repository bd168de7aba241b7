"""A run folder of an earlier charlm loads, samples, scores and resumes as it did then.

make_old_run.py wrote the folders and expected.json with that earlier charlm. Do not make them
again: a folder that an earlier version wrote must stay readable. Numbers are compared with a
tolerance, because the last digits depend on the processor.
"""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from compatibility.make_old_run import processor
from torch.nn import functional

from charlm.cli.main import run as charlm
from charlm.model import dropout

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text(encoding="utf-8"))
NAMES = ["old_run", "old_records"]
# What new runs must be told in order to be trained as these folders were.
EARLIER_RULES = ["--set", "corpus.copies=apart", "--set", "training.restart_windows=0"]
SCORE_TOLERANCE, METRIC_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4, 1e-3


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """Copy the run folders and their texts to an empty folder, and make it the current one."""
    for path in HERE.iterdir():
        if path.name in NAMES:
            shutil.copytree(path, tmp_path / path.name)
        elif path.suffix in (".txt", ".state"):
            shutil.copy(path, tmp_path)
    (tmp_path / "empty.yaml").touch()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(capfd):
    """Return a function that runs a command, which must succeed, and returns its output."""

    def run(*arguments: object) -> str:
        assert charlm([str(argument) for argument in arguments]) == 0, capfd.readouterr().err
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_folder_samples_the_same_texts(command, name):
    for options, expected in EXPECTED[name]["samples"].items():
        # At the time, the temperature was 1 unless another was given (of two, the last one counts),
        # and a text that a model never writes could be banned.
        defaults = ["--allow-unknown"]
        if "--beams" not in options:
            defaults += ["--temperature", "1"]
        lines = command("sample", name, *defaults, *options.split(), "--json").splitlines()
        samples = [json.loads(line) for line in lines]
        assert [sample["text"] for sample in samples] == [sample["text"] for sample in expected], (
            options
        )
        assert [sample["log_probability"] for sample in samples] == pytest.approx(
            [sample["log_probability"] for sample in expected], rel=SCORE_TOLERANCE
        ), options


@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_folder_scores_the_same(command, name):
    for options, expected in EXPECTED[name]["scores"].items():
        scores = json.loads(command("eval", "perplexity", name, *options.split(), "--json"))
        assert {key: scores[key] for key in expected} == pytest.approx(
            expected, rel=SCORE_TOLERANCE
        ), options


@pytest.fixture
def earlier_masks(monkeypatch):
    """Draw dropout as the earlier charlm did, by torch's `bernoulli_`."""
    monkeypatch.setattr(
        dropout,
        "dropout_scale",
        lambda shape, p, *, like: functional.dropout(like.new_ones(shape), p),
    )


@pytest.mark.usefixtures("earlier_masks")
@pytest.mark.parametrize("name", NAMES)
def test_an_old_run_folder_resumes_as_if_it_had_never_stopped(command, name):
    expected = EXPECTED[name]
    steps, more_steps = expected["steps"], expected["more_steps"]
    shutil.copytree(name, "twice")
    command("train", "--resume", name, "--steps", more_steps)
    command("train", "--resume", "twice", "--steps", (steps + more_steps) // 2)
    command("train", "--resume", "twice", "--steps", more_steps)
    command(*expected["train"], *EARLIER_RULES, "--steps", more_steps, "--out", "uninterrupted")
    assert_metrics(Path(name), expected["resumed"]["metrics"])
    assert_same_tensors(Path(name, "last"), Path("twice", "last"), exactly=True)
    for checkpoint in ("best", "last"):
        # On another processor the 24 steps of the old folder differ in their last digits.
        assert_same_tensors(
            Path(name, checkpoint), Path("uninterrupted", checkpoint), exactly=is_same_machine()
        )


def test_an_old_run_folder_keeps_its_split_although_records_are_repeated(command):
    command(*EXPECTED["old_records"]["train"], "--steps", 1, "--out", "new")
    old, new = (
        json.loads(Path(run, "corpus.json").read_text(encoding="utf-8"))["fingerprints"]
        for run in ("old_records", "new")
    )
    assert old != new
    assert "copies: apart" not in Path("old_records", "config.yaml").read_text(encoding="utf-8")
    assert "copies: together" in Path("new", "config.yaml").read_text(encoding="utf-8")


def assert_metrics(run: Path, expected: list[dict]) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for metrics, line in zip(map(json.loads, lines), expected, strict=True):
        if run.name == "old_records":  # It was the mean over steps; now it is that over tokens.
            line = line | {"training_loss_nats": metrics["training_loss_nats"]}
        assert {key: metrics[key] for key in line} == pytest.approx(line, rel=METRIC_TOLERANCE), (
            line["step"]
        )


def assert_same_tensors(checkpoint: Path, other: Path, *, exactly: bool) -> None:
    """Compare all tensors of two checkpoints: weights, optimizer, states, random generators."""
    tensors, expected = read_tensors(checkpoint), read_tensors(other)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        if exactly or not tensor.is_floating_point():
            assert torch.equal(tensor, expected[name]), f"{checkpoint}: {name}"
        else:
            torch.testing.assert_close(
                tensor,
                expected[name],
                rtol=WEIGHT_TOLERANCE,
                atol=WEIGHT_TOLERANCE,
                msg=f"{checkpoint}: {name}",
            )


def read_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))["files"]
    return {
        f"{kind}.{name}": tensor
        for kind, entry in files.items()
        for name, tensor in safetensors.torch.load_file(checkpoint / entry["file"]).items()
    }


def is_same_machine() -> bool:
    """Return whether expected.json was made with this torch and on such a processor."""
    made_by = EXPECTED["made_by"]
    return made_by["torch"] == torch.__version__ and made_by["processor"] == processor()
