"""TensorBoard's own reader finds what metrics.jsonl tells, however the training went, and training does not notice."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, small_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

import charlm
from charlm.cli.main import run as command
from charlm.errors import CharlmError, CheckpointError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Experiment
from charlm.tracking import scalars, tracked
from charlm.training import process_group as group

DOCS = Path(__file__).parents[1] / "docs"
HALVE = [
    "training.on_divergence=halve",
    "training.steps=24",
    "training.evaluations=4",
    "training.learning_rate=1.0e-2",
]
DROPOUT = [
    "model.dropout=0.3",
    "model.num_layers=2",
    "training.averaging=exponential",
    "training.average_steps=3",
]


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def told(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What metrics.jsonl tells: by name, each step and number, as single precision has it."""
    numbers: dict[str, list[tuple[int, float]]] = {}
    for line in lines_of(folder):
        for name, value in line.items():
            inner = (
                {f"{name}/{key}": each for key, each in value.items()}
                if isinstance(value, dict)
                else {name: value}
            )
            for tag, each in inner.items():
                if type(each) in (int, float):
                    numbers.setdefault(tag, []).append((line["step"], float(np.float32(each))))
    return numbers


def reader(folder: Path) -> EventAccumulator:
    return EventAccumulator(
        str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}
    ).Reload()


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard finds."""
    found = reader(folder)
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def samples_of(folder: Path) -> dict[int, str]:
    found = reader(folder)
    if "sample" not in found.Tags()["tensors"]:
        return {}
    events = found.Tensors("sample")
    assert found.SummaryMetadata("sample").plugin_data.plugin_name == "text"
    return {event.step: event.tensor_proto.string_val[0].decode() for event in events}


def train(experiment: Experiment, *, stop_at: int = 10**9, track: bool = True) -> None:
    events = session.run(experiment, stop=lambda: experiment.state.step >= stop_at)
    for _ in tracked(experiment, events) if track else events:
        pass


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for each in ("weights", "training")
        for name, tensor in load_checkpoint(folder / "last").tensors[each].items()
    }


def assert_same(one: Path, other: Path) -> None:
    """All but the seconds, which no two trainings share."""
    clocks = ("seconds", "evaluation_seconds")
    for line, expected in zip(lines_of(one), lines_of(other), strict=True):
        assert {k: v for k, v in line.items() if k not in clocks} == {
            k: v for k, v in expected.items() if k not in clocks
        }
    assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(one).items())


@pytest.mark.parametrize("overrides", [[], ["corpus.mode=records", "model.direction=backward"]])
def test_tensorboard_s_own_reader_finds_every_metric_and_a_sample_of_each_evaluation(
    overrides, text_file, records_file, tmp_path
):
    text = records_file if overrides else text_file
    charlm.train(small_config(text, *overrides), out=tmp_path / "run", track="tensorboard")
    assert len(told(tmp_path / "run")["loss_nats"]) == 2
    assert shown(tmp_path / "run") == told(tmp_path / "run")
    samples = samples_of(tmp_path / "run")
    assert list(samples) == [step for step, _ in told(tmp_path / "run")["loss_nats"]]
    assert len(set(samples.values())) == 2


def test_the_sample_is_what_the_scored_model_writes(text_file, tmp_path):
    run_of_two = charlm.train(
        small_config(text_file, *DROPOUT), out=tmp_path / "run", track="tensorboard"
    )
    (written,) = run_of_two.sample(length=400, seed=1, temperature=0.8)
    assert run_of_two.state["step"] == 12
    text = samples_of(tmp_path / "run")[12]
    assert all(line.startswith("    ") for line in text.split("\n"))  # Markdown shows it as it is.
    assert re.sub("^    ", "", text, flags=re.MULTILINE) == written.text


def test_a_model_that_reads_both_ways_is_tracked_without_a_sample(text_file, tmp_path):
    config = small_config(text_file, "model.direction=both")
    charlm.train(config, out=tmp_path / "run", track="tensorboard")
    assert shown(tmp_path / "run") == told(tmp_path / "run")
    assert samples_of(tmp_path / "run") == {}


def test_a_tracked_training_equals_one_that_is_not_to_the_bit(text_file, tmp_path):
    for name, track in (("plain", False), ("tracked", True)):
        for stop_at in (7, 10**9):
            begun = (tmp_path / name).exists()
            config = small_config(text_file, *DROPOUT)
            train(
                prepare.resume(tmp_path / name)
                if begun
                else prepare.begin(config, tmp_path / name),
                stop_at=stop_at,
                track=track,
            )
    assert_same(tmp_path / "tracked", tmp_path / "plain")
    assert shown(tmp_path / "tracked") == told(tmp_path / "tracked")


def test_steps_that_a_crash_has_undone_are_not_shown(text_file, tmp_path):
    folder = tmp_path / "run"
    train(prepare.begin(small_config(text_file, "training.evaluations=4"), folder), stop_at=7)
    shutil.copytree(folder / "last", tmp_path / "kept")
    train(prepare.resume(folder))
    undone = samples_of(folder)
    shutil.rmtree(folder / "last")
    shutil.copytree(tmp_path / "kept", folder / "last")
    train(prepare.resume(folder, budget={"steps": 16}))
    assert [step for step, _ in shown(folder)["loss_nats"]] == [3, 6, 8, 12, 16]
    assert shown(folder) == told(folder)
    assert {step: text for step, text in undone.items() if step <= 6}.items() <= samples_of(
        folder
    ).items()


def test_what_was_trained_without_tracking_is_shown_once_it_is_tracked(text_file, tmp_path):
    folder = tmp_path / "run"
    config = small_config(text_file, "training.evaluations=6")
    for stop_at, track in ((3, False), (5, True), (9, False), (11, True), (13, True)):
        train(
            prepare.resume(folder) if folder.exists() else prepare.begin(config, folder),
            stop_at=stop_at,
            track=track,
        )
        if track:
            assert shown(folder) == told(folder)
    assert [step for step, _ in shown(folder)["loss_nats"]] == [2, 4, 6, 8, 10, 12]
    assert list(samples_of(folder)) == [4, 10, 12]


@pytest.mark.parametrize("lost_bytes", [1, 200, 1500])
def test_a_line_that_a_crash_has_cut_short_is_shown_after_resuming(lost_bytes, text_file, tmp_path):
    folder = tmp_path / "run"
    train(prepare.begin(small_config(text_file, "training.evaluations=4"), folder), stop_at=7)
    (path,) = (folder / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    train(prepare.resume(folder))
    assert shown(folder) == told(folder)


def test_a_divergence_that_is_gone_back_from_is_shown(text_file, tmp_path):
    folder = tmp_path / "run"
    experiment = prepare.begin(small_config(text_file, *HALVE), folder)
    for _ in tracked(experiment, session.run(experiment)):
        if experiment.state.step == 14 and not experiment.state.halvings:
            with torch.no_grad():
                experiment.model.projection.bias[0] = math.nan
    assert shown(folder)["halvings"] == [(12, 1.0)]
    assert shown(folder) == told(folder)
    train(prepare.resume(folder, budget={"steps": 30}))
    assert shown(folder) == told(folder)


def test_a_clock_that_goes_back_hides_nothing(text_file, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    for stop_at, clock in ((7, 2e9), (10**9, 1e9)):
        monkeypatch.setattr("charlm.tracking.time.time", lambda clock=clock: clock)
        train(
            prepare.resume(folder)
            if folder.exists()
            else prepare.begin(small_config(text_file), folder),
            stop_at=stop_at,
        )
    assert shown(folder) == told(folder)


def test_a_tracked_run_folder_loads_and_is_inspected(text_file, tmp_path, capfd):
    charlm.train(small_config(text_file), out=tmp_path / "run", track="tensorboard")
    assert charlm.load(tmp_path / "run").sample(length=3)
    assert command(["inspect", str(tmp_path / "run")]) == 0


def test_a_link_among_the_event_files_is_refused(text_file, tmp_path):
    charlm.train(small_config(text_file), out=tmp_path / "run", track="tensorboard")
    link = tmp_path / "run" / "tensorboard" / "events.out.tfevents.9000000000.x"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=re.escape(f"{link}: is a link")):
        prepare.resume(tmp_path / "run")


def test_an_event_file_that_holds_no_event_is_told_with_the_way_out(text_file, tmp_path):
    folder = tmp_path / "run"
    train(prepare.begin(small_config(text_file), folder), stop_at=7)
    (path,) = (folder / "tensorboard").iterdir()
    with path.open("ab") as file:
        RecordWriter(file).write(b"\xff" * 9)
    with pytest.raises(
        CheckpointError, match=r"tfevents.*: damaged: .*; remove .*tensorboard, and"
    ):
        train(prepare.resume(folder))
    shutil.rmtree(folder / "tensorboard")
    train(prepare.resume(folder))
    assert shown(folder) == told(folder)


def test_numbers_of_a_stranger_s_line_that_no_event_can_hold_are_left_out():
    line = {
        "step": 1,
        "huge": 10**400,
        "\ud800": 1.0,
        "flag": True,
        "none": None,
        "text": "1",
        "deep": {"a": {"b": 1}},
    }
    assert scalars(line) == {"step": 1.0}


def test_what_stands_in_the_way_of_the_event_files_is_one_line(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    with pytest.raises(
        CheckpointError, match=r"run/tensorboard: cannot be written: .*; free the disk"
    ):
        train(experiment)


def test_a_missing_extra_is_told_before_anything_is_made(text_file, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    pattern = r"^TensorBoard is not installed; pip install 'charlm\[track\]'$"
    with pytest.raises(CharlmError, match=pattern):
        charlm.train(small_config(text_file), out=tmp_path / "run", track="tensorboard")
    assert (
        command(["train", str(text_file), "--out", str(tmp_path / "run"), "--track", "tensorboard"])
        == 1
    )
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "pip install 'charlm[track]'" in err
    assert not (tmp_path / "run").exists()


def arguments(text: Path, folder: Path, *more: str) -> list[str]:
    settings = [part for override in [*SMALL, "training.steps=12"] for part in ("--set", override)]
    return ["train", str(text), "--config", "quickstart", *settings, "--out", str(folder), *more]


def test_the_command_tracks_a_training_and_goes_on_with_it(text_file, tmp_path, capfd):
    folder = tmp_path / "run"
    assert command(arguments(text_file, folder, "--track", "tensorboard")) == 0
    assert shown(folder) == told(folder)
    assert (
        command(["train", "--resume", str(folder), "--steps", "20", "--track", "tensorboard"]) == 0
    )
    assert len(shown(folder)["loss_nats"]) == len(samples_of(folder)) > 2
    assert shown(folder) == told(folder)


def test_without_track_nothing_is_written_for_tensorboard(text_file, tmp_path, capfd):
    assert command(arguments(text_file, tmp_path / "run")) == 0
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_processes_are_told_to_track(text_file, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(group, "launch", lambda processes, given: started.append(given))
    assert (
        command(
            arguments(text_file, tmp_path / "run", "--processes", "2", "--track", "tensorboard")
        )
        == 0
    )
    assert started == [["train", "--resume", str(tmp_path / "run"), "--track", "tensorboard"]]


def test_every_metric_that_a_run_writes_is_in_the_documentation(text_file, tmp_path):
    experiment = prepare.begin(
        small_config(text_file, *HALVE, "training.clipvalue=1"), tmp_path / "run"
    )
    for _ in session.run(experiment):
        if experiment.state.step == 14 and not experiment.state.halvings:
            with torch.no_grad():
                experiment.model.projection.bias[0] = math.nan
    fields = {
        name if not isinstance(value, dict) else f"{name}/GROUP"
        for line in lines_of(tmp_path / "run")
        for name, value in line.items()
    }
    page = (DOCS / "train.md").read_text(encoding="utf-8")
    page = page.split("### metrics.jsonl")[1]
    names = re.findall(r"^\| `([\w/]+)` \|", page, flags=re.MULTILINE)
    assert sorted([*fields, "sample"]) == sorted(names)
    groups = set(re.findall(r"`(\w+)`", page.split("| `gradient_norms/GROUP` |")[1].split("\n")[0]))
    assert set(lines_of(tmp_path / "run")[0]["gradient_norms"]) <= groups
