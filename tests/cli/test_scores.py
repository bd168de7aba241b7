"""`charlm eval sentences`, `tokens` and `compare` as a user types them."""

import io
import json
import math
import sys

import pytest
from cli import running
from cli.running import ok
from conftest import TEXT, small_config, train_all
from trainings import metrics_of

from charlm.api import load
from charlm.cli.main import run as charlm
from charlm.errors import CharlmError, CorpusError

SALADS = "The apple and pair salad\n\nThe apple and pear salad\nThe cat sat on the mat.\n"


def parsed(capfd, *arguments: object) -> dict:
    return json.loads(ok(capfd, "eval", *arguments, "--json"))


def refused(capfd, *arguments: object, status: int = 1) -> str:
    return running.refused(capfd, "eval", *arguments, status=status)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "text.txt"


@pytest.fixture(scope="session")
def words(text_file, tmp_path_factory, cache):
    """A run folder of a model of words, on the same text as `trained`."""
    folder = tmp_path_factory.mktemp("runs") / "words"
    train_all(small_config(text_file, "tokenizer.level=word", "training.steps=20"), folder)
    return folder


def test_sentences_are_in_the_order_of_the_file_or_ranked(capfd, trained, file):
    file.write_text(SALADS, encoding="utf-8")
    result = parsed(capfd, "sentences", trained, file)
    rows = result["sentences"]
    assert [(row["line"], row["tokens"]) for row in rows] == [(1, 24), (3, 24), (4, 23)]
    assert result["settings"]["end"] == "not predicted"
    ranked = parsed(capfd, "sentences", trained, file, "--ranked")["sentences"]
    assert ranked == sorted(rows, key=lambda row: -row["log_probability"])
    assert ranked[0]["line"] == 4
    lines = ok(capfd, "eval", "sentences", trained, file, "--ranked").splitlines()
    assert lines[1].split()[0] == "4" and lines[1].endswith("The cat sat on the mat.")
    assert len(lines) == 5


def test_sentences_of_standard_input_are_explained_token_by_token(
    capfd, monkeypatch, trained_records
):
    def provide_input() -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"bara\n")))

    provide_input()
    (row,) = parsed(capfd, "sentences", trained_records, "-", "--explain")["sentences"]
    assert [token["text"] for token in row["explained"]] == ["b", "a", "r", "a", "<EOS>"]
    total = sum(token["log_probability"] for token in row["explained"])
    assert total == pytest.approx(row["log_probability"], rel=1e-5)
    provide_input()
    lines = ok(capfd, "eval", "sentences", trained_records, "-", "--explain").splitlines()
    first = row["explained"][0]
    expected = [f"{first['log_probability']:.4f}", f"{first['probability']:.2%}", "'b'"]
    assert lines[2].split() == expected


def test_sentences_need_one_file(capfd, trained, file):
    error = refused(capfd, "sentences", trained, status=2)
    assert "must name a file with one sentence per line, or - for stdin" in error
    file.write_bytes(b"")
    assert "has no sentence" in refused(capfd, "sentences", trained, file)
    with pytest.raises(CharlmError, match="no sentence to score"):
        load(trained).sentences()


@pytest.mark.parametrize("kind", ["trained", "trained_records", "words"])
def test_the_surprisal_of_all_tokens_is_the_loss_of_perplexity(capfd, request, kind):
    folder = request.getfixturevalue(kind)
    result = parsed(capfd, "tokens", folder)
    score = parsed(capfd, "perplexity", folder)
    assert result["tokens"] == score["tokens"] == len(result["each"])
    assert result["loss_nats"] == pytest.approx(score["loss_nats"], rel=1e-5)
    mean = sum(token["surprise_bits"] for token in result["each"]) / len(result["each"])
    assert mean == pytest.approx(result["surprise_bits"])
    assert mean == pytest.approx(result["loss_nats"] / math.log(2))
    assert result["settings"]["text"] == "valid"


def test_words_that_the_training_text_does_not_have_are_rare(capfd, trained, file):
    file.write_text("The catdog sat.\n", encoding="utf-8")
    rows = parsed(capfd, "tokens", trained, file)["by_class"]
    tokens = {row["class"]: row["tokens"] for row in rows}
    assert (tokens["rare words"], tokens["letters"], tokens["spaces"]) == (6, 6, 3)


def test_without_a_terminal_tokens_are_listed(capfd, trained, file):
    file.write_text("The cat\n", encoding="utf-8")
    tokens = parsed(capfd, "tokens", trained, file)["each"][:2]
    out = ok(capfd, "eval", "tokens", trained, file, "--show", 2)
    assert "\x1b" not in out
    lines = out.splitlines()
    expected = [f"{token['surprise_bits']:>9.3f}  {token['text']!r}" for token in tokens]
    assert lines[:4] == [f"{'bits':>9}  token", *expected, ""]
    assert lines[4].split() == ["tokens", "share", "bits/token", "share", "of", "bits"]
    assert any(line.split()[:2] == ["letters", "6"] for line in lines)


