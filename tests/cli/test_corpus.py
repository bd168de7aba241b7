"""The commands `charlm corpus encode` and `charlm corpus stats`."""

import gzip
import json
from pathlib import Path

import kinds
import pytest
from cli.running import refused
from conftest import SMALL

from charlm.cli import slow_activity
from charlm.cli.main import run as charlm
from charlm.data import cards, tokens
from charlm.errors import UnsupportedOptionError

WHOLE = ["--set", "corpus.valid_share=0"]
SETTINGS = [part for override in SMALL for part in ("--set", override)]
PLAIN, PACKED, ROWS = "the cat sat.\n", "a naïve 日本 cat\n", ["the cat sat.\n", "ein Hund", ""]
CHARACTERS = len(PLAIN + PACKED + "".join(ROWS))
GERMAN_OUT = ["--set", "corpus.where={language: en}"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Run each command in a new folder with a folder of mixed texts, and with an empty cache."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    texts = folder / "texts"
    texts.mkdir(parents=True)
    (texts / "a.txt").write_text(PLAIN, encoding="utf-8")
    (texts / "b.txt.gz").write_bytes(gzip.compress(PACKED.encode()))
    rows = [
        {"text": row, "language": language}
        for row, language in zip(ROWS, ("en", "de", "en"), strict=True)
    ]
    (texts / "c.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    return folder


def ok(capfd, *arguments: object) -> str:
    """Run a command that must succeed without a line on stderr; return its output."""
    assert charlm([*map(str, arguments)]) == 0, capfd.readouterr().err
    out, err = capfd.readouterr()
    assert err == ""
    return out


def counted(capfd, *arguments: object) -> dict:
    return json.loads(ok(capfd, "corpus", "stats", *arguments, "--json"))


def test_encode_prints_the_number_of_tokens_of_each_part(capfd):
    header, *rows = ok(capfd, "corpus", "encode", "texts", *WHOLE).splitlines()
    assert header.split() == ["part", "tokens", "characters", "bytes"]
    size = len((PLAIN + PACKED + "".join(ROWS)).encode())
    documents = 4  # Each ends with <EOS>; the empty row is not a document.
    assert [row.split() for row in rows] == [
        ["train", str(CHARACTERS + documents), str(CHARACTERS), str(size)]
    ]
    parted = ok(capfd, "corpus", "encode", "texts", "--set", "corpus.valid_share=0.25").splitlines()
    assert [row.split()[0] for row in parted] == ["part", "train", "valid"]
    assert sum(int(row.split()[2]) for row in parted[1:]) == CHARACTERS


def test_stats_counts_a_folder_of_mixed_files(capfd):
    found = counted(capfd, "texts", *WHOLE)
    assert (found["documents"], found["duplicates"], found["characters"]) == (4, 1, CHARACTERS)
    assert found["lengths"] == {
        "0%": 8,
        "5%": 8,
        "25%": 13,
        "50%": 13,
        "75%": 13,
        "95%": 15,
        "100%": 15,
    }
    assert found["alphabet"]["日"] == 1 and found["alphabet"]["t"] == 7
    assert sum(found["alphabet"].values()) == CHARACTERS
    assert list(found["alphabet"].values()) == sorted(found["alphabet"].values(), reverse=True)
    assert found["vocabulary_size"] == len(found["alphabet"]) + 2  # <EOS> and <UNK>.
    part = found["parts"]["train"]
    assert (part["documents"], part["tokens"], part["unknown_share"]) == (4, CHARACTERS + 4, 0)
    english = counted(capfd, "texts", *WHOLE, *GERMAN_OUT)
    assert (english["documents"], english["characters"]) == (3, CHARACTERS - len("ein Hund"))


def test_stats_of_records_count_each_line_as_a_document(capfd):
    Path("names.txt").write_text("ann\nbob\n\nann\ncy\n", encoding="utf-8")
    found = counted(capfd, "names.txt", "--set", "corpus.mode=records", *WHOLE)
    assert (found["mode"], found["documents"], found["duplicates"], found["characters"]) == (
        "records",
        4,
        1,
        11,
    )
    assert found["parts"]["train"]["characters"] == 15  # Line ends belong to the original text.


def test_a_text_without_a_configuration_is_read_as_train_reads_it(capfd):
    Path("names.txt").write_text(kinds.names(300), encoding="utf-8")
    Path("empty.yaml").touch()
    for settings, mode in (
        ([], "records"),
        (["--set", "corpus.mode=stream"], "stream"),
        (["--config", "empty.yaml"], "stream"),
    ):
        assert counted(capfd, "names.txt", *settings)["mode"] == mode, settings
    rows = ok(capfd, "corpus", "encode", "names.txt", *SETTINGS).splitlines()[1:]
    assert charlm(["train", "names.txt", *SETTINGS, "--steps", "1", "--out", "run"]) == 0
    facts = json.loads(Path("run/corpus.json").read_text(encoding="utf-8"))
    assert [row.split()[1] for row in rows] == [
        f"{part['tokens']:,}" for part in facts["parts"].values()
    ]


def test_validation_records_that_are_in_the_training_text_are_reported_everywhere(capfd):
    Path("train.txt").write_text("ann\nbob\ncy\n" * 9, encoding="utf-8")
    Path("valid.txt").write_text("ann\ndee\neve\nann\n", encoding="utf-8")
    overrides = ["corpus.mode=records", "corpus.valid_text=valid.txt"]
    changes = [part for override in overrides for part in ("--set", override)]
    parts = counted(capfd, "train.txt", *changes)["parts"]
    assert parts["valid"]["records_in_training"] == 0.5
    assert parts["train"]["records_in_training"] is None
    told = ok(capfd, "corpus", "stats", "train.txt", *changes)
    assert told.splitlines()[-1] == "50.0% of the valid records are in training too"
    without = ok(
        capfd, "corpus", "stats", "train.txt", *changes[:2], "--set", "corpus.valid_share=0.4"
    )
    assert "in training" not in without  # Copies are kept together.
    training = ["--set", "model.hidden_size=4", "--steps", 1, "--out", "run"]
    Path("empty.yaml").touch()
    arguments = ["train", "--config", "empty.yaml", "--corpus", "train.txt", *changes, *training]
    assert charlm([*map(str, arguments)]) == 0
    assert "valid: 50.0% of its records are in the training text too" in capfd.readouterr().err
    score = json.loads(ok(capfd, "eval", "perplexity", "run", "--json"))
    assert score["settings"]["records_in_training"] == 0.5


def test_stats_count_the_tokens_that_are_unknown_to_the_training_vocabulary(capfd):
    Path("train.txt").write_text("a b a b", encoding="utf-8")
    Path("valid.txt").write_text("a c c", encoding="utf-8")
    overrides = [
        "corpus.valid_text=valid.txt",
        "tokenizer.level=word",
        "tokenizer.words=whitespace",
    ]
    changes = [part for override in overrides for part in ("--set", override)]
    parts = counted(capfd, "train.txt", *changes)["parts"]
    assert (parts["train"]["unknown_share"], parts["valid"]["unknown_share"]) == (
        0,
        2 / 4,
    )  # Two of a, c, c and <EOS>.


def test_the_table_of_stats_has_the_same_numbers(capfd):
    told = ok(capfd, "corpus", "stats", "texts", *WHOLE)
    for line in (
        "documents                   4",
        "duplicates                  1",
        f"characters                  {CHARACTERS}",
        "0% 8; 5% 8; 25% 13; 50% 13; 75% 13; 95% 15; 100% 15",
        "vocabulary                  20 (char)",
        "(stream)",
    ):
        assert line in told
    assert told.splitlines()[-1].split()[:3] == ["train", "4", str(CHARACTERS + 4)]


def test_train_uses_the_encoded_text_in_the_cache(capfd, monkeypatch):
    Path("texts/d.txt").write_text(PLAIN * 40, encoding="utf-8")
    split = ["--set", "corpus.valid_share=0.2"]
    ok(capfd, "corpus", "encode", "texts", *split)

    def encode(*_: object) -> None:
        raise AssertionError("a text in the cache is encoded again")

    monkeypatch.setattr(tokens, "encode_to_file", encode)
    assert charlm(["train", "texts", *SETTINGS, "--steps", "2", "--out", "run"]) == 0
    assert "validation" in capfd.readouterr().err
    assert counted(capfd, "texts", *split)["documents"] == 5
    with pytest.raises(AssertionError, match="encoded again"):
        charlm(["corpus", "encode", "texts", *split, "--set", "tokenizer.lowercase=true"])


def test_an_unreadable_text_is_reported_in_one_line(capfd):
    for arguments, problem in (
        (["texts", "--set", "corpus.field=body"], "c.jsonl: line 1: field 'body' must be text"),
        (["texts", "--set", "corpus.where={language: fr}"], "c.jsonl: contains no document"),
        (["empty"], "empty: contains no file; "),
        (["texts/*.parquet"], "texts/*.parquet: no such text; "),
    ):
        for command in ("encode", "stats"):
            assert problem in refused(capfd, "corpus", command, *arguments), arguments


def test_a_separator_that_does_not_occur_is_reported(capfd, folder):
    Path("poems.txt").write_text("one line\n***\nanother\n" * 50, encoding="utf-8")
    warning = (
        r"warning: corpus.separator: '\n###\n' does not occur in the text, so nothing is separated; "
        "correct it, or set it to null\n"
    )
    Path("tiny.yaml").write_text("training: {steps: 1}", encoding="utf-8")
    commands = (
        ["corpus", "stats", "poems.txt", *WHOLE],
        ["corpus", "encode", "poems.txt", *WHOLE],
        ["train", "poems.txt", *SETTINGS, *WHOLE, "--config", "tiny.yaml"],
    )
    for command in commands:
        for separator, is_reported in ((r"\n###\n", True), (r"\n***\n", False), ("null", False)):
            setting = f"corpus.separator={separator}"
            assert charlm([*command, "--set", setting, *out_of(command, folder)]) == 0, setting
            assert (warning in capfd.readouterr().err) == is_reported, (command[:2], separator)


def out_of(command: list[str], folder: Path) -> list[str]:
    """Return a new run folder for a training."""
    is_training = command[0] == "train"
    return ["--out", str(folder / f"run{len(list(folder.iterdir()))}")] if is_training else []


def test_a_parameter_of_a_builder_that_is_not_yaml_is_wrong_usage(capfd):
    build = ["corpus", "build", "agreement", "--to", "a.txt", "--set"]
    for value, problem in {
        "sentences": "must be PARAMETER=VALUE",
        "sentences=[": "is not YAML",
    }.items():
        assert problem in refused(capfd, *build, value, status=2), value


def test_slow_reading_and_encoding_are_told_on_stderr(capfd, monkeypatch):
    command = ["corpus", "encode", "texts", *WHOLE]
    monkeypatch.setattr(slow_activity, "_PATIENCE_SECONDS", 0.0)
    assert charlm(command) == 0
    lines = list(dict.fromkeys(capfd.readouterr().err.splitlines()))
    assert lines == ["reading 3 files: 0.0 MB so far", "encoding the text: 0.0 MB so far"]
    monkeypatch.setattr(slow_activity, "_PAUSE_SECONDS", 0.0)
    assert charlm(["corpus", "encode", "texts/a.txt", *WHOLE]) == 0
    assert all(
        "1 file:" in line or "encoding" in line for line in capfd.readouterr().err.splitlines()
    )


def test_a_file_that_cannot_be_written_is_answered_with_what_names_another(capfd, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("charlm.storage.atomic.tempfile.mkstemp", refuse)
    error = refused(capfd, "corpus", "build", "agreement", "--to", "a.txt", "--set", "sentences=3")
    assert error == "charlm: a.txt: cannot be written: Permission denied; name another file\n"
    assert "set CHARLM_CACHE" in refused(capfd, "corpus", "build", "agreement")


def test_parameters_without_a_file_name_the_options_of_the_caller(capfd):
    problem = "make another corpus, which needs its own file: name it with"
    error = refused(capfd, "corpus", "build", "agreement", "--set", "sentences=3")
    assert error == f"charlm: --set: {problem} --to, and train on it\n"
    with pytest.raises(
        UnsupportedOptionError, match=f"^parameters: {problem} to, and train on it$"
    ):
        cards.build_corpus("agreement", parameters={"sentences": 3})
