"""Records of several lines, such as tunes separated by blank lines, with the commands of the docs.

docs/corpora.md has this example; here the network and the training are smaller.
"""

import json
from pathlib import Path

import pytest

from charlm.cli.main import run as charlm

TUNES = [
    f"X:{number}\nK:{key}\n{note * 3}|{note}"
    for number in range(10)
    for key in "CDG"
    for note in "abc"
]
SMALL = ["--set", "model.hidden_size=16", "--set", "training.device=cpu", "--steps", "40"]
SMALL += ["--set", "training.learning_rate=0.02", "--set", "training.window=16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a file of tunes, and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("tunes")
    text = "\n\n".join([*TUNES, *TUNES[:20]]) + "\n"  # Some tunes occur twice.
    (folder / "tunes.abc").write_text(text, encoding="utf-8")
    (folder / "empty.yaml").touch()
    arguments = ["train", folder / "tunes.abc", "--config", folder / "empty.yaml"]
    arguments += ["--set", r"corpus.separator=\n\n", "--set", "corpus.mode=records"]
    assert charlm([*map(str, arguments), *SMALL, "--out", str(folder / "run")]) == 0
    return folder


def ok(capfd, *arguments: object) -> str:
    capfd.readouterr()
    assert charlm([*map(str, arguments)]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def test_a_separated_part_is_a_record_of_several_lines(capfd, folder):
    settings = ["--set", r"corpus.separator=\n\n", "--set", "corpus.mode=records"]
    facts = json.loads(ok(capfd, "corpus", "stats", folder / "tunes.abc", *settings, "--json"))
    assert (facts["mode"], facts["documents"], facts["duplicates"]) == ("records", 110, 20)
    assert facts["lengths"]["100%"] == max(map(len, TUNES))
    assert facts["parts"]["valid"]["records_in_training"] == 0
    assert "record: document" in (folder / "run" / "config.yaml").read_text(encoding="utf-8")


def test_samples_are_separated_as_the_records_of_the_corpus(capfd, folder):
    run = folder / "run"
    texts = [
        json.loads(line)["text"]
        for line in ok(capfd, "sample", run, "--count", 3, "--seed", 1, "--json").splitlines()
    ]
    assert any("\n" in text for text in texts)
    printed = ok(capfd, "sample", run, "--count", 3, "--seed", 1)
    assert printed == "".join(f"{text}\n\n" for text in texts)
    single = json.loads(ok(capfd, "sample", run, "--seed", 2, "--json"))["text"]
    assert ok(capfd, "sample", run, "--seed", 2) == f"{single}\n\n"


def test_a_record_of_several_lines_starts_from_the_initial_state_and_ends_itself(capfd, folder):
    run = folder / "run"
    score = json.loads(ok(capfd, "eval", "perplexity", run, folder / "tunes.abc", "--json"))
    assert score["settings"]["record"] == "document"
    assert score["settings"]["state"] == "zero at each record"
    assert score["tokens"] == sum(len(tune) + 1 for tune in [*TUNES, *TUNES[:20]])
    # A line end of the corpus is a character of the original text.
    assert score["characters"] == sum(len(tune) + 2 for tune in [*TUNES, *TUNES[:20]])
    sample = json.loads(ok(capfd, "sample", run, "--seed", 1, "--json"))
    assert sample["ended"] is True


def test_novel_records_of_several_lines_are_not_in_the_corpus(capfd, folder):
    lines = ok(capfd, "sample", folder / "run", "--count", 5, "--novel", "--seed", 1, "--json")
    texts = [json.loads(line)["text"] for line in lines.splitlines()]
    assert len(set(texts)) == 5 and not set(texts) & set(TUNES)


def test_the_novelty_of_records_of_several_lines_is_that_of_whole_records(capfd, folder):
    pytest.importorskip("pydivsufsort")
    train = [TUNES[0], "X:0\nK:C", "new\nlines"]
    (folder / "given.abc").write_text("\n\n".join(train) + "\n", encoding="utf-8")
    facts = json.loads(ok(capfd, "eval", "novelty", folder / "run", folder / "given.abc", "--json"))
    side = facts["sample"]
    assert side["texts"] == 3 and side["novel_share"] in (2 / 3, 1.0)


def test_a_file_is_compressed_with_records_of_several_lines(capfd, folder, tmp_path):
    pytest.importorskip("constriction")
    packed = tmp_path / "packed"
    for data in (TUNES[3] + "\n\n" + TUNES[4], "a\n\n\n\nb\n", "X:1\n"):
        path = tmp_path / "file"
        path.write_text(data, encoding="utf-8")
        ok(capfd, "compress", folder / "run", path, "--out", packed, "--force")
        ok(
            capfd,
            "decompress",
            packed,
            "--run",
            folder / "run",
            "--out",
            tmp_path / "again",
            "--force",
        )
        assert (tmp_path / "again").read_text(encoding="utf-8") == data


def test_rows_and_files_are_records(capfd, folder, tmp_path):
    rows = [json.dumps({"text": tune}) for tune in TUNES]
    (tmp_path / "tunes.jsonl").write_text("\n".join(rows), encoding="utf-8")
    many = tmp_path / "many"
    many.mkdir()
    for number, tune in enumerate(TUNES):
        (many / f"{number:03}.txt").write_text(tune, encoding="utf-8")
    records = ["--set", "corpus.mode=records", "--json"]
    by_row = json.loads(ok(capfd, "corpus", "stats", tmp_path / "tunes.jsonl", *records))
    as_documents = ["--set", "corpus.record=document", *records]
    by_file = json.loads(ok(capfd, "corpus", "stats", many, *as_documents))
    by_line = json.loads(ok(capfd, "corpus", "stats", many, *records))
    assert (by_row["documents"], by_file["documents"]) == (90, 90)
    assert by_line["documents"] == 270
    assert by_row["alphabet"] == by_file["alphabet"]


def test_lines_that_end_with_eos_cannot_be_parts_of_a_record(capfd, folder):
    words = ["tokenizer.level=word", "tokenizer.words=whitespace", "corpus.mode=records"]
    changes = [part for word in words for part in ("--set", word)]
    refused = [*changes, "--set", "corpus.record=document"]
    assert charlm(["corpus", "stats", str(folder / "tunes.abc"), *refused]) == 1
    assert "corpus.record: must be line" in capfd.readouterr().err
    separated = [*changes, "--set", r"corpus.separator=\n\n", "--json"]
    facts = json.loads(ok(capfd, "corpus", "stats", folder / "tunes.abc", *separated))
    assert facts["documents"] == 330
