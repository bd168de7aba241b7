"""One process at a time trains in a run folder; the kernel lets go of it for one that has died."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from conftest import small_config, train_all
from faults.injection import fail

from charlm.errors import CheckpointError
from charlm.runs import prepare, session
from charlm.runs.experiment import Evaluated
from charlm.runs.folder import check_new
from charlm.storage.locks import ProcessLock

HOLD = (
    "import sys, time, pathlib; from charlm.errors import CheckpointError; from charlm.storage.locks import ProcessLock\n"
    "lock = ProcessLock(pathlib.Path(sys.argv[1]))\n"
    "lock.acquire(error_type=CheckpointError, remedy='wait'); print('held', flush=True); time.sleep(600)"
)


def test_a_second_training_in_a_run_folder_is_refused_with_the_process_that_holds_it(
    text_file, tmp_path
):
    config = small_config(text_file)
    experiment = prepare.begin(config, tmp_path / "run")
    refused = rf"run: process {os.getpid()} is at work in this folder; wait"
    with pytest.raises(CheckpointError, match=refused):
        prepare.resume(tmp_path / "run")
    for event in session.run(experiment):
        if isinstance(event, Evaluated):
            lines = (tmp_path / "run" / "metrics.jsonl").read_text()
            with pytest.raises(CheckpointError, match=refused):
                prepare.resume(tmp_path / "run")
            assert (tmp_path / "run" / "metrics.jsonl").read_text() == lines
    assert prepare.resume(tmp_path / "run").state.step == 12


def test_two_trainings_that_begin_in_one_folder_are_one(text_file, tmp_path, monkeypatch):
    config, check = small_config(text_file), check_new
    first = prepare.begin(config, tmp_path / "run")
    looks = iter(
        [False, False, True]
    )  # The second looks before the first is there, and again where it is its turn.
    monkeypatch.setattr(prepare, "check_new", lambda folder: check(folder) if next(looks) else None)
    with pytest.raises(CheckpointError, match="is at work in this folder"):
        prepare.begin(config, tmp_path / "run")
    first.lock.release()
    with pytest.raises(CheckpointError, match="not empty; give another --out, or continue the run"):
        prepare.begin(config, tmp_path / "run")


def test_a_training_that_is_not_run_lets_go_of_its_folder(text_file, tmp_path):
    prepare.begin(small_config(text_file), tmp_path / "run")
    assert prepare.resume(tmp_path / "run").state.step == 0


def test_a_resumption_that_fails_lets_go_of_the_folder(tmp_path):
    (tmp_path / "text.txt").write_text("A text that will change. " * 60)
    train_all(small_config(tmp_path / "text.txt"), tmp_path / "run")
    (tmp_path / "text.txt").write_text("A text that has changed. " * 60)
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"has changed since.*restore the text, or begin a new run"
        ):
            prepare.resume(tmp_path / "run")


def test_a_lock_is_free_as_soon_as_its_process_is_killed(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
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


def test_a_file_system_without_locks_is_trained_on_all_the_same(text_file, tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda handle, how: fail(errno.ENOLCK)())
    assert train_all(small_config(text_file), tmp_path / "run").state.step == 12
