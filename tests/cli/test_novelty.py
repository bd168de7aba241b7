"""`charlm eval novelty` as a user types it."""

import io
import json
import sys

import pytest
from cli.running import ok
from conftest import TEXT, small_config, train_all

from charlm.api import load
from charlm.cli.main import run as charlm
from charlm.errors import OptionError
from charlm.model_texts import training_texts


@pytest.fixture
def file(tmp_path):
    return tmp_path / "sample.txt"


def novelty(capfd, *arguments: object) -> dict:
    return json.loads(ok(capfd, "eval", "novelty", *arguments, "--json"))


def test_a_file_of_training_text_is_not_novel(capfd, trained, file):
    file.write_text(TEXT[:100], encoding="utf-8")
    result = novelty(capfd, trained, file)
    copy = result["sample"]["longest_copy"]
    assert (result["sample"]["novel_share"], copy["characters"]) == (0, 100)
    assert (copy["training_character"], copy["training_line"]) == (0, 1)
    assert result["sample"]["overlap"] == [1.0] * 16
    assert result["held_out"]["characters"] == 100
    assert result["settings"]["held_out"] == "valid"
    assert result["settings"]["sample"] == str(file)


def test_the_place_of_a_copy_is_counted_in_characters_and_lines(capfd, tmp_path, file):
    text = tmp_path / "text.txt"
    lines = "été, où?\n" * 3 + "Ça alors! L’unique ligne.\n" + "à là-bas\n" * 20
    text.write_text(lines, encoding="utf-8")
    train_all(small_config(text, "training.steps=2"), tmp_path / "run")
    file.write_text("x L’unique ligne z", encoding="utf-8")
    assert novelty(capfd, tmp_path / "run", file)["sample"]["longest_copy"] == {
        "characters": 15,
        "text": " L’unique ligne",
        "sample": 0,
        "sample_character": 1,
        "training_character": 36,
        "training_line": 4,
    }


def test_records_are_compared_as_wholes(capfd, trained_records, file):
    text = training_texts(load(trained_records).trained)["train"]
    first, second, *_ = [block.decode() for block, _ in text.blocks()]
    file.write_text(f"{first}\n{first}zzz\n\n{second}\n", encoding="utf-8")
    sample = novelty(capfd, trained_records, file)["sample"]
    assert (sample["pieces"], sample["novel_share"]) == (3, 1 / 3)


def test_without_a_file_the_run_writes_the_texts(capfd, trained, trained_records):
    result = novelty(capfd, trained, "--size", 300)
    assert result["settings"]["sample"] == "300 tokens written now"
    assert (result["settings"]["temperature"], result["settings"]["seed"]) == (1, 1)
    assert result["sample"]["characters"] == 300
    records = novelty(capfd, trained_records, "--size", 20, "--temperature", 0.5, "--seed", 3)
    assert records["settings"]["sample"] == "20 records written now"
    assert records["sample"]["texts"] <= 20


def test_the_table_shows_both_texts_and_the_copy(capfd, trained, file):
    file.write_text("The cat sat on the roof. Zzz?\n", encoding="utf-8")
    _, *lines = ok(capfd, "eval", "novelty", trained, file).splitlines()
    assert lines[0].split() == ["sample", "held", "out"]
    rows = {line[:36].strip(): line[36:].split() for line in lines}
    assert rows["characters"][0] == "30"
    assert rows["not in the training text"][0] == "50.00%"
    assert rows["longest copy, characters"][0] == "24"
    assert rows["16-grams"] == ["60.00%", "100.00%"]
    assert any("'The cat sat on the roof.'" in line and "line 2" in line for line in lines)


def test_the_file_may_be_stdin_and_the_run_may_be_the_newest(
    capfd, trained, tmp_path, file, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(trained)
    file.write_text("The cat", encoding="utf-8")
    assert novelty(capfd, file.name)["sample"]["characters"] == 7
    stdin = io.TextIOWrapper(io.BytesIO(b"The dog sat"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    assert novelty(capfd, trained, "-")["sample"]["characters"] == 11


def test_runs_of_every_level_are_measured(capfd, text_file, tmp_path, file):
    file.write_text("The cat sat on the roof.\nThe cat sat on the lawn.\n", encoding="utf-8")
    for name, overrides in {
        "word": ["tokenizer.level=word"],
        "spaces": ["tokenizer.level=word", "tokenizer.words=whitespace"],
        "byte": ["tokenizer.level=byte"],
        "bpe": ["tokenizer.level=bpe", "tokenizer.vocabulary_size=300"],
    }.items():
        train_all(small_config(text_file, "training.steps=2", *overrides), tmp_path / name)
        result = novelty(capfd, tmp_path / name, file)
        unit = "words" if overrides[0] == "tokenizer.level=word" else "characters"
        assert result["settings"]["ngrams_of"] == unit, name
        assert result["sample"]["overlap"][:6] == [1.0] * 6, name
        assert result["sample"]["novel_share"] == 0, name
        copied = "The cat sat on the roof.\nThe cat sat on the lawn."
        assert result["sample"]["longest_copy"]["text"].startswith(copied), name


def test_an_empty_file_and_too_many_arguments_are_refused(capfd, trained, file):
    file.touch()
    assert charlm(["eval", "novelty", str(trained), str(file)]) == 1
    assert capfd.readouterr().err.count("\n") == 1
    assert charlm(["eval", "novelty", str(trained), str(file), "more"]) == 2


def test_texts_are_measured_from_python(trained, file):
    run = load(trained)
    result = run.novelty([TEXT[:50], "zzz"])
    assert (result.sample.texts, result.sample.longest_copy.characters) == (2, 50)
    assert result.settings["sample"] == "given"
    with pytest.raises(
        OptionError, match=r"^path: cannot be combined with samples; leave one out$"
    ):
        run.novelty(["a"], path=file)
    with pytest.raises(OptionError, match=r"^size: must be at least 1, got 0$"):
        run.novelty(size=0)


def test_the_first_line_says_in_a_sentence_what_was_found(capfd, trained, trained_records, file):
    file.write_text(TEXT[:300], encoding="utf-8")
    first = ok(capfd, "eval", "novelty", trained, file).splitlines()[0]
    assert first.startswith("The sample does not have clearly more in common with the training ")
    assert "0.0% of its sentences are new, and its longest copy has 300 characters" in first
    records = [
        block for block, _ in training_texts(load(trained_records).trained)["train"].blocks()
    ]
    file.write_bytes(b"\n".join(records[:20]))
    first = ok(capfd, "eval", "novelty", trained_records, file).splitlines()[0]
    assert first.startswith("The sample has clearly more in common with the training text than ")
    assert "0.0% of its records are new" in first and first.endswith(").")


def test_texts_in_python_are_normalized_as_a_file_is(capfd, text_file, file, tmp_path):
    config = small_config(text_file, "training.steps=2", "tokenizer.lowercase=true")
    train_all(config, tmp_path / "run")
    file.write_text("THE CAT SAT", encoding="utf-8")
    given = load(tmp_path / "run").novelty(["THE CAT SAT"])
    assert given.sample.to_json() == novelty(capfd, tmp_path / "run", file)["sample"]
    assert given.sample.copied_characters == len("the cat sat")
