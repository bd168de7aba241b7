"""`charlm eval sentences`, `tokens` and `compare` as a person types them."""

import io
import json
import math
import sys

import pytest
from conftest import TEXT, small_config, train_all

from charlm.api import load
from charlm.cli.main import run as charlm
from charlm.errors import CharlmError

SALADS = "The apple and pair salad\n\nThe apple and pear salad\nThe cat sat on the mat.\n"


def ok(capfd, *arguments: object) -> str:
    assert charlm([str(argument) for argument in arguments]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def parsed(capfd, *arguments: object) -> dict:
    return json.loads(ok(capfd, "eval", *arguments, "--json"))


def refused(capfd, status: int, *arguments: object) -> str:
    assert charlm(["eval", *map(str, arguments)]) == status
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture(scope="session")
def words(text_file, tmp_path_factory, cache):
    """A run folder of a model of words, on the same text as `trained`."""
    folder = tmp_path_factory.mktemp("runs") / "words"
    train_all(small_config(text_file, "tokenizer.level=word", "training.steps=20"), folder)
    return folder


def test_sentences_stand_in_order_or_ranked(capfd, trained, tmp_path):
    path = tmp_path / "salads.txt"
    path.write_text(SALADS, encoding="utf-8")
    found = parsed(capfd, "sentences", trained, path)
    assert [(row["line"], row["tokens"]) for row in found["sentences"]] == [
        (1, 24),
        (3, 24),
        (4, 23),
    ]
    assert found["settings"]["end"] == "not predicted"
    ranked = parsed(capfd, "sentences", trained, path, "--ranked")["sentences"]
    assert ranked == sorted(found["sentences"], key=lambda row: -row["log_probability"])
    assert ranked[0]["line"] == 4
    lines = ok(capfd, "eval", "sentences", trained, path, "--ranked").splitlines()
    assert lines[1].split()[0] == "4" and lines[1].endswith("The cat sat on the mat.")
    assert len(lines) == 5


def test_sentences_are_explained_token_by_token_from_standard_input(
    capfd, monkeypatch, trained_records
):
    def give() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bara\n")))

    give()
    (row,) = parsed(capfd, "sentences", trained_records, "-", "--explain")["sentences"]
    assert [token["text"] for token in row["explained"]] == ["b", "a", "r", "a", "<EOS>"]
    assert sum(token["log_probability"] for token in row["explained"]) == pytest.approx(
        row["log_probability"], rel=1e-5
    )
    give()
    lines = ok(capfd, "eval", "sentences", trained_records, "-", "--explain").splitlines()
    assert lines[2].split() == [
        f"{row['explained'][0]['log_probability']:.4f}",
        f"{row['explained'][0]['probability']:.2%}",
        "'b'",
    ]


def test_sentences_need_one_file(capfd, trained, tmp_path):
    assert "one file of sentences, or - for stdin; got 0" in refused(capfd, 2, "sentences", trained)
    path = tmp_path / "empty.txt"
    path.write_bytes(b"")
    assert "has no sentence" in refused(capfd, 1, "sentences", trained, path)
    with pytest.raises(CharlmError, match="no sentence to score"):
        load(trained).sentences()


@pytest.mark.parametrize("kind", ["trained", "trained_records", "words"])
def test_tokens_cost_together_what_perplexity_says(capfd, request, kind):
    folder = request.getfixturevalue(kind)
    found = parsed(capfd, "tokens", folder)
    score = parsed(capfd, "perplexity", folder)
    assert (found["tokens"], found["loss_nats"]) == (
        score["tokens"],
        pytest.approx(score["loss_nats"], rel=1e-5),
    )
    mean = sum(token["surprise_bits"] for token in found["each"]) / len(found["each"])
    assert (
        mean
        == pytest.approx(found["surprise_bits"])
        == pytest.approx(found["loss_nats"] / math.log(2))
    )
    assert len(found["each"]) == found["tokens"]
    assert found["settings"]["text"] == "valid"


def test_rare_words_are_those_that_the_training_text_has_seldom(capfd, trained, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The catdog sat.\n", encoding="utf-8")
    rows = {
        row["class"]: row["tokens"] for row in parsed(capfd, "tokens", trained, path)["by_class"]
    }
    assert (rows["rare words"], rows["letters"], rows["spaces"]) == (6, 6, 3)


def test_tokens_are_listed_where_there_is_no_terminal(capfd, trained, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The cat\n", encoding="utf-8")
    each = parsed(capfd, "tokens", trained, path)["each"]
    out = ok(capfd, "eval", "tokens", trained, path, "--show", 2)
    assert "\x1b" not in out
    lines = out.splitlines()
    assert lines[:2] == [f"{token['surprise_bits']:>9.3f}  {token['text']!r}" for token in each[:2]]
    assert lines[2] == ""
    assert any(line.split()[:2] == ["letters", "6"] for line in lines)


def test_a_terminal_shows_the_text_in_colour_unless_told_not_to(
    capsys, monkeypatch, trained, tmp_path
):
    path = tmp_path / "text.txt"
    path.write_text("The cat\nThe tac\n", encoding="utf-8")

    def shown() -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert charlm(["eval", "tokens", str(trained), str(path)]) == 0
        return capsys.readouterr().out

    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = shown()
    assert "\x1b[38;5;16;48;5;" in coloured
    assert "bits: " in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown()


def test_runs_are_compared_on_the_first_ones_text(capfd, trained, words):
    found = parsed(capfd, "compare", trained, words, "--block", 50)
    first, second = found["runs"]
    score, other = (parsed(capfd, "perplexity", folder) for folder in (trained, words))
    for run, expected in ((first, score), (second, other)):
        assert run["bits_per_character"] == pytest.approx(expected["bits_per_character"], rel=1e-4)
        assert (run["tokens"], run["step"]) == (expected["tokens"], expected["settings"]["step"])
    (row,) = found["differences"]
    assert row["bits_per_character"] == pytest.approx(
        second["bits_per_character"] - first["bits_per_character"]
    )
    assert row["low"] < row["bits_per_character"] < row["high"]
    assert found["settings"]["blocks"] > 5
    parameters = json.loads(ok(capfd, "inspect", words, "--json"))["parameters"]
    assert (second["parameters"], second["settings"]["level"]) == (parameters, "word")


def test_a_text_is_compared_across_modes_and_unknown_words(
    capfd, trained, trained_records, words, tmp_path
):
    path = tmp_path / "text.txt"
    path.write_text("\ufeffThe cat, Zoë\n\n" + TEXT[:300] + "no end", encoding="utf-8")
    found = parsed(capfd, "compare", trained, trained_records, words, "--text", path)
    assert [row["settings"]["mode"] for row in found["runs"]] == ["stream", "records", "stream"]
    assert all(row["unknown_share"] > 0 for row in found["runs"])
    assert found["settings"]["characters"] == 14 + 300 + 6
    for row, run in zip(found["differences"], found["runs"][1:], strict=True):
        assert row["run"] == run["run"]
        assert row["low"] <= row["bits_per_character"] <= row["high"]


def test_the_text_is_utf_8_and_keeps_its_separators_whatever_the_corpus_had(capfd, tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_bytes("Un été ici.\nQQQ\nLà, un été.\nQQQ\n".encode("latin-1") * 30)
    config = small_config(
        text, "corpus.encoding=latin-1", "corpus.separator=QQQ", "training.steps=2"
    )
    train_all(config, tmp_path / "run")
    path = tmp_path / "text.txt"
    path.write_text("Un été là.\nLà.QQQ\nLà.\n", encoding="utf-8")
    (run, _) = parsed(capfd, "compare", tmp_path / "run", tmp_path / "run", "--text", path)["runs"]
    assert run["tokens"] == 22 + 1  # And <EOS> where it ends.
    assert run["unknown_share"] == pytest.approx(4 / 23)  # Of Q and of the l.


def test_a_string_is_scored_as_what_it_says_whatever_encoding_the_corpus_is_in(tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_bytes("Un été ici, là un été.\n".encode("latin-1") * 30)
    train_all(small_config(text, "corpus.encoding=latin-1", "training.steps=2"), tmp_path / "run")
    assert load(tmp_path / "run").perplexity("Un été là.").unknown_share == 0


def test_a_run_does_not_differ_from_itself(capfd, trained):
    (row,) = parsed(capfd, "compare", trained, trained)["differences"]
    assert (row["bits_per_character"], row["low"], row["high"]) == (0, 0, 0)


def test_a_text_of_one_line_gives_no_interval(capfd, trained, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The cat sat on the mat.", encoding="utf-8")
    found = parsed(capfd, "compare", trained, trained, "--text", path)
    (row,) = found["differences"]
    assert (found["settings"]["blocks"], row["low"], row["high"]) == (1, None, None)
    line = ok(capfd, "eval", "compare", trained, trained, "--text", path).splitlines()[-2]
    assert line.split()[1:] == ["+0.0000", "-", "-"]


def test_a_comparison_needs_two_runs_and_a_text(capfd, trained, tmp_path):
    assert "two runs at least; got 1" in refused(capfd, 2, "compare", trained)
    with pytest.raises(CharlmError, match="two runs at least, got 1"):
        load(trained).compare([])
    assert "cannot be read" in refused(
        capfd, 1, "compare", trained, trained, "--text", tmp_path / "no.txt"
    )
    assert "has no test part" in refused(capfd, 1, "compare", trained, trained, "--split", "test")
    path = tmp_path / "text.txt"
    path.write_bytes(b"caf\xe9")
    assert "byte 3 (0xe9) is not UTF-8" in refused(
        capfd, 1, "compare", trained, trained, "--text", path
    )
    path.write_bytes(b"")
    refused(capfd, 1, "compare", trained, trained, "--text", path)
    refused(capfd, 1, "tokens", trained, path)
