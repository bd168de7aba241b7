"""TensorBoard reads what metrics.jsonl contains, and tracking does not change a training."""

import math
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, small_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tensorboard.summary.writer.record_writer import RecordWriter
from trainings import metrics_of

import charlm
from charlm import tracking
from charlm.cli.main import run as command
from charlm.errors import CharlmError, CheckpointError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Experiment
from charlm.sampling import during_training
from charlm.sampling.during_training import sampled
from charlm.tracking import scalars, tracked
from charlm.training import process_group
from charlm.training.loss import Score

SAMPLE = "sample/text_summary"
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


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch):
    """Give event files of the same second names in the order in which they are made."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(1000))


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers of metrics.jsonl in single precision, with their steps, by name."""
    numbers: dict[str, list[tuple[int, float]]] = {}
    for line in metrics_of(run):
        for name, value in line.items():
            inner = value if isinstance(value, dict) else {"": value}
            for key, number in inner.items():
                if type(number) in (int, float):
                    tag = f"{name}/{key}" if key else name
                    numbers.setdefault(tag, []).append((line["step"], float(np.float32(number))))
    return numbers


def reader(run: Path) -> EventAccumulator:
    guidance = {"scalars": 0, "tensors": 0}  # Keep all events.
    return EventAccumulator(str(run / "tensorboard"), size_guidance=guidance).Reload()


