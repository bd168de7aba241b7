"""Run folders: which are new, which are found, and which changes of their files are refused."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import small_config, train_all, unseal

from charlm.api import load
from charlm.errors import CheckpointError
from charlm.runs import prepare
from charlm.runs.checkpoint import save_checkpoint
from charlm.runs.folder import check_new, newest_run


def test_a_folder_that_contains_files_is_not_overwritten(tmp_path, text_file):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty; give another --out"):
        prepare.begin(small_config(text_file), tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_the_command_that_continues_a_run_can_be_pasted_if_its_folder_has_a_space(tmp_path):
    folder = tmp_path / "my novel"
    folder.mkdir()
    (folder / "config.yaml").write_text("")
    with pytest.raises(CheckpointError, match=rf"charlm train --resume '{folder}'$"):
        check_new(folder)


def test_the_newest_run_is_the_one_saved_last(tmp_path):
    with pytest.raises(CheckpointError, match="contains no run"):
        newest_run(tmp_path)
    for name in ("first", "second"):
        save_checkpoint(tmp_path / name / "last", {"step": 1}, {})
    (tmp_path / "no_run").mkdir()
    assert newest_run(tmp_path).name == "second"


def test_a_folder_of_several_seeds_is_refused_with_the_name_of_a_run_in_it(tmp_path):
    for name in ("seed-2", "seed-1"):
        (tmp_path / "seeds" / name).mkdir(parents=True)
        (tmp_path / "seeds" / name / "config.yaml").touch()
    with pytest.raises(CheckpointError, match=r"name one of them, such as .*seed-1$"):
        load(tmp_path / "seeds")


def test_the_error_of_a_misspelled_run_has_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("novel", "my-20260101-120000", "my-20260102-120000"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.yaml").touch()
    for name, near in (
        ("runs/nove", "novel"),
        ("novel", "novel"),
        ("my", "my-20260102-120000"),
    ):
        with pytest.raises(
            CheckpointError, match=rf"no such run folder; did you mean runs/{near}\?$"
        ):
            load(name)


def test_corpus_json_has_the_token_counts_of_the_training_part(trained):
    facts = json.loads((trained / "corpus.json").read_text())
    assert sum(facts["train_token_counts"]) == facts["parts"]["train"]["tokens"]


def test_corpus_json_without_a_required_field_is_refused_in_one_line(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "copy"))
    unseal(folder)
    path = folder / "corpus.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    for name in ("fingerprints", "train_token_counts"):
        rest = {key: value for key, value in facts.items() if key != name}
        path.write_text(json.dumps(rest), encoding="utf-8")
        with pytest.raises(CheckpointError, match=rf"^{folder}: damaged: [^\n]*{name}[^\n]+$"):
            load(folder)


def test_the_path_of_the_text_may_change_in_config_yaml_but_nothing_else(tmp_path):
    text = tmp_path / "old.txt"
    text.write_text("a text to be moved. " * 60, encoding="utf-8")
    train_all(small_config(text), tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    path.write_text(path.read_text("utf-8").replace("old.txt", "new.txt"), encoding="utf-8")
    text.rename(tmp_path / "new.txt")
    assert load(tmp_path / "run").perplexity(split="train").characters > 0
    path.write_text(path.read_text("utf-8").replace("window: ", "window: 1"), encoding="utf-8")
    pattern = r"config\.yaml: is not the file .* corpus\.text, .* may change"
    with pytest.raises(CheckpointError, match=pattern):
        load(tmp_path / "run")


def test_the_error_of_a_moved_text_says_where_to_write_its_new_path(tmp_path):
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    for path in (text, other):
        path.write_text("a text to be moved. " * 60, encoding="utf-8")
    folder = tmp_path / "run"
    train_all(small_config(text, f"corpus.test_text={other}"), folder)
    for path, field in ((text, "text"), (other, "test_text")):
        moved = path.rename(tmp_path / "moved.txt")
        remedy = rf"^{path}: no such text; .* as corpus\.{field} into {folder}/config\.yaml"
        with pytest.raises(CheckpointError, match=rf"{remedy}, or name a text to score$"):
            load(folder).perplexity()
        with pytest.raises(CheckpointError, match=rf"{remedy}$"):
            prepare.resume(folder)
        moved.rename(path)
