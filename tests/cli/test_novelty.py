"""`charlm eval novelty` as a person types it."""

import io
import json
import sys

import pytest
from conftest import TEXT, small_config, train_all

from charlm.api import load
from charlm.cli.main import run as charlm
from charlm.trained_model import training_texts


def ok(capfd, *arguments: object) -> str:
    assert charlm([str(argument) for argument in arguments]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def novelty(capfd, *arguments: object) -> dict:
    return json.loads(ok(capfd, "eval", "novelty", *arguments, "--json"))


def test_a_file_of_training_text_is_not_novel(capfd, trained, tmp_path):
    path = tmp_path / "sample.txt"
    path.write_text(TEXT[:100], encoding="utf-8")
    found = novelty(capfd, trained, path)
    sample = found["sample"]
    assert (sample["novel_share"], sample["longest_copy"]["characters"]) == (0, 100)
    assert (
        sample["longest_copy"]["training_character"],
        sample["longest_copy"]["training_line"],
    ) == (0, 1)
    assert sample["overlap"] == [1.0] * 16
    assert found["held_out"]["characters"] == 100
    assert found["settings"]["held_out"] == "valid"
    assert found["settings"]["sample"] == str(path)


def test_where_a_copy_stands_is_counted_in_characters_and_lines(capfd, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(
        "été, où?\n" * 3 + "Ça alors! L’unique ligne.\n" + "à là-bas\n" * 20, encoding="utf-8"
    )
    train_all(small_config(text, "training.steps=2"), tmp_path / "run")
    path = tmp_path / "sample.txt"
    path.write_text("x L’unique ligne z", encoding="utf-8")
    copy = novelty(capfd, tmp_path / "run", path)["sample"]["longest_copy"]
    assert copy == {
        "characters": 15,
        "text": " L’unique ligne",
        "sample": 0,
        "sample_character": 1,
        "training_character": 36,
        "training_line": 4,
    }


def test_records_are_compared_as_wholes(capfd, trained_records, tmp_path):
    train = charlm_records(trained_records)
    path = tmp_path / "sample.txt"
    path.write_text(f"{train[0]}\n{train[0]}zzz\n\n{train[1]}\n", encoding="utf-8")
    sample = novelty(capfd, trained_records, path)["sample"]
    assert (sample["pieces"], sample["novel_share"]) == (3, 1 / 3)


def charlm_records(run) -> list[str]:
    text = training_texts(load(run).trained)["train"]
    return [block.decode() for block, _ in text.blocks()]


def test_without_a_file_the_run_writes(capfd, trained, trained_records):
    found = novelty(capfd, trained, "--size", 300)
    assert found["settings"]["sample"] == "300 tokens written now"
    assert (found["settings"]["temperature"], found["settings"]["seed"]) == (1, 1)
    assert found["sample"]["characters"] == 300
    records = novelty(capfd, trained_records, "--size", 20, "--temperature", 0.5, "--seed", 3)
    assert records["settings"]["sample"] == "20 records written now"
    assert records["sample"]["texts"] <= 20


def test_the_table_shows_both_texts_and_the_copy(capfd, trained, tmp_path):
    path = tmp_path / "sample.txt"
    path.write_text("The cat sat on the roof. Zzz?\n", encoding="utf-8")
    lines = ok(capfd, "eval", "novelty", trained, path).splitlines()
    assert lines[0].split() == ["sample", "held", "out"]
    rows = {line[:36].strip(): line[36:].split() for line in lines}
    assert rows["characters"][0] == "30"
    assert rows["not in the training text"][0] == "50.00%"
    assert rows["longest copy, characters"][0] == "24"
    assert rows["16-grams"] == ["60.00%", "100.00%"]
    assert any("'The cat sat on the roof.'" in line and "line 2" in line for line in lines)


def test_a_file_may_come_from_stdin_or_without_a_run(capfd, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(trained)
    (tmp_path / "sample.txt").write_text("The cat", encoding="utf-8")
    assert novelty(capfd, "sample.txt")["sample"]["characters"] == 7
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The dog sat"), encoding="utf-8")
    )
    assert novelty(capfd, trained, "-")["sample"]["characters"] == 11


@pytest.mark.parametrize(
    "overrides",
    [
        ["tokenizer.level=word"],
        ["tokenizer.level=word", "tokenizer.words=whitespace"],
        ["tokenizer.level=byte"],
        ["tokenizer.level=bpe", "tokenizer.vocabulary_size=300"],
    ],
)
def test_runs_of_every_level_are_measured(capfd, text_file, tmp_path, overrides):
    train_all(small_config(text_file, "training.steps=2", *overrides), tmp_path / "run")
    path = tmp_path / "sample.txt"
    path.write_text("The cat sat on the roof.\nThe cat sat on the lawn.\n", encoding="utf-8")
    found = novelty(capfd, tmp_path / "run", path)
    assert found["settings"]["ngrams_of"] == (
        "words" if "tokenizer.level=word" in overrides else "characters"
    )
    assert found["sample"]["overlap"][:6] == [1.0] * 6
    assert found["sample"]["novel_share"] == 0
    assert found["sample"]["longest_copy"]["text"].startswith(
        "The cat sat on the roof.\nThe cat sat on the lawn."
    )


def test_an_empty_file_and_too_many_arguments_are_refused(capfd, trained, tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    assert charlm(["eval", "novelty", str(trained), str(path)]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert charlm(["eval", "novelty", str(trained), str(path), "more"]) == 2


def test_the_same_is_one_call_in_python(trained):
    found = load(trained).novelty([TEXT[:50], "zzz"])
    assert (found.sample.texts, found.sample.longest_copy.characters) == (2, 50)
    assert found.settings["sample"] == "given"
