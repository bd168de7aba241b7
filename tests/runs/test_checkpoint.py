"""The run folder: what is written is read back, and what is damaged is told."""

import json
import shutil

import pytest
import torch
from conftest import small_config, train_all, unseal

from charlm.api import load
from charlm.errors import CheckpointError
from charlm.runs import prepare, session
from charlm.runs.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from charlm.runs.folder import newest_run


@pytest.fixture
def folder(trained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    return copy


def file_of(folder, which, name):
    state = json.loads((folder / which / "state.json").read_text())
    return folder / which / state["files"][name]["file"]


def test_a_checkpoint_is_read_back_as_it_was_written(tmp_path):
    tensors = {"weights": {"a": torch.randn(3, 2), "b": torch.arange(4, dtype=torch.bfloat16)}}
    save_checkpoint(tmp_path, {"step": 3}, tensors)
    loaded = load_checkpoint(tmp_path)
    assert loaded.state["step"] == 3
    for name, tensor in tensors["weights"].items():
        assert torch.equal(loaded.tensors["weights"][name], tensor)


def test_a_later_save_leaves_no_file_of_the_one_before(tmp_path):
    for step in range(3):
        save_checkpoint(tmp_path, {"step": step}, {"weights": {"a": torch.full((2,), float(step))}})
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_fails_leaves_the_one_before_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, {"step": 1}, {"weights": {"a": torch.ones(2)}})

    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("charlm.storage.atomic.os.fsync", full_disk)
    with pytest.raises(
        CheckpointError, match=r"No space left on device; the previous checkpoint is complete"
    ):
        save_checkpoint(tmp_path, {"step": 2}, {"weights": {"a": torch.zeros(2)}})
    monkeypatch.undo()
    assert torch.equal(load_checkpoint(tmp_path).tensors["weights"]["a"], torch.ones(2))


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_checkpoint_cut_short_is_told(folder, which):
    path = file_of(folder, which, "weights")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_checkpoint(folder / which)


def test_a_changed_byte_is_told(folder):
    path = file_of(folder, "last", "training")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(folder / "last")


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("last/state.json", "{"),
        ("last/state.json", "[]"),
        ("last/state.json", "{}"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", ""),
        ("corpus.json", "nonsense"),
        ("config.yaml", "model: {hidden_size: -1}"),
    ],
)
def test_a_damaged_file_is_one_clear_line(folder, name, contents):
    (folder / name).write_text(contents)
    with pytest.raises(CheckpointError, match=r"^[^\n]*$"):
        prepare.resume(folder)


@pytest.mark.parametrize(
    "name", ["last/state.json", "tokenizer.json", "corpus.json", "config.yaml"]
)
def test_a_missing_file_is_one_clear_line(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"^[^\n]*$"):
        prepare.resume(folder)


def test_a_checkpoint_of_a_newer_format_is_refused_by_name(folder):
    path = folder / "best" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(CheckpointError, match=r"format 99, .* reads formats 1 to 2; update charlm"):
        load_checkpoint(folder / "best")


def test_a_name_in_state_json_cannot_lead_out_of_the_folder(folder, tmp_path):
    path = folder / "best" / "state.json"
    state = json.loads(path.read_text())
    state["files"]["weights"]["file"] = "../last/" + file_of(folder, "last", "weights").name
    (folder / "best" / file_of(folder, "last", "weights").name).unlink(missing_ok=True)
    path.write_text(json.dumps(state))
    unseal(folder)
    with pytest.raises(CheckpointError, match="is missing"):
        load_checkpoint(folder / "best")


def test_weights_of_another_size_are_refused_by_name(folder):
    config = (folder / "config.yaml").read_text().replace("hidden_size: 16", "hidden_size: 8")
    (folder / "config.yaml").write_text(config)
    unseal(folder)
    with pytest.raises(CheckpointError, match=r"do not fit config\.yaml"):
        prepare.resume(folder)


def test_a_folder_with_files_in_it_is_not_overwritten(tmp_path, text_file):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty; give another --out"):
        prepare.begin(small_config(text_file), tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_the_newest_run_is_the_one_saved_last(tmp_path):
    with pytest.raises(CheckpointError, match="contains no run"):
        newest_run(tmp_path)
    for name in ("one", "two"):
        save_checkpoint(tmp_path / name / "last", {"step": 1}, {})
    (tmp_path / "stray").mkdir()
    assert newest_run(tmp_path).name == "two"


def in_format(folder, number, *without):
    """Make a checkpoint one of another format, which had no checksums of its own."""
    path = folder / "last" / "state.json"
    facts = json.loads(path.read_text()) | {"format": number}
    path.write_text(
        json.dumps(
            {name: fact for name, fact in facts.items() if name not in (*without, "sha256", "run")}
        )
    )


def test_a_checkpoint_of_the_first_format_is_taken_up(folder):
    in_format(folder, 1, "average", "stalls", "halvings")
    experiment = prepare.resume(folder, budget={"steps": 70})
    assert (experiment.state.step, experiment.state.stalls, experiment.state.halvings) == (60, 0, 0)
    for _ in session.run(experiment):
        pass
    state = load_checkpoint(folder / "last").state
    assert (state["format"], state["step"]) == (FORMAT, 70)


@pytest.mark.parametrize("number", [0, -1, "one", None])
def test_a_checkpoint_of_an_unknown_format_is_refused_with_who_wrote_it(folder, number):
    in_format(folder, number)
    with pytest.raises(
        CheckpointError,
        match=r"reads formats 1 to 2; continue with the version of charlm that wrote it, \d",
    ):
        prepare.resume(folder)


def test_a_newer_format_is_refused_at_resuming_too(folder):
    in_format(folder, FORMAT + 1)
    with pytest.raises(CheckpointError, match=r"format 3, .* reads formats 1 to 2; update charlm"):
        prepare.resume(folder)


def test_a_text_may_be_moved_and_config_yaml_told_so_but_nothing_else_in_it(tmp_path):
    text = tmp_path / "old.txt"
    text.write_text("a text to be moved. " * 60, encoding="utf-8")
    train_all(small_config(text), tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    path.write_text(path.read_text("utf-8").replace("old.txt", "new.txt"), encoding="utf-8")
    text.rename(tmp_path / "new.txt")
    assert load(tmp_path / "run").perplexity(split="train").characters > 0
    path.write_text(path.read_text("utf-8").replace("window: ", "window: 1"), encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"config\.yaml: is not the file .* corpus\.text, .* may change"
    ):
        load(tmp_path / "run")


@pytest.mark.parametrize("name", ["fingerprints", "train_token_counts"])
def test_corpus_facts_without_what_is_asked_of_them_are_refused_in_one_line(folder, name):
    unseal(folder)
    path = folder / "corpus.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({key: value for key, value in facts.items() if key != name}), encoding="utf-8"
    )
    with pytest.raises(CheckpointError, match=rf"^{folder}: damaged: [^\n]*{name}[^\n]+$"):
        load(folder)
