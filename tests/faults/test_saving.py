"""Faults at each call of a save: one checkpoint is always complete, and the fault is reported."""

import errno
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import small_config, train_all
from faults.injection import Died, at_call, die, fail, hooked
from reading import opened
from trainings import finish

from charlm.data.cards import cache_folder
from charlm.errors import CharlmError, CheckpointError, CorpusError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint, save_checkpoint
from charlm.runs.experiment import Prepared
from charlm.runs.files import BEGIN_AGAIN, LOCK
from charlm.runs.metrics import append_metrics, truncate_metrics
from charlm.storage.atomic import remove_temporary_files

FULL, READ_ONLY, BROKEN = errno.ENOSPC, errno.EROFS, errno.EIO


def save(run: Path, step: int) -> None:
    """Save best and last, with the same weights, as after an evaluation."""
    weights = {"a": torch.full((64,), float(step))}
    save_checkpoint(run / "best", {"step": step}, {"weights": weights})
    append_metrics(run, {"step": step})
    tensors = {"weights": weights, "training": {"b": torch.ones(9)}}
    save_checkpoint(run / "last", {"step": step}, tensors)


def saved_steps(run: Path) -> list[int]:
    """Return the steps of best and last, which must be complete."""
    checkpoints = [load_checkpoint(run / name) for name in ("best", "last")]
    for checkpoint in checkpoints:
        expected = torch.full((64,), float(checkpoint.state["step"]))
        assert torch.equal(checkpoint.weights["a"], expected)
    return [checkpoint.state["step"] for checkpoint in checkpoints]


def assert_next_save_is_clean(run: Path) -> None:
    """Save again: both checkpoints have only their own files."""
    save(run, 3)
    assert saved_steps(run) == [3, 3]
    assert len(list((run / "last").iterdir())) == 3
    assert len(list((run / "best").iterdir())) == 2


def calls_of_a_save(run: Path) -> list[str]:
    save(run, 0)
    with hooked() as calls:
        save(run, 1)
    shutil.rmtree(run)
    return calls


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_process_that_dies_at_any_call_of_a_save_leaves_complete_checkpoints(tmp_path):
    calls, steps = calls_of_a_save(tmp_path / "first"), []
    assert {"open", "write", "fsync", "chmod", "replace", "link", "unlink"} <= set(calls)
    for number in range(1, len(calls) + 1):
        run = tmp_path / str(number)
        save(run, 1)
        with hooked(at_call(number, die, repeat=True)), pytest.raises(Died):
            save(run, 2)
        steps.append(saved_steps(run))
        truncate_metrics(run, after_step=1, halvings=0)
        assert_next_save_is_clean(run)
    assert steps == sorted(steps) and steps[0] == [1, 1] and steps[-1] == [2, 2]
    assert [2, 1] in steps  # Never [1, 2]: a best model that is lost comes again from the last.


def test_a_fault_at_any_call_of_a_save_is_reported_and_leaves_complete_checkpoints(tmp_path):
    for name, act, repeat in (
        ("full for one call", fail(FULL), False),
        ("full from then on", fail(FULL), True),
        ("Ctrl-C", interrupt, False),
    ):
        for number in range(1, len(calls_of_a_save(tmp_path / "first")) + 1):
            run = tmp_path / f"{name} {number}"
            save(run, 1)
            try:
                with hooked(at_call(number, act, repeat=repeat)):
                    save(run, 2)
            except CheckpointError as error:
                assert "\n" not in str(error), run.name
                assert "the previous checkpoint is complete" in str(error), run.name
            except KeyboardInterrupt:
                assert act is interrupt
            assert saved_steps(run) in ([1, 1], [2, 1], [2, 2]), run.name
            assert_next_save_is_clean(run)


def test_a_file_that_another_checkpoint_has_is_linked_instead_of_written(tmp_path):
    calls = calls_of_a_save(tmp_path / "run")
    assert calls.count("link") == 1
    # The weights, two state.json and the line of metrics; nothing else is new.
    assert calls.count("write") == 1 + 2 + 1


def test_weights_are_written_on_a_file_system_without_links(tmp_path):
    def refuse_links(call: str, argument: object) -> None:
        if call == "link":
            fail(errno.EPERM)()

    save(tmp_path, 1)
    with hooked(refuse_links):
        save(tmp_path, 2)
    assert saved_steps(tmp_path) == [2, 2]


def test_a_damaged_file_of_another_checkpoint_is_not_linked(tmp_path):
    save(tmp_path, 1)
    (weights,) = (tmp_path / "best").glob("weights-*")
    weights.write_bytes(weights.read_bytes()[:-1])
    save(tmp_path, 1)
    assert saved_steps(tmp_path) == [1, 1]