def test_a_terminal_shows_the_text_in_colour_unless_no_color_is_set(
    capsys, monkeypatch, trained, file
):
    file.write_text("The cat\nThe tac\n", encoding="utf-8")

    def shown() -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert charlm(["eval", "tokens", str(trained), str(file)]) == 0
        return capsys.readouterr().out

    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = shown()
    assert "\x1b[38;5;16;48;5;" in coloured
    assert "bits: " in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown()


def test_a_comparison_that_is_wider_than_the_terminal_is_printed_in_parts(
    capfd, monkeypatch, trained, words
):
    arguments = ["eval", "compare", trained, words, "--block", 50]
    (names, *_) = ok(capfd, *arguments).splitlines()
    monkeypatch.setenv("COLUMNS", str(max(len(str(trained)), len(str(words)), 24) + 5 * 13))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = ok(capfd, *arguments).splitlines()[:11]
    assert [line.strip() for line in lines[3::4]] == ["", ""]
    assert " ".join(lines[::4]).split() == names.split()
    assert [line.split()[0] for line in lines[1::4]] == [str(trained)] * 3
    assert [line.split()[0] for line in lines[2::4]] == [str(words)] * 3


def test_runs_are_compared_on_the_first_run_s_text(capfd, trained, words):
    result = parsed(capfd, "compare", trained, words, "--block", 50)
    first, second = result["runs"]
    score, other = (parsed(capfd, "perplexity", folder) for folder in (trained, words))
    for run, expected in ((first, score), (second, other)):
        assert run["bits_per_character"] == pytest.approx(expected["bits_per_character"], rel=1e-4)
        assert (run["tokens"], run["step"]) == (expected["tokens"], expected["settings"]["step"])
    (row,) = result["differences"]
    difference = second["bits_per_character"] - first["bits_per_character"]
    assert row["bits_per_character"] == pytest.approx(difference)
    assert row["low"] < row["bits_per_character"] < row["high"]
    assert result["settings"]["blocks"] > 5
    table = ok(capfd, "eval", "compare", trained, words, "--block", 50)
    assert "blocks" in table
    # They are of a method that is no longer used.
    assert "resamples" not in table and ", seed " not in table
    parameters = json.loads(ok(capfd, "inspect", words, "--json"))["parameters"]
    assert (second["parameters"], second["settings"]["level"]) == (parameters, "word")


def test_runs_of_other_modes_and_vocabularies_are_compared(
    capfd, trained, trained_records, words, file
):
    file.write_text("\ufeffThe cat, Zoë\n\n" + TEXT[:300] + "no end", encoding="utf-8")
    result = parsed(capfd, "compare", trained, trained_records, words, "--text", file)
    assert [row["settings"]["mode"] for row in result["runs"]] == ["stream", "records", "stream"]
    assert all(row["unknown_share"] > 0 for row in result["runs"])
    assert result["settings"]["characters"] == 14 + 300 + 6
    for row, run in zip(result["differences"], result["runs"][1:], strict=True):
        assert row["run"] == run["run"]
        assert row["low"] <= row["bits_per_character"] <= row["high"]


@pytest.fixture(scope="module")
def latin_run(tmp_path_factory, cache):
    """A run on a text in Latin-1 with separators between documents."""
    folder = tmp_path_factory.mktemp("latin")
    text = "Un été ici.\nQQQ\nLà, un été.\nQQQ\n".encode("latin-1") * 30
    (folder / "corpus.txt").write_bytes(text)
    overrides = ["corpus.encoding=latin-1", "corpus.separator=QQQ", "training.steps=2"]
    train_all(small_config(folder / "corpus.txt", *overrides), folder / "run")
    return folder / "run"


def test_a_compared_text_is_utf_8_and_its_separators_are_eos(capfd, latin_run, file):
    file.write_text("Un été là.\nLà.QQQ\nLà.\n", encoding="utf-8")
    (run, _) = parsed(capfd, "compare", latin_run, latin_run, "--text", file)["runs"]
    assert run["tokens"] == 22 - 3 + 1 + 1  # <EOS> instead of QQQ, and at the end.
    assert run["unknown_share"] == pytest.approx(1 / 21)  # l.


def test_a_string_is_scored_whatever_the_encoding_of_the_corpus(latin_run):
    assert load(latin_run).perplexity("Un été, un.").unknown_share == 0


def test_a_run_does_not_differ_from_itself(capfd, trained):
    (row,) = parsed(capfd, "compare", trained, trained)["differences"]
    assert (row["bits_per_character"], row["low"], row["high"]) == (0, 0, 0)


