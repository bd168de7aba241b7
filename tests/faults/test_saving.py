"""Faults between any two calls of a save: some checkpoint is whole at any instant, and what went wrong is told."""

import errno
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import small_config, train_all
from faults.injection import Died, at_call, die, fail, watched
from reading import opened

from charlm.data.cards import cache_folder
from charlm.errors import CharlmError, CheckpointError, CorpusError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint, save_checkpoint
from charlm.runs.experiment import Prepared
from charlm.runs.files import BEGIN_AGAIN, LOCK
from charlm.runs.metrics import append_metrics, truncate_metrics
from charlm.storage.atomic import remove_temporary_files

FULL, READ_ONLY, BROKEN = errno.ENOSPC, errno.EROFS, errno.EIO


def save(folder: Path, step: int) -> None:
    """Save the best and the last, whose weights are the same, as an evaluation does."""
    weights = {"a": torch.full((64,), float(step))}
    save_checkpoint(folder / "best", {"step": step}, {"weights": weights})
    append_metrics(folder, {"step": step})
    save_checkpoint(
        folder / "last", {"step": step}, {"weights": weights, "training": {"b": torch.ones(9)}}
    )


def steps_saved(folder: Path) -> list[int]:
    """Return the steps of best and last, after making sure that both are whole."""
    loaded = [load_checkpoint(folder / which) for which in ("best", "last")]
    for one in loaded:
        assert torch.equal(one.tensors["weights"]["a"], torch.full((64,), float(one.state["step"])))
    return [one.state["step"] for one in loaded]


def calls_of_a_save(folder: Path) -> list[str]:
    save(folder, 0)
    with watched() as calls:
        save(folder, 1)
    shutil.rmtree(folder)
    return calls


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_process_that_dies_before_any_call_of_a_save_leaves_whole_checkpoints(tmp_path):
    calls, found = calls_of_a_save(tmp_path / "first"), []
    assert {"open", "write", "fsync", "chmod", "replace", "link", "unlink"} <= set(calls)
    for number in range(1, len(calls) + 1):
        folder = tmp_path / str(number)
        save(folder, 1)
        with watched(at_call(number, die, again=True)), pytest.raises(Died):
            save(folder, 2)
        found.append(steps_saved(folder))
        truncate_metrics(folder, after_step=1, halvings=0)
        save(folder, 3)
        assert steps_saved(folder) == [3, 3]
        assert (
            len(list((folder / "last").iterdir())) == 3
            and len(list((folder / "best").iterdir())) == 2
        )
    assert found == sorted(found) and found[0] == [1, 1] and found[-1] == [2, 2]
    assert [
        2,
        1,
    ] in found  # Never the other way round: what is lost of the best comes again from the last.


@pytest.mark.parametrize(
    ("what", "again"),
    [(fail(FULL), False), (fail(FULL), True), (interrupt, False)],
    ids=["full-for-an-instant", "full-from-then-on", "second-ctrl-c"],
)
def test_a_save_that_fails_at_any_call_is_told_in_one_line_and_leaves_whole_checkpoints(
    what, again, tmp_path
):
    for number in range(1, len(calls_of_a_save(tmp_path / "first")) + 1):
        folder = tmp_path / str(number)
        save(folder, 1)
        try:
            with watched(at_call(number, what, again=again)):
                save(folder, 2)
        except CheckpointError as error:
            assert "\n" not in str(error) and "the previous checkpoint is complete" in str(error)
        except KeyboardInterrupt:
            assert what is interrupt
        assert steps_saved(folder) in ([1, 1], [2, 1], [2, 2])
        save(folder, 3)
        assert steps_saved(folder) == [3, 3]
        assert (
            len(list((folder / "last").iterdir())) == 3
            and len(list((folder / "best").iterdir())) == 2
        )


def test_a_file_that_a_checkpoint_beside_holds_is_not_written_again(tmp_path):
    calls = calls_of_a_save(tmp_path / "run")
    assert calls.count("link") == 1
    assert (
        calls.count("write") == 1 + 2 + 1
    )  # The weights, two state.json, the line of metrics; nothing else is new.


def test_weights_are_written_where_the_file_system_has_no_links(tmp_path):
    def no_links(call: str, of: object) -> None:
        if call == "link":
            fail(errno.EPERM)()

    save(tmp_path, 1)
    with watched(no_links):
        save(tmp_path, 2)
    assert steps_saved(tmp_path) == [2, 2]


def test_a_damaged_file_beside_is_not_taken_for_the_weights(tmp_path):
    save(tmp_path, 1)
    (weights,) = (tmp_path / "best").glob("weights-*")
    weights.write_bytes(weights.read_bytes()[:-1])
    save(tmp_path, 1)
    assert steps_saved(tmp_path) == [1, 1]


