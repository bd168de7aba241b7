"""Checkpoints: what is written is read back, and what is damaged is refused."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import unseal

from charlm.errors import CheckpointError
from charlm.runs import checkpoint as checkpoint_module
from charlm.runs import prepare, session
from charlm.runs.checkpoint import load_checkpoint, save_checkpoint
from charlm.runs.verify import FORMAT
from charlm.runs.verify_weights import read_tensor_file


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of a run folder."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@contextmanager
def restored(path: Path) -> Iterator[None]:
    """Restore a file after the block."""
    data = path.read_bytes()
    yield
    path.write_bytes(data)


def tensor_file(folder: Path, checkpoint: str, name: str) -> Path:
    state = json.loads((folder / checkpoint / "state.json").read_text())
    return folder / checkpoint / state["files"][name]["file"]


def change_state(checkpoint: Path, *removed: str, **facts: object) -> None:
    """Change state.json, and remove the checksums that earlier formats lack."""
    path = checkpoint / "state.json"
    state = json.loads(path.read_text()) | facts
    kept = {key: fact for key, fact in state.items() if key not in (*removed, "sha256", "run")}
    path.write_text(json.dumps(kept))


def test_a_checkpoint_is_read_back_as_it_was_written(tmp_path):
    tensors = {"weights": {"a": torch.randn(3, 2), "b": torch.arange(4, dtype=torch.bfloat16)}}
    save_checkpoint(tmp_path, {"step": 3}, tensors)
    loaded = load_checkpoint(tmp_path)
    assert loaded.state["step"] == 3
    for name, tensor in tensors["weights"].items():
        assert torch.equal(loaded.weights[name], tensor)


def test_a_save_removes_the_files_of_the_previous_checkpoint(tmp_path):
    for step in range(3):
        save_checkpoint(tmp_path, {"step": step}, {"weights": {"a": torch.full((2,), float(step))}})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_checkpoint_that_a_training_replaces_while_it_is_read_is_read_again(
    tmp_path, monkeypatch
):
    def save(step: int) -> None:
        save_checkpoint(tmp_path, {"step": step}, {"weights": {"a": torch.full((2,), step)}})

    def read_after_save(checkpoint: Path, file: str, sha256: str) -> dict[str, torch.Tensor]:
        if steps:
            save(steps.pop())
        return read_tensor_file(checkpoint, file, sha256)

    save(1)
    steps = [3, 2]
    monkeypatch.setattr(checkpoint_module, "read_tensor_file", read_after_save)
    loaded = load_checkpoint(tmp_path)
    assert (loaded.state["step"], loaded.weights["a"].tolist()) == (3, [3, 3])


def test_a_failed_save_leaves_the_previous_checkpoint_complete(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"step": 1}, {"weights": {"a": torch.ones(2)}})

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("charlm.storage.atomic.os.fsync", fail)
    pattern = r"No space left on device; the previous checkpoint is complete"
    with pytest.raises(CheckpointError, match=pattern):
        save_checkpoint(tmp_path, {"step": 2}, {"weights": {"a": torch.zeros(2)}})
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(tmp_path).weights["a"], torch.ones(2))


def test_a_truncated_or_changed_tensor_file_is_refused(folder):
    for checkpoint, name in (("best", "weights"), ("last", "weights"), ("last", "training")):
        path = tensor_file(folder, checkpoint, name)
        data = path.read_bytes()
        middle = len(data) // 2
        for damaged in (data[:-1], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]):
            with restored(path):
                path.write_bytes(damaged)
                with pytest.raises(CheckpointError, match=f"{path}: damaged or cut short: .*; "):
                    load_checkpoint(folder / checkpoint)


def test_a_damaged_or_missing_file_is_refused_in_one_line(folder):
    for name, contents in (
        ("last/state.json", "{"),
        ("last/state.json", "[]"),
        ("last/state.json", "{}"),
        ("last/state.json", None),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", ""),
        ("tokenizer.json", None),
        ("corpus.json", "nonsense"),
        ("corpus.json", None),
        ("config.yaml", "model: {hidden_size: -1}"),
        ("config.yaml", None),
    ):
        with restored(folder / name):
            if contents is None:
                (folder / name).unlink()
            else:
                (folder / name).write_text(contents)
            with pytest.raises(CheckpointError, match=rf"^{folder}[^\n]*; [^\n]*$"):
                prepare.resume(folder)


def test_a_newer_format_is_refused_with_the_advice_to_update(folder):
    change_state(folder / "best", format=99)
    change_state(folder / "last", format=FORMAT + 1)
    with pytest.raises(CheckpointError, match=r"format 99, .* formats 1 to 2; update charlm"):
        load_checkpoint(folder / "best")
    with pytest.raises(CheckpointError, match=r"format 3, .* formats 1 to 2; update charlm"):
        prepare.resume(folder)


def test_an_unknown_format_is_refused_with_the_version_that_wrote_it(folder):
    for value in (0, -1, "one", None):
        change_state(folder / "last", format=value)
        with pytest.raises(CheckpointError, match=r"formats 1 to 2; .* that wrote it, \d"):
            prepare.resume(folder)


def test_a_checkpoint_of_the_first_format_is_resumed(folder):
    change_state(folder / "last", "average", "stalls", "halvings", format=1)
    experiment = prepare.resume(folder, budget={"steps": 70})
    assert (experiment.state.step, experiment.state.stalls, experiment.state.halvings) == (60, 0, 0)
    for _ in session.run(experiment):
        pass
    state = load_checkpoint(folder / "last").state
    assert (state["format"], state["step"]) == (FORMAT, 70)


def test_a_file_name_in_state_json_cannot_lead_out_of_the_folder(folder):
    name = tensor_file(folder, "last", "weights").name
    (folder / "best" / name).unlink(missing_ok=True)
    entry = {"file": f"../last/{name}", "sha256": ""}
    change_state(folder / "best", files={"weights": entry})
    with pytest.raises(CheckpointError, match="is missing"):
        load_checkpoint(folder / "best")


def test_weights_of_another_size_are_refused(folder):
    config = (folder / "config.yaml").read_text().replace("hidden_size: 16", "hidden_size: 8")
    (folder / "config.yaml").write_text(config)
    unseal(folder)
    with pytest.raises(CheckpointError, match=r"do not fit config\.yaml"):
        prepare.resume(folder)