def test_a_text_of_one_line_has_no_interval(capfd, trained, file):
    file.write_text("The cat sat on the mat.", encoding="utf-8")
    result = parsed(capfd, "compare", trained, trained, "--text", file)
    (row,) = result["differences"]
    assert (result["settings"]["blocks"], row["low"], row["high"]) == (1, None, None)
    line, footer = ok(capfd, "eval", "compare", trained, trained, "--text", file).splitlines()[-2:]
    assert line.split()[1:] == ["+0.0000", "-", "-"]
    assert "blocks" not in footer and "confidence" not in footer


def test_an_empty_text_is_named_as_it_was_given(capfd, trained, trained_records, file):
    file.write_text("", encoding="utf-8")
    assert charlm(["eval", "compare", str(trained), str(trained), "--text", str(file)]) == 1
    assert capfd.readouterr().err.startswith(f"charlm: {file}: is empty; give at least two ")
    file.write_text("\n\n", encoding="utf-8")
    assert charlm(["eval", "compare", str(trained), str(trained_records), "--text", str(file)]) == 1
    assert capfd.readouterr().err.startswith(f"charlm: {file}: contains nothing but empty lines; ")
    for text, problem in (("", "is empty"), ("a", "has a single character")):
        with pytest.raises(CorpusError, match=f"^the string: {problem}; "):
            load(trained).perplexity(text)
    with pytest.raises(CorpusError, match=r"^the string: contains nothing but empty lines; "):
        load(trained_records).perplexity("\n\n")