def test_a_training_whose_disk_became_full_resumes_as_if_it_had_never_stopped(text_file, tmp_path):
    train_all(small_config(text_file), tmp_path / "whole")
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    pattern = r"No space left on device; .*continue with --resume"
    with (
        hooked(at_call(40, fail(FULL), repeat=True)),
        pytest.raises(CheckpointError, match=pattern),
    ):
        finish(experiment)
    finish(prepare.resume(tmp_path / "run"))
    whole, run = (
        load_checkpoint(tmp_path / name / "last").state["files"] for name in ("whole", "run")
    )
    assert whole == run


def test_a_full_file_system_is_reported(text_file, tmp_path):
    """Use a real file system, if this process may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "charlm", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    pattern = r"No space left on device; the previous checkpoint is complete"
    try:
        with pytest.raises(CheckpointError, match=pattern):
            train_all(small_config(text_file), tmp_path / "run")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_cache_that_cannot_be_written_is_reported_before_a_folder_is_made(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("A text that is not in the cache yet. " * 60)
    config = small_config(tmp_path / "text.txt")
    for number, code in ((2, FULL), (3, FULL), (4, BROKEN), (1, READ_ONLY)):
        run = tmp_path / f"run {number}"
        monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / f"cache {number}"))
        cache_folder().mkdir(parents=True)
        with (
            hooked(at_call(number, fail(code))),
            pytest.raises(CorpusError, match=r"cannot be written.*CHARLM_CACHE"),
        ):
            prepare.begin(config, run)
        assert not run.exists(), number
    train_all(config, run)


def test_a_run_folder_that_cannot_be_made_is_reported_in_one_line(text_file, tmp_path):
    config = small_config(text_file)
    prepare.begin(config, tmp_path / "first").lock.release()  # The text is in the cache now.
    with hooked() as calls:
        prepare.begin(config, tmp_path / "second")
    for number in range(1, len(calls) + 1, 4):
        with hooked(at_call(number, fail(READ_ONLY), repeat=True)):
            try:
                prepare.begin(config, tmp_path / str(number))
            except CharlmError as error:
                assert "Read-only file system" in str(error) and "\n" not in str(error)
                assert "--resume" not in str(error)
            else:
                assert number > len(calls) - 5  # config.yaml was already written.


def test_a_run_that_could_not_be_begun_can_be_begun_again(text_file, tmp_path):
    config = small_config(text_file)
    with hooked() as calls:
        prepare.begin(config, tmp_path / "first")
    for number in range(5, len(calls) - 2, 6):
        run = tmp_path / str(number)
        with hooked(at_call(number, fail(FULL))):
            try:
                prepare.begin(config, run).lock.release()
            except CheckpointError as error:
                remedy = "free the disk" if LOCK in str(error) else BEGIN_AGAIN
                assert f"No space left on device; {remedy}" in str(error), number
                prepare.begin(config, run)


def test_a_run_that_ctrl_c_interrupts_while_it_is_begun_can_be_begun_again(
    text_file, tmp_path, monkeypatch
):
    config = small_config(text_file)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare, "write_run_files", lambda *_: interrupt())
        prepare.begin(config, tmp_path / "run")
    prepare.begin(config, tmp_path / "run")


def test_a_file_that_the_disk_cannot_read_is_reported_in_one_line(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for name in ("state.json", "weights-", "training-"):

        def break_file(call: str, handle: object, name=name) -> None:
            is_open = call == "fdopen"
            if is_open and Path(f"/proc/self/fd/{handle}").readlink().name.startswith(name):
                fail(BROKEN)()

        pattern = rf"^{run}/last/{name}[^\n]*: cannot be read: Input/output error; [^\n]*$"
        with hooked(break_file), pytest.raises(CheckpointError, match=pattern):
            prepare.resume(run)


def test_a_text_that_the_disk_cannot_read_is_reported_in_one_line(tmp_path, monkeypatch):
    path, open_path = tmp_path / "text.txt", Path.open
    path.write_text("A text on a disk that fails. " * 60)
    train_all(small_config(path), tmp_path / "run")

    class BrokenFile(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(BROKEN, os.strerror(BROKEN))

    def open_broken(requested, *arguments, **options):
        return BrokenFile() if requested == path else open_path(requested, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_broken)
        with pytest.raises(CorpusError, match=r"text.txt: .*Input/output error"):
            prepare.resume(tmp_path / "run")
    text = opened(small_config(path).corpus).parts["train"]
    path.unlink()
    pattern = r"text.txt: cannot be read: No such file or directory; restore the file"
    with pytest.raises(CorpusError, match=pattern):
        next(text.blocks())


def test_a_run_folder_that_disappears_is_reported_and_not_made_again(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with pytest.raises(CheckpointError, match="is not a run folder any more"):
        for event in session.run(experiment):
            if isinstance(event, Prepared):
                shutil.rmtree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_removes_the_files_of_an_interrupted_save_and_no_others(trained, tmp_path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    for name in (".metrics.jsonl.abcd1234", ".config.yaml.x_y_z123", ".notes"):
        (run / name).touch()
    prepare.resume(run).lock.release()
    assert {path.name for path in run.glob(".*")} == {LOCK, ".notes"}
    remove_temporary_files(tmp_path / "missing folder")