def test_a_full_disk_while_a_training_saves_is_one_line_and_it_goes_on_from_there(
    text_file, tmp_path
):
    train_all(small_config(text_file), tmp_path / "whole")
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with watched(at_call(40, fail(FULL), again=True)), pytest.raises(CheckpointError) as caught:
        for _ in session.run(experiment):
            pass
    assert "No space left on device" in str(caught.value) and "continue with --resume" in str(
        caught.value
    )
    for _ in session.run(prepare.resume(tmp_path / "run")):
        pass
    ended = [load_checkpoint(tmp_path / name / "last").state["files"] for name in ("whole", "run")]
    assert ended[0] == ended[1]


def test_a_file_system_that_is_full_is_told(text_file, tmp_path):
    """On a real one, where the kernel lets us mount it."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "charlm", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(
            CheckpointError, match=r"No space left on device; the previous checkpoint is complete"
        ):
            train_all(small_config(text_file), tmp_path / "run")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(("number", "code"), [(2, FULL), (3, FULL), (4, BROKEN), (1, READ_ONLY)])
def test_a_cache_that_cannot_be_written_is_told_with_what_to_do(
    number, code, tmp_path, monkeypatch
):
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("A text that nobody has encoded yet. " * 60)
    cache_folder().mkdir(parents=True)
    config = small_config(tmp_path / "text.txt")
    with (
        watched(at_call(number, fail(code))),
        pytest.raises(CorpusError, match=r"cannot be written.*CHARLM_CACHE"),
    ):
        prepare.begin(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train_all(config, tmp_path / "run")


def test_a_run_folder_that_cannot_be_made_is_one_line(text_file, tmp_path):
    config = small_config(text_file)
    prepare.begin(config, tmp_path / "first").lock.release()  # The text is in the cache now.
    with watched() as calls:
        prepare.begin(config, tmp_path / "second")
    for number in range(1, len(calls) + 1, 4):
        with watched(at_call(number, fail(READ_ONLY), again=True)):
            try:
                prepare.begin(config, tmp_path / str(number))
            except CharlmError as error:
                assert "Read-only file system" in str(error) and "\n" not in str(error)
                assert "--resume" not in str(error)
            else:
                assert number > len(calls) - 5  # What comes after config.yaml stood there.


@pytest.mark.parametrize("name", ["state.json", "weights-", "training-"])
def test_a_disk_that_cannot_read_is_one_line(name, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")

    def broken(call: str, handle: object) -> None:
        if call == "fdopen" and Path(f"/proc/self/fd/{handle}").readlink().name.startswith(name):
            fail(BROKEN)()

    with watched(broken), pytest.raises(CheckpointError) as caught:
        prepare.resume(tmp_path / "run")
    assert f"last/{name}" in str(caught.value) and "cannot be read: Input/output error" in str(
        caught.value
    )


def test_a_disk_that_cannot_read_the_text_is_one_line(tmp_path, monkeypatch):
    path, open_file = tmp_path / "text.txt", Path.open
    path.write_text("A text on a disk that fails. " * 60)
    train_all(small_config(path), tmp_path / "run")

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(BROKEN, os.strerror(BROKEN))

    def broken(asked, *arguments, **options):
        return Broken() if asked == path else open_file(asked, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", broken)
        with pytest.raises(CorpusError, match=r"text.txt: .*Input/output error"):
            prepare.resume(tmp_path / "run")
    text = opened(small_config(path).corpus).parts["train"]
    path.unlink()
    with pytest.raises(
        CorpusError, match=r"text.txt: cannot be read: No such file or directory; restore the file"
    ):
        next(text.blocks())


def test_a_run_that_could_not_be_begun_can_be_begun_again(text_file, tmp_path):
    config = small_config(text_file)
    with watched() as calls:
        prepare.begin(config, tmp_path / "first")
    for number in range(5, len(calls) - 2, 6):
        with watched(at_call(number, fail(FULL))):
            try:
                prepare.begin(config, tmp_path / str(number)).lock.release()
            except CheckpointError as error:
                remedy = "free the disk" if ".lock" in str(error) else BEGIN_AGAIN
                assert f"No space left on device; {remedy}" in str(error)
                prepare.begin(config, tmp_path / str(number))


def test_a_run_folder_that_vanishes_is_told_and_not_made_anew(text_file, tmp_path):
    experiment = prepare.begin(small_config(text_file), tmp_path / "run")
    with pytest.raises(CheckpointError, match="is not a run folder any more"):
        for event in session.run(experiment):
            if isinstance(event, Prepared):
                shutil.rmtree(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_killed_save_left_is_removed_on_resuming_and_nothing_else(trained, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for name in (".metrics.jsonl.abcd1234", ".config.yaml.x_y_z123"):
        (folder / name).touch()
    (folder / ".notes").touch()
    prepare.resume(folder).lock.release()
    assert {path.name for path in folder.glob(".*")} == {LOCK, ".notes"}


def test_leftovers_in_a_folder_that_is_not_there_are_none(tmp_path):
    remove_temporary_files(tmp_path / "nowhere")