def test_runs_with_different_budgets_are_compared_with_a_warning(capfd, trained, file, tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    budgets = {
        "steps": ["training.steps=2"],
        "passes": ["training.steps=null", "training.epochs=1"],
    }
    for name, overrides in budgets.items():
        train_all(small_config(tmp_path / "corpus.txt", *overrides), tmp_path / name)
    runs = [str(tmp_path / name) for name in budgets]
    assert charlm(["eval", "compare", *runs, runs[0]]) == 0
    out, err = capfd.readouterr()
    assert err.startswith("warning: the runs had different training budgets: ")
    assert "steps 2 steps of " in err and "passes 1 epoch" in err and err.count("\n") == 1
    assert "epochs" not in err
    assert "The intervals assume that the thirds of the text are independent" in out
    assert "below 200,000 characters, as here, they are often too narrow" in out
    assert charlm(["eval", "compare", runs[0], runs[0]]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", ["perplexity", "tokens", "gradients", "compare"])
def test_a_split_is_refused_beside_a_text_of_which_it_chooses_no_part(
    capfd, trained, text_file, command
):
    text = ["--text", text_file] if command == "compare" else [text_file]
    runs = [trained] * (1 + (command == "compare"))
    error = refused(capfd, command, *runs, *text, "--split", "test", status=2)
    assert "--split: cannot be combined with" in error and "the whole text is scored" in error


def test_a_comparison_needs_two_runs_and_a_text(capfd, trained, file):
    assert "must be at least two runs, got 1" in refused(capfd, "compare", trained, status=2)
    with pytest.raises(CharlmError, match="two runs at least, got 1"):
        load(trained).compare([])
    compare = ["compare", trained, trained]
    assert "cannot be read" in refused(capfd, *compare, "--text", file)
    assert "has no test part" in refused(capfd, *compare, "--split", "test")
    file.write_bytes(b"caf\xe9")
    assert "byte 3 (0xe9) is not UTF-8" in refused(capfd, *compare, "--text", file)
    file.write_bytes(b"")
    refused(capfd, *compare, "--text", file)
    refused(capfd, "tokens", trained, file)


def test_unknown_words_are_paid_for_in_bits_per_character(capfd, trained, words, file):
    file.write_text("Xylophone quartz vexed jumbo fjord gymnast.\n" * 3, encoding="utf-8")
    score = parsed(capfd, "perplexity", words, file)
    assert score["unknown_share"] > 0.7
    bits = math.log(2) * score["characters"]
    tokens_nats = score["loss_nats"] * score["tokens"]
    assert score["token_bits_per_character"] == pytest.approx(tokens_nats / bits)
    total = tokens_nats + score["restoration_nats"]
    assert score["bits_per_character"] == pytest.approx(total / bits)
    assert score["restoration_nats"] > 6 * 8 * math.log(2)
    assert score["perplexity"] == pytest.approx(math.exp(score["loss_nats"]))
    # The model of words, which reads hardly more than <UNK>, seemed to be better by far.
    one, other = parsed(capfd, "compare", trained, words, "--text", file)["runs"]
    assert other["token_bits_per_character"] < one["token_bits_per_character"]
    assert other["bits_per_character"] == pytest.approx(score["bits_per_character"], rel=0.05)


def test_a_text_without_unknown_tokens_has_the_bits_of_its_tokens(capfd, trained):
    score = parsed(capfd, "perplexity", trained)
    nats = score["loss_nats"] * score["tokens"]
    assert score["restoration_nats"] == 0
    assert score["bits_per_character"] == score["token_bits_per_character"]
    assert score["bits_per_character"] == pytest.approx(nats / math.log(2) / score["characters"])


def test_what_normalization_loses_is_named_and_not_compared(capfd, trained, tmp_path, file):
    path = tmp_path / "decomposed.txt"
    path.write_text("Cafe\u0301 au lait. Th\u00e9 au citron.\n" * 60, encoding="utf-8")
    folder = tmp_path / "run"
    overrides = ["tokenizer.normalization=nfc", "tokenizer.lowercase=true", "training.steps=2"]
    train_all(small_config(path, *overrides), folder)
    score = parsed(capfd, "perplexity", folder)
    assert score["bits_per_character"] is score["bits_per_byte"] is None
    assert score["token_bits_per_character"] > 0
    settings = score["settings"]
    assert (settings["lowercase"], settings["normalization"]) == (True, "nfc")
    shown = ok(capfd, "eval", "perplexity", folder)
    assert "bits_per_character                    -\n" in shown
    error = refused(capfd, "compare", trained, folder, "--text", path)
    assert "normalization nfc changes the text" in error
    (line, *_) = metrics_of(folder)
    assert line["bits_per_character"] is None and line["unknown_share"] == 0


def test_unknown_characters_of_a_passage_of_memory_are_named(capfd, trained):
    assert charlm(["eval", "memory", str(trained), "--text", "The Žea Ž"]) == 0
    assert "2 unknown characters in 1 text, read as <UNK>: 'Ž' 2\n" in capfd.readouterr().err


def test_sentences_that_are_mostly_unknown_are_named(capfd, words, file):
    file.write_text("The cat sat.\nXylophone quartz vexed.\nThe vexed\n", encoding="utf-8")
    arguments = ["eval", "sentences", str(words), str(file)]
    assert charlm(arguments) == 0
    error = capfd.readouterr().err
    assert error.startswith("line 2: most tokens are <UNK>") and error.count("\n") == 1
    file.write_text("The cat sat.\n", encoding="utf-8")
    assert charlm(arguments) == 0
    assert not capfd.readouterr().err


def test_settings_are_folded_on_a_terminal_and_one_line_elsewhere(
    capfd, monkeypatch, trained, file
):
    arguments = ["eval", "perplexity", str(trained)]
    settings = ok(capfd, *arguments).splitlines()[-1]
    assert settings.startswith("run ") and settings.endswith("precision fp32")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    lines = ok(capfd, *arguments).splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["run"])
    assert len(lines[start:]) > 3
    # The path of the run folder may be longer than a line, and stays in one piece.
    assert all(len(line) <= 60 or " " not in line.strip() for line in lines[start + 1 :])
    assert " ".join(line.strip() for line in lines[start:]) == settings


def test_a_text_to_score_is_utf8_or_in_the_encoding_of_the_run_and_the_score_says_so(
    capfd, tmp_path, trained, file
):
    text = "Thé au café, s’il vous plaît.\n"
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes((text * 60).encode("cp1252"))
    folder = tmp_path / "run"
    train_all(small_config(corpus, "corpus.encoding=cp1252", "training.steps=2"), folder)
    scores = []
    for encoding, suffix in [("utf-8", ""), ("cp1252", " in cp1252")]:
        file.write_bytes(text.encode(encoding))
        scores.append(parsed(capfd, "perplexity", folder, file))
        assert scores[-1]["settings"]["text"] == f"{file}{suffix}"
    assert scores[0]["loss_nats"] == scores[1]["loss_nats"]
    assert scores[0]["unknown_share"] == scores[1]["unknown_share"] == 0
    error = refused(capfd, "perplexity", trained, file)
    assert "is not utf-8; it looks like cp1252; save it as UTF-8" in error and "--set" not in error


def test_a_combining_mark_is_shown_as_its_code_point(capfd, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("cafe\u0301 the\u0301 cat.\n" * 60, encoding="utf-8")
    train_all(small_config(text, "training.steps=2"), tmp_path / "run")
    assert charlm(["eval", "tokens", str(tmp_path / "run"), "--show", "30"]) == 0
    out = capfd.readouterr().out
    assert "  U+0301\n" in out and "'\u0301" not in out


def test_a_model_of_lines_pays_for_empty_lines_in_a_comparison(capfd, trained_records, file):
    costs = []
    for text in ("bara\nmena\n" * 20, "bara\n\nmena\n\n" * 20):
        file.write_text(text, encoding="utf-8")
        result = parsed(capfd, "compare", trained_records, trained_records, "--text", file)
        costs.append(result["runs"][0]["restoration_nats"])
    assert costs[0] == 0 < costs[1]
