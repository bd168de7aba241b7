"""One process at a time trains in a run folder; the lock of a process that died is free."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import SMALL, small_config, train_all
from faults.injection import fail

import charlm
from charlm.cli import main as command_line
from charlm.errors import CheckpointError, CorpusError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.experiment import Evaluated
from charlm.runs.folder import check_new
from charlm.storage.locks import ProcessLock

SETTINGS = [part for setting in (*SMALL, "training.steps=4") for part in ("--set", setting)]
HOLD_LOCK = """
import pathlib, sys, time
from charlm.errors import CheckpointError
from charlm.storage.locks import ProcessLock

lock = ProcessLock(pathlib.Path(sys.argv[1]))
lock.acquire(error_type=CheckpointError, remedy="wait")
print("acquired", flush=True)
time.sleep(600)
"""


def test_a_second_training_in_a_run_folder_is_refused_with_the_process_of_the_first(
    text_file, tmp_path
):
    run, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    experiment = prepare.begin(small_config(text_file), run)
    pattern = rf"run: process {os.getpid()} is at work in this folder; wait"
    with pytest.raises(CheckpointError, match=pattern):
        prepare.resume(run)
    for event in session.run(experiment):
        if isinstance(event, Evaluated):
            lines = metrics.read_text()
            with pytest.raises(CheckpointError, match=pattern):
                prepare.resume(run)
            assert metrics.read_text() == lines
    assert prepare.resume(run).state.step == 12


def test_of_two_trainings_that_begin_in_one_folder_the_second_is_refused(
    text_file, tmp_path, monkeypatch
):
    config = small_config(text_file)
    first = prepare.begin(config, tmp_path / "run")
    # The second training checks the folder before the first one exists, and again with the lock.
    is_checked = iter([False, False, True])
    monkeypatch.setattr(
        prepare, "check_new", lambda folder: check_new(folder) if next(is_checked) else None
    )
    with pytest.raises(CheckpointError, match="is at work in this folder"):
        prepare.begin(config, tmp_path / "run")
    first.lock.release()
    with pytest.raises(CheckpointError, match="not empty; give another --out, or continue the run"):
        prepare.begin(config, tmp_path / "run")


def test_eight_trainings_that_start_in_one_second_train_in_eight_folders(
    text_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-120000")
    (tmp_path / "my.yaml").touch()
    arguments = ["train", str(text_file), "--config", "my.yaml", *SETTINGS]
    processes = [in_a_fork(lambda: command_line.run(arguments)) for _ in range(8)]
    assert [os.waitpid(process, 0)[1] for process in processes] == [0] * 8
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {f"my-20260101-120000{number}" for number in ("", *range(-2, -9, -1))}
    for name in names:
        assert load_checkpoint(tmp_path / "runs" / name / "best").state["step"] == 4, name


def in_a_fork(call: Callable[[], int]) -> int:
    """Call a function in a fork of this process, without its output; return the process id."""
    process = os.fork()
    if process == 0:
        status = 99
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
            status = call()
        finally:
            os._exit(status)
    return process


def test_python_and_tune_take_the_next_number_too(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "20260101-120000")
    (tmp_path / "runs" / "run-20260101-120000").mkdir(parents=True)
    assert charlm.train(small_config(text_file)).folder.name == "run-20260101-120000-2"
    (tmp_path / "runs" / "tune-text-20260101-120000").mkdir()
    options = ["--search", "training.learning_rate=1e-3,1e-2", "--trials", "1"]
    assert command_line.run(["tune", str(text_file), *SETTINGS, *options]) == 0
    assert (tmp_path / "runs" / "tune-text-20260101-120000-2" / "best.yaml").is_file()


def test_a_training_that_cannot_begin_leaves_no_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.txt").write_text("too small")
    with pytest.raises(CorpusError, match="too small"):
        charlm.train(small_config(tmp_path / "small.txt"))
    assert not list(tmp_path.glob("runs/*"))


def test_where_no_folder_can_be_created_out_is_suggested(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(CheckpointError, match=r"runs: cannot create a run folder here.*--out"):
        charlm.train(small_config(text_file))


def test_a_training_that_was_never_run_releases_its_folder(text_file, tmp_path):
    prepare.begin(small_config(text_file), tmp_path / "run")
    assert prepare.resume(tmp_path / "run").state.step == 0


def test_a_failed_resumption_releases_the_folder(tmp_path):
    (tmp_path / "text.txt").write_text("A text that will change. " * 60)
    train_all(small_config(tmp_path / "text.txt"), tmp_path / "run")
    (tmp_path / "text.txt").write_text("A text that has changed. " * 60)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="has changed since"):
            prepare.resume(tmp_path / "run")


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, tmp_path / "lock"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "acquired\n"
        lock = ProcessLock(tmp_path / "lock")
        with pytest.raises(CheckpointError, match=f"process {process.pid} is at work"):
            lock.acquire(error_type=CheckpointError, remedy="wait")
        process.send_signal(signal.SIGKILL)
        process.wait()
        lock.acquire(error_type=CheckpointError, remedy="wait")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_lock_does_not_follow_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match="lock: cannot write the lock file"):
        ProcessLock(tmp_path / "lock").acquire(error_type=CheckpointError, remedy="remove it")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_training_runs_on_a_file_system_without_locks(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda handle, operation: fail(errno.ENOLCK)())
    assert train_all(small_config(text_file), tmp_path / "run").state.step == 12