def shown(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers that TensorBoard reads, with their steps, by name."""
    events = reader(run)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def samples_of(run: Path) -> dict[int, str]:
    """Return the samples that TensorBoard reads, by step."""
    events = reader(run)
    if SAMPLE not in events.Tags()["tensors"]:
        return {}
    assert events.SummaryMetadata(SAMPLE).plugin_data.plugin_name == "text"
    return {
        event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors(SAMPLE)
    }


def train(experiment: Experiment, *, stop_at: int = 10**9, track: bool = True) -> None:
    events = session.run(experiment, stop=lambda: experiment.state.step >= stop_at)
    events = sampled(experiment, events)
    for _ in tracked(experiment, events) if track else events:
        pass


def train_poisoned(experiment: Experiment, step: int) -> None:
    """Train with tracking; after a step, a weight is not finite the first time."""
    for _ in tracked(experiment, sampled(experiment, session.run(experiment))):
        if experiment.state.step == step and not experiment.state.halvings:
            with torch.no_grad():
                experiment.model.projection.bias[0] = math.nan


def test_tensorboard_reads_every_metric_and_a_sample_of_each_evaluation(
    text_file, records_file, tmp_path
):
    for name, text, overrides in (
        ("stream", text_file, []),
        ("records", records_file, ["corpus.mode=records", "model.direction=backward"]),
    ):
        run = tmp_path / name
        charlm.train(small_config(text, *overrides), out=run, track="tensorboard")
        assert [step for step, _ in expected(run)["loss_nats"]] == [6, 12]
        assert shown(run) == expected(run), name
        assert list(samples_of(run)) == [6, 12], name
        assert len(set(samples_of(run).values())) == 2, name


def test_the_sample_is_that_of_the_scored_model(
    text_file, tmp_path, lengths_of_samples, monkeypatch
):
    monkeypatch.setattr(during_training, "_LENGTH", lengths_of_samples)
    config = small_config(text_file, *DROPOUT)
    trained = charlm.train(config, out=tmp_path / "run", track="tensorboard")
    assert trained.state["step"] == 12
    (sample,) = trained.sample(length=400, seed=1, temperature=0.8)
    text = samples_of(tmp_path / "run")[12]
    assert all(line.startswith("    ") for line in text.split("\n"))  # Markdown keeps it as it is.
    assert re.sub("^    ", "", text, flags=re.MULTILINE) == sample.text


def test_a_model_of_both_directions_is_tracked_without_samples(text_file, tmp_path):
    config = small_config(text_file, "model.direction=both")
    charlm.train(config, out=tmp_path / "run", track="tensorboard")
    assert shown(tmp_path / "run") == expected(tmp_path / "run")
    assert samples_of(tmp_path / "run") == {}


def test_a_tracked_training_equals_an_untracked_one(text_file, tmp_path):
    for name, track in (("untracked", False), ("tracked", True)):
        train(
            prepare.begin(small_config(text_file, *DROPOUT), tmp_path / name),
            stop_at=7,
            track=track,
        )
        train(prepare.resume(tmp_path / name), track=track)
    tensors, others = (
        load_checkpoint(tmp_path / name / "last").tensors for name in ("untracked", "tracked")
    )
    for file, group in tensors.items():
        for key, tensor in group.items():
            assert torch.equal(tensor, others[file][key]), f"{file}: {key}"
    for line, other in zip(
        metrics_of(tmp_path / "untracked"), metrics_of(tmp_path / "tracked"), strict=True
    ):
        for clock in ("seconds", "evaluation_seconds"):
            del line[clock], other[clock]
        assert line == other
    assert shown(tmp_path / "tracked") == expected(tmp_path / "tracked")


def test_steps_undone_by_a_crash_are_not_shown(text_file, tmp_path):
    run = tmp_path / "run"
    train(prepare.begin(small_config(text_file, "training.evaluations=4"), run), stop_at=7)
    shutil.copytree(run / "last", tmp_path / "copy")
    train(prepare.resume(run))
    samples = samples_of(run)
    shutil.rmtree(run / "last")
    shutil.copytree(tmp_path / "copy", run / "last")
    train(prepare.resume(run, budget={"steps": 16}))
    assert [step for step, _ in shown(run)["loss_nats"]] == [3, 6, 8, 12, 16]
    assert shown(run) == expected(run)
    for step in (3, 6):
        assert samples_of(run)[step] == samples[step]


def test_steps_trained_without_tracking_are_added_when_it_is_resumed_with_tracking(
    text_file, tmp_path
):
    run = tmp_path / "run"
    train(
        prepare.begin(small_config(text_file, "training.evaluations=6"), run),
        stop_at=3,
        track=False,
    )
    for stop_at, track in ((5, True), (9, False), (11, True), (13, True)):
        train(prepare.resume(run), stop_at=stop_at, track=track)
        if track:
            assert shown(run) == expected(run), stop_at
    assert [step for step, _ in shown(run)["loss_nats"]] == [2, 4, 6, 8, 10, 12]
    assert list(samples_of(run)) == [4, 10, 12]


def test_numbers_lost_from_an_event_file_in_a_crash_are_added_when_it_is_resumed(
    text_file, tmp_path
):
    train(
        prepare.begin(small_config(text_file, "training.evaluations=4"), tmp_path / "run"),
        stop_at=7,
    )
    for lost_bytes in (1, 200, 700, 1500):
        run = tmp_path / str(lost_bytes)
        shutil.copytree(tmp_path / "run", run)
        (path,) = (run / "tensorboard").iterdir()
        assert path.stat().st_size > lost_bytes
        path.write_bytes(path.read_bytes()[:-lost_bytes])
        train(prepare.resume(run))
        assert shown(run) == expected(run), lost_bytes


def test_a_halving_is_shown_and_the_evaluations_that_it_undoes_are_not(
    text_file, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    train_poisoned(prepare.begin(small_config(text_file, *HALVE), run), 14)
    assert shown(run)["halvings"] == [(12, 1.0)]
    assert shown(run) == expected(run)
    train(prepare.resume(run, budget={"steps": 30}))
    assert shown(run) == expected(run)
    losses = {6: 1.0, 12: 9.0, 18: 1.0, 24: 1.0}  # Step 12 is worse than guessing.
    monkeypatch.setattr(
        session,
        "validate",
        lambda experiment, **options: Score(losses[experiment.state.step] * 10, 10, 0),
    )
    run = tmp_path / "undone"
    train_poisoned(prepare.begin(small_config(text_file, *HALVE), run), 15)
    assert shown(run)["halvings"] == [(6, 1.0)]
    assert [step for step, _ in shown(run)["loss_nats"]] == [6, 12, 18, 24]
    assert shown(run) == expected(run)


def test_a_tracked_run_folder_loads_unless_an_event_file_is_a_link(text_file, tmp_path, capfd):
    run = tmp_path / "run"
    charlm.train(small_config(text_file), out=run, track="tensorboard")
    assert charlm.load(run).sample(length=3)
    assert command(["inspect", str(run)]) == 0
    link = run / "tensorboard" / "events.out.tfevents.9000000000.x"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=re.escape(f"{link}: is a link")):
        prepare.resume(run)


def test_a_damaged_event_file_is_refused_with_a_remedy(text_file, tmp_path):
    run = tmp_path / "run"
    train(prepare.begin(small_config(text_file), run), stop_at=7)
    (path,) = (run / "tensorboard").iterdir()
    with path.open("ab") as file:
        RecordWriter(file).write(b"\xff" * 9)
    pattern = rf"{re.escape(str(path))}: damaged, .*; remove .*tensorboard, and"
    with pytest.raises(CheckpointError, match=pattern):
        train(prepare.resume(run))
    shutil.rmtree(run / "tensorboard")
    train(prepare.resume(run))
    assert shown(run) == expected(run)


def test_values_of_an_untrusted_line_that_no_event_can_hold_are_left_out():
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


# TensorBoard writes from a thread, whose traceback is printed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_event_files_that_cannot_be_written_end_the_training_with_one_line(
    text_file, tmp_path, monkeypatch
):
    pattern = r"run/tensorboard: cannot be written: [\w ]+; .*continue with --resume$"
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    (tmp_path / "run" / "tensorboard").write_text("a file instead of a folder")
    with pytest.raises(CheckpointError, match=pattern):
        train(experiment)
    experiment.lock.release()
    (tmp_path / "run" / "tensorboard").unlink()
    write, writes = RecordWriter.write, iter(range(10**9))

    def fail_at_the_tenth(self, data):
        if next(writes) == 9:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", fail_at_the_tenth)
    experiment = prepare.resume(tmp_path / "run")
    with pytest.raises(CheckpointError, match=pattern):
        train(experiment)


def test_a_missing_extra_is_reported_before_a_folder_is_made(
    text_file, tmp_path, monkeypatch, capfd
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(CharlmError, match=r"^TensorBoard .*; pip install 'charlm-rnn\[track\]'$"):
        charlm.train(small_config(text_file), out=tmp_path / "run", track="tensorboard")
    arguments = ["train", str(text_file), "--out", str(tmp_path / "run")]
    assert command([*arguments, "--track", "tensorboard"]) == 1
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "pip install 'charlm-rnn[track]'" in err
    assert not (tmp_path / "run").exists()


def train_arguments(text: Path, run: Path, *more: str) -> list[str]:
    overrides = [*SMALL, "training.steps=12"]
    settings = [part for override in overrides for part in ("--set", override)]
    return ["train", str(text), "--config", "quickstart", *settings, "--out", str(run), *more]


def test_the_command_tracks_a_training_if_asked_to_and_continues_tracking_it(
    text_file, tmp_path, capfd
):
    run = tmp_path / "run"
    assert command(train_arguments(text_file, run)) == 0
    assert not (run / "tensorboard").exists()
    shutil.rmtree(run)
    assert command(train_arguments(text_file, run, "--track", "tensorboard")) == 0
    assert shown(run) == expected(run)
    resume = ["train", "--resume", str(run), "--steps", "20", "--track", "tensorboard"]
    assert command(resume) == 0
    assert len(shown(run)["loss_nats"]) == len(samples_of(run)) > 2
    assert shown(run) == expected(run)


def test_after_an_error_of_tracking_the_run_folder_is_free_at_once(
    text_file, tmp_path, monkeypatch
):
    def fail(folder):
        raise CheckpointError("cannot be written")

    monkeypatch.setattr(tracking, "_open_writer", fail)
    with pytest.raises(CheckpointError, match="cannot be written") as error:
        charlm.train(small_config(text_file), out=tmp_path / "run", track="tensorboard")
    assert prepare.resume(tmp_path / "run").state.step == 0, error


def test_processes_that_are_launched_get_the_option_to_track(text_file, tmp_path, monkeypatch):
    launched = []
    monkeypatch.setattr(
        process_group,
        "launch",
        lambda processes, arguments, *, signals: launched.append(arguments) or 0,
    )
    run = tmp_path / "run"
    options = ["--processes", "2", "--track", "tensorboard"]
    # Nothing has been trained, as if a process had been asked to stop.
    assert command(train_arguments(text_file, run, *options)) == 128 + signal.SIGTERM
    assert launched == [["train", "--resume", str(run), "--track", "tensorboard"]]
