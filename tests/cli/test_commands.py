"""The commands: what they print, on which stream, and with which exit status."""

import contextlib
import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import torch
from cli.running import ok, refused
from conftest import SMALL, TEXT, small_config, train_all

from charlm.cli.main import run as charlm
from charlm.config.load import load_config
from charlm.data import cards
from charlm.data.builders.table import BUILDERS
from charlm.errors import CharlmError
from charlm.runs import session
from charlm.runs.checkpoint import load_checkpoint
from charlm.training.loop import Progress, train

pytestmark = pytest.mark.usefixtures("empty_folder")
SETTINGS = [part for override in SMALL for part in ("--set", override)]


def standard_input(monkeypatch, data: bytes) -> None:
    """Let a command that runs in this process read `data` from stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


@pytest.mark.parametrize(
    ("level", "overrides"),
    [
        ("char", []),
        ("byte", []),
        ("word", []),
        ("word", ["tokenizer.words=whitespace"]),
        ("bpe", ["tokenizer.vocabulary_size=300"]),
        ("char", ["corpus.mode=records"]),
        ("word", ["corpus.mode=records"]),
        (
            "char",
            ["model.cell=gru", "model.num_layers=2", "model.skip=residual", "model.dropout=0.1"],
        ),
        ("char", ["model.cell={kind: elman, activation: sigmoid}", "model.tied=true"]),
        ("char", ["tokenizer.eos=line", "tokenizer.lowercase=true", "training.optimizer=rmsprop"]),
    ],
)
def test_train_then_sample_then_eval_then_inspect(capfd, text_file, level, overrides):
    changes = [
        part
        for override in [f"tokenizer.level={level}", *overrides]
        for part in ("--set", override)
    ]
    folder = ok(capfd, "train", text_file, *SETTINGS, *changes, "--steps", 4).strip()
    assert Path(folder).parent == Path("runs")
    assert ok(capfd, "sample", "--length", 20, "--temperature", 0.8)
    score = json.loads(ok(capfd, "eval", "perplexity", "--json"))
    assert score["loss_nats"] > 0 and score["settings"]["text"] == "valid"
    inspected = json.loads(ok(capfd, "inspect", "--json"))
    assert inspected["parameters"] == sum(row["parameters"] for row in inspected["tensors"])


def test_results_go_to_stdout_and_everything_else_to_stderr(capfd, text_file):
    assert charlm(["train", str(text_file), *SETTINGS, "--steps", "4", "--out", "here"]) == 0
    out, err = capfd.readouterr()
    assert out == "here\n"
    assert "validation" in err and "\r" not in err  # No bar where stderr is no terminal.


@contextlib.contextmanager
def a_terminal(columns: int) -> Iterator[tuple[TextIO, bytearray]]:
    """Open a terminal; yield a stream to write on it, and the bytes that it has got by the end."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    got = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # On Linux: the other end is closed.
            while data := os.read(ours, 4096):
                got.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as stream:
            yield stream, got
    finally:
        reader.join()
        os.close(ours)


@pytest.mark.parametrize("columns", [80, 100])
def test_a_terminal_shows_a_bar_and_a_short_sample_per_evaluation(
    text_file, columns, monkeypatch, capfd
):
    train = ["train", str(text_file), *SETTINGS, "--steps", "40", "--out", "here"]
    with a_terminal(columns) as (stream, seen), monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        assert charlm(train) == 0
    assert capfd.readouterr().out == "here\n"
    lines = seen.decode()
    assert re.search(r"\d+% \|.*\| \d\.\d+ bits per character, [\d,]+ tokens/s", lines)
    # A line of the terminal is what remains of a line after its last carriage return.
    shown = [line.rpartition("\r")[2] for line in lines.replace("\r\n", "\n").split("\n")]
    assert all(len(line) <= columns for line in shown)
    assert shown[0].startswith("text: ")
    assert any(line.startswith("train: ") for line in shown)  # No bar is before it.
    _, *evaluations = re.split(r"(?m)^step \d+.*", "\n".join(shown))
    samples = [re.findall(r"(?m)^  .*", evaluation) for evaluation in evaluations]
    assert len(samples) == 2 and all(samples)
    assert all(
        set(line) <= set(TEXT) for sample in samples for line in sample if "best" not in line
    )


def test_a_run_with_a_spent_budget_states_how_to_continue(capfd, text_file):
    ok(capfd, "train", text_file, *SETTINGS, "--steps", 3, "--out", "run")
    message = (
        "nothing is left to train in run: its budget is a total, 2 steps, and it has used 3 steps"
    )
    assert f"--steps: {message}; give a larger total, such as --steps 5" in refused(
        capfd, "train", "--resume", "run", "--steps", 2
    )
    assert "it has used 3 steps" in refused(capfd, "train", "--resume", "run")
    ok(capfd, "train", "--resume", "run", "--steps", 5)
    assert json.loads(Path("run/last/state.json").read_text())["step"] == 5


def test_without_a_text_the_example_corpus_is_named(capfd, monkeypatch, tmp_path):
    def stop(*arguments, **options):
        raise CharlmError("stop here")

    # test_builders.py builds a part of the corpus, and the whole one in a slow test.
    monkeypatch.setitem(BUILDERS, "python-docs", lambda: iter([TEXT]))
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("charlm.runs.automatic.choice.choose", stop)
    monkeypatch.setattr("charlm.tuning.search.tune", stop)
    search = ["--search", "training.learning_rate=1e-3..1e-2", "--trials", "1"]
    for arguments in (["train"], ["train", "--seeds", "1..2"], ["tune", *search]):
        assert charlm(arguments) == 1
        error = capfd.readouterr().err
        assert "no text was given: training on the example corpus python-docs" in error, arguments
    assert charlm(["train", "text.txt"]) == 1
    assert "example corpus" not in capfd.readouterr().err


def test_a_training_that_does_not_use_its_minutes_says_why(capfd, text_file, monkeypatch):
    monkeypatch.setattr(
        "charlm.runs.automatic.device.measured_speed", lambda *_, **__: lambda _: 1e6
    )
    monkeypatch.setattr("charlm.runs.automatic.plan.MAX_PASSES", 0.5)
    reason = "the budget was passes instead of minutes"
    assert charlm(["train", str(text_file), *SETTINGS, "--minutes", "5"]) == 0
    error = capfd.readouterr().err
    assert "stops after these passes, and not after 5 minutes" in error
    assert "config.yaml; to change them, train a copy with --config" in error
    assert reason in error.splitlines()[-1]
    assert charlm(["train", str(text_file), *SETTINGS, "--minutes", "5", "--seeds", "1..2"]) == 0
    assert reason in capfd.readouterr().err.splitlines()[-1]
    assert charlm(["train", str(text_file), *SETTINGS, "--epochs", "0.5"]) == 0
    assert reason not in capfd.readouterr().err


def test_several_processes_keep_the_budget_that_was_chosen(capfd, text_file, monkeypatch):
    monkeypatch.setattr(
        "charlm.runs.automatic.device.measured_speed", lambda *_, **__: lambda _: 1e6
    )
    monkeypatch.setattr("charlm.runs.automatic.plan.MAX_PASSES", 0.5)
    launched = []

    def launch(processes, command, *, signals):
        launched.append(command)
        return 0

    monkeypatch.setattr("charlm.training.process_group.launch", launch)
    begin = ["train", str(text_file), *SETTINGS, "--minutes", "5", "--out", "run"]
    assert charlm([*begin, "--processes", "2"]) == 128 + signal.SIGTERM  # No process has trained.
    config = load_config("run/config.yaml")
    assert (config.training.minutes, config.training.epochs) == (None, 0.5)
    resume = ["train", "--resume", "run"]
    assert charlm([*resume, "--minutes", "1", "--processes", "2"]) == 128 + signal.SIGTERM
    assert launched == [resume, [*resume, "--minutes", "1.0"]]
    capfd.readouterr()


def test_early_stopping_is_reported(capfd, text_file):
    changes = ["--set", "training.patience=1", "--set", "training.learning_rate=1e-30"]
    assert (
        charlm(["train", str(text_file), *SETTINGS, *changes, "--steps", "8", "--out", "run"]) == 0
    )
    assert "no new best in 1 evaluation\n" in capfd.readouterr().err


def test_a_divergence_is_one_line_that_follows_the_last_good_checkpoint(capfd, text_file):
    changes = [
        "--set",
        "training.learning_rate=1e30",
        "--set",
        "training.clipnorm=1e30",
        "--set",
        "checkpoint.save_seconds=1e-9",
    ]
    assert (
        charlm(["train", str(text_file), *SETTINGS, *changes, "--steps", "50", "--out", "run"]) == 1
    )
    *_, kept, command, problem = capfd.readouterr().err.splitlines()
    assert kept == "the last good checkpoint is kept: run/last"
    assert command.endswith(": charlm train --resume run --on-divergence halve")
    assert "lower training.learning_rate" in problem
    assert problem.endswith(", or set training.on_divergence=halve")
    resume = ["--resume", "run", "--on-divergence", "halve"]
    assert charlm(["train", *resume]) == 1
    assert "--on-divergence" not in capfd.readouterr().err


def test_config_show_prints_a_file_to_train_with(capfd, text_file):
    arguments = [*SETTINGS, "--set", f"corpus.text={text_file}", "--set", "training.steps=3"]
    Path("mine.yaml").write_text(ok(capfd, "config", "show", *arguments), encoding="utf-8")
    folder = ok(capfd, "train", "--config", "mine.yaml").strip()
    assert folder.startswith("runs/mine-")


def test_eval_scores_a_text_and_states_the_settings_of_the_score(capfd, trained, text_file):
    score = json.loads(ok(capfd, "eval", "perplexity", trained, text_file, "--json"))
    assert score["characters"] == len(TEXT)
    assert score["tokens"] == len(TEXT) + 1  # <EOS> ends the document.
    for name in (
        "level",
        "mode",
        "state",
        "training_seed",
        "version",
        "step",
        "checkpoint",
        "precision",
        "text",
    ):
        assert name in score["settings"]
    assert score["perplexity"] < score["unigram_perplexity"]


def test_eval_of_a_text_without_a_run_uses_the_newest_run(capfd, trained, text_file):
    shutil.copytree(trained, "runs/newest")
    assert (
        json.loads(ok(capfd, "eval", "perplexity", text_file, "--json"))["settings"]["run"]
        == "runs/newest"
    )


def test_a_run_is_named_as_first_argument_or_with_run_in_every_command(capfd, trained):
    text = Path("text.txt")
    text.write_text(TEXT[:600], encoding="utf-8")
    ok(capfd, "compress", trained, text, "--out", "a.charlm")
    forms = {
        "sample": ["--seed", 1, "--length", 9],
        "inspect": [],
        "eval perplexity": [text],
        "eval agreement": ["--sentences", 8],
        "eval gradients": [text, "--window", 4, "--windows", 2],
        "eval tokens": [text, "--show", 5],
        "eval novelty": [text],
        "eval sentences": [text],
        "compress": [text, "--out", "-"],
        "decompress": ["a.charlm", "--out", "-"],
    }
    for command, rest in forms.items():
        first = ok(capfd, *command.split(), trained, *rest)
        named = ok(capfd, *command.split(), *rest, "--run", trained)
        assert re.sub(r"seconds.*", "", first) == re.sub(r"seconds.*", "", named), command
    shutil.copytree(trained, "runs/newest")
    assert ok(capfd, "decompress", "a.charlm", "--out", "-") == text.read_text(encoding="utf-8")
    error = refused(capfd, "eval", "perplexity", "missing", "--run", trained)
    assert "missing" in error  # With --run it can only be a text.


def test_eval_can_fit_the_temperature(capfd, trained):
    scores = {
        way: json.loads(ok(capfd, "eval", "perplexity", trained, "--temperature", way, "--json"))
        for way in ("fit", "1", "2.5")
    }
    assert scores["fit"]["loss_nats"] < scores["1"]["loss_nats"] < scores["2.5"]["loss_nats"]
    assert scores["2.5"]["settings"]["temperature"] == 2.5


def test_eval_prints_a_table(capfd, trained):
    table = ok(capfd, "eval", "perplexity", trained)
    assert re.search(r"^bits_per_character +\d\.\d{4}$", table, re.MULTILINE)


def test_eval_shows_the_static_and_the_adapted_score_separately(capfd, trained):
    arguments = [
        "eval",
        "perplexity",
        trained,
        "--dynamic",
        "--cache",
        "--mix-ngram",
        3,
        "--segment",
        40,
        "--fit-tokens",
        200,
    ]
    score = json.loads(ok(capfd, *arguments, "--json"))
    static = json.loads(ok(capfd, "eval", "perplexity", trained, "--json"))
    assert static["adapted"] is None and score["loss_nats"] == static["loss_nats"]
    names = {
        "loss_nats",
        "perplexity",
        "bits_per_character",
        "bits_per_byte",
        "seconds",
        "settings",
    }
    assert set(score["adapted"]) == names
    table = ok(capfd, *arguments).splitlines()
    assert table[0].split() == ["static", "adapted"]
    cells = f"{score['loss_nats']:.4f}", f"{score['adapted']['loss_nats']:.4f}"
    assert table[1].split() == ["loss_nats", *cells]
    (line,) = [line for line in table if line.startswith("adapted: ")]
    assert "fitted_on the first 200 tokens of valid" in line and "dynamic (learning_rate " in line
    assert "adaptation fitted on the scored text: the score is better than on other texts" in table


def test_eval_prints_baselines_below_the_score(capfd, trained):
    table = ok(capfd, "eval", "perplexity", trained, "--baselines").splitlines()
    head = table.index(next(line for line in table if line.startswith("baselines")))
    assert table[head].split()[1:] == [
        "loss_nats",
        "perplexity",
        "bits_per_character",
        "bits_per_byte",
    ]
    assert re.search(r"^Kneser-Ney 5-gram +\d+\.\d{4} ", "\n".join(table[head:]), re.MULTILINE)
    assert re.search(r"^lzma.* - +- +\d+\.\d{4} ", "\n".join(table[head:]), re.MULTILINE)


def test_eval_reads_standard_input_once_for_score_and_baselines(
    capfd, monkeypatch, trained, text_file
):
    standard_input(monkeypatch, text_file.read_bytes())
    score = json.loads(ok(capfd, "eval", "perplexity", trained, "-", "--baselines", "--json"))
    assert score["characters"] == len(TEXT) and len(score["baselines"]) > 4


@pytest.mark.parametrize(
    ("options", "status", "problem"),
    [
        (["--cache"], 1, "--cache: looks back over one long text"),
        (["--mix-ngram", "0"], 2, "--mix-ngram"),
        (["--dynamic", "--segment", "0"], 2, "--segment"),
    ],
)
def test_eval_refuses_undefined_measures(capfd, trained_records, options, status, problem):
    assert problem in refused(capfd, "eval", "perplexity", trained_records, *options, status=status)


def test_the_same_seed_samples_the_same_text(capfd, trained):
    texts = {ok(capfd, "sample", trained, "--seed", 5, "--length", 40) for _ in range(2)}
    assert len(texts) == 1
    assert ok(capfd, "sample", trained, "--seed", 6, "--length", 40) not in texts


def test_a_sample_begins_with_its_prompt_and_has_its_length(capfd, trained):
    text = ok(capfd, "sample", trained, "--prompt", "The cat", "--length", 30, "--seed", 1)
    assert text.startswith("The cat") and len(text) == len("The cat") + 30 + 1


def test_a_prompt_can_come_from_standard_input(capfd, monkeypatch, trained):
    standard_input(monkeypatch, b"The dog")
    assert ok(capfd, "sample", trained, "--prompt", "-", "--length", 5).startswith("The dog")


def test_json_samples_are_one_line_each_with_their_settings(capfd, trained):
    lines = ok(
        capfd, "sample", trained, "--count", 3, "--json", "--seed", 2, "--length", 10
    ).splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["number"] for sample in samples] == [0, 1, 2]
    assert all(sample["seed"] == 2 and len(sample["tokens"]) == 10 for sample in samples)


def test_streamed_and_batched_samples_of_a_seed_are_equal(capfd, trained):
    streamed = ok(capfd, "sample", trained, "--seed", 3, "--length", 50)
    batched = json.loads(
        ok(capfd, "sample", trained, "--seed", 3, "--length", 50, "--count", 1, "--json")
    )
    assert streamed == batched["text"] + "\n"


def test_novel_records_are_not_in_the_training_text_and_do_not_repeat(
    capfd, trained_records, records_file
):
    names = ok(capfd, "sample", trained_records, "--count", 10, "--novel", "--seed", 1).splitlines()
    assert len(names) == len(set(names)) == 10
    assert not set(names) & set(records_file.read_text().splitlines())


def test_greedy_samples_cannot_all_be_novel(capfd, trained_records):
    line = refused(capfd, "sample", trained_records, "--count", 3, "--novel", "--temperature", 0)
    assert "novel after" in line


def test_a_pattern_that_few_texts_match_is_named_where_too_few_texts_are_novel(
    capfd, trained_records
):
    pattern = ["--novel", "--matching", "aa|ee"]
    line = refused(capfd, "sample", trained_records, "--count", 3, *pattern)
    assert "raise --temperature, or let more texts match --matching" in line


def test_inspect_prints_the_parameters_of_every_tensor(capfd, trained):
    table = ok(capfd, "inspect", trained)
    assert "layer 1, LSTM, recurrent weights, 4 gates" in table and "100.0%" in table
    tensors = json.loads(ok(capfd, "inspect", trained, "--json"))["tensors"]
    names = {tensor["description"]: tensor["name"] for tensor in tensors}
    hidden = names["layer 1, LSTM, recurrent weights, 4 gates"]
    assert hidden == "recurrence.cells.0.kernel.weight_hh_l0"


def test_corpora_are_listed_shown_and_built(capfd):
    assert "python-docs" in ok(capfd, "corpus", "list")
    assert "licence" in ok(capfd, "corpus", "show", "agreement")
    path = ok(
        capfd, "corpus", "build", "agreement", "--set", "sentences=20", "--to", "a.txt"
    ).strip()
    assert len(Path(path).read_text().splitlines()) == 20


def test_a_copy_of_a_download_is_checked(capfd):
    Path("names.txt").write_text("emma\n")
    assert "sha256" in refused(capfd, "corpus", "fetch", "names", "--from", "names.txt")


def test_a_corpus_is_fetched_checked_and_then_found_by_its_name(capfd, monkeypatch, tmp_path):
    (tmp_path / "names.txt").write_bytes(b"emma\nolivia\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(
        http.server.SimpleHTTPRequestHandler, "log_message", lambda *arguments: None
    )
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/names.txt"
        digest = hashlib.sha256(b"emma\nolivia\n").hexdigest()
        card = cards.load_card("names").model_copy(update={"url": url, "sha256": digest})
        monkeypatch.setattr(cards, "load_card", lambda name: card)
        path = ok(capfd, "corpus", "fetch", "names").strip()
        server.shutdown()
    assert Path(path).read_bytes() == b"emma\nolivia\n"
    assert f"{path} (12 bytes)" in ok(capfd, "corpus", "show", "names")


def test_a_run_on_standard_input_is_named_after_it(capfd, monkeypatch, text_file):
    standard_input(monkeypatch, text_file.read_bytes())
    assert ok(capfd, "train", "-", *SETTINGS, "--steps", 2).startswith("runs/stdin-")


def test_the_version_is_printed(capfd):
    assert ok(capfd, "--version").startswith("charlm 0.")


def test_the_bare_command_prints_help(capfd):
    assert "Commands:" in ok(capfd)


BINARY = bytes(range(256)) * 20


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"", "is empty"),
        (b"a", "single character"),
        (BINARY, "NUL|not utf-8"),
        (b"caf\xe9 " * 50, "byte 3 .0xe9. is not utf-8"),
        (b"too small", "lower training.batch_size or"),
        (None, "no such text"),
    ],
)
def test_an_unusable_text_is_reported_in_one_line(capfd, contents, problem):
    if contents is not None:
        Path("text.txt").write_bytes(contents)
    assert re.search(problem, refused(capfd, "train", "text.txt", *SETTINGS, "--steps", 2))
    assert not list(Path().glob("runs/*"))


def test_any_bytes_are_a_text_at_byte_level(capfd):
    Path("data.bin").write_bytes(BINARY)
    ok(
        capfd,
        "train",
        "data.bin",
        *SETTINGS,
        "--steps",
        2,
        "--set",
        "tokenizer.level=byte",
        "--out",
        "run",
    )
    held_out = len(BINARY) - int(len(BINARY) * 0.8)
    assert json.loads(ok(capfd, "eval", "perplexity", "run", "--json"))["bytes"] == held_out


def test_all_mistakes_of_a_configuration_are_reported(capfd):
    Path("bad.yaml").write_text(
        "model: {hiden_size: 3, num_layers: 0}\ntraining: {learning_rate: fast}\n"
    )
    line = refused(capfd, "train", "--config", "bad.yaml")
    assert "nearest: model.hidden_size" in line and "num_layers" in line and "learning_rate" in line


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["sample", "--temperature", "-1"], "--temperature"),
        (["sample", "--top-p", "2"], "--top-p"),
        (["sample", "--count", "0"], "--count"),
        (["sample", "--lenght", "3"], "--length"),
        (["smaple"], "smaple"),
        (["eval"], "command"),
        (["train", "--steps", "x"], "--steps"),
        (["eval", "perplexity", "--split", "al"], "--split"),
        (["eval", "perplexity", "--temperature", "hot"], "--temperature"),
        (["eval", "perplexity", "--temperature", "0"], "--temperature"),
        (["corpus", "build", "agreement", "--set", "sentences"], "--set"),
        (["config", "show", "--set", "a=b"], "--set"),
        (["train", "--config", "quickstart", "--set", "model.a=1"], "--set: unknown key model.a"),
        (["train", "--steps", "1", "--epochs", "1"], "--steps and --epochs"),
        (["train", "--resume", "x", "--seed", "3"], "--seed"),
    ],
)
def test_wrong_usage_is_one_line_with_status_two(capfd, arguments, problem):
    assert problem in refused(capfd, *arguments, status=2)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["sample"], "contains no run"),
        (["sample", "nowhere"], "no such run folder"),
        (["sample", "."], "is not a run folder"),
        (["eval", "perplexity", "nowhere"], "no such run folder"),
        (["eval", "perplexity", "nowhere.txt"], "nowhere.txt: no such run folder or text; "),
        (["eval", "tokens", "runs/nowhere"], "runs/nowhere: no such run folder; make one"),
        (["train", "quickstart"], "is a configuration; use --config quickstart"),
        (["corpus", "show", "tinyshakspeare"], "did you mean"),
        (["corpus", "build", "ptb"], "charlm corpus fetch"),
        (["corpus", "fetch", "agreement"], "charlm corpus build"),
        (["train", "ptb", "--steps", "1"], "charlm corpus fetch ptb"),
        (["train", "--resume", "nowhere"], "no such run folder"),
        (["corpus", "build", "agreement", "--set", "sentences=3"], "--to"),
        (["corpus", "build", "agreement", "--set", "sentence=3", "--to", "a"], "sentence"),
    ],
)
def test_a_user_error_is_one_line_with_status_one(capfd, arguments, problem):
    assert problem in refused(capfd, *arguments)


def test_a_misspelled_run_of_a_measure_of_texts_has_the_nearest_name(capfd):
    Path("runs/novel-20260101-120000").mkdir(parents=True)
    Path("runs/novel-20260101-120000/config.yaml").touch()
    line = refused(capfd, "eval", "perplexity", "novel")
    assert line.endswith("or text; did you mean runs/novel-20260101-120000?\n")


def test_a_file_in_place_of_a_run_is_not_said_to_be_missing(capfd):
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    line = refused(capfd, "eval", "compare", "a.txt", "a.txt")
    assert line == "charlm: a.txt: is a file and no run folder; name the folder of a run\n"


def test_a_prompt_with_unknown_characters_is_refused_unless_allowed(capfd, trained):
    line = refused(capfd, "sample", trained, "--prompt", "The Žebra")
    assert "'Ž'" in line and "--allow-unknown" in line
    assert "<UNK>" in ok(
        capfd, "sample", trained, "--prompt", "The Žebra", "--allow-unknown", "--length", 3
    )


def test_a_missing_split_is_reported_with_the_existing_ones(capfd, trained):
    assert "no test part, only train, valid" in refused(
        capfd, "eval", "perplexity", trained, "--split", "test"
    )


def test_a_truncated_checkpoint_is_one_line(capfd, trained):
    shutil.copytree(trained, "copy")
    for path in Path("copy/best").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    assert "cut short" in refused(capfd, "sample", "copy")


def test_missing_cuda_is_reported_in_one_line(capfd, text_file):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert "not available" in refused(capfd, "train", text_file, "--device", "cuda")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "last").tensors["weights"]


def test_a_training_stopped_by_ctrl_c_resumes_to_the_weights_of_an_uninterrupted_one(
    capfd, text_file, monkeypatch
):
    train_all(small_config(text_file), Path("whole"))

    def press_at_step_5(*values: object, **options: object) -> Iterator[Progress]:
        for progress in train(*values, **options):
            if progress.step == 5:
                signal.raise_signal(signal.SIGINT)
            yield progress

    Path("defaults.yaml").write_text("", encoding="utf-8")
    budget = ["--steps", "12", "--out", "a run"]
    with monkeypatch.context() as patch:
        patch.setattr(session, "train", press_at_step_5)
        command = ["train", str(text_file), "--config", "defaults.yaml", *SETTINGS, *budget]
        assert charlm(command) == 128 + signal.SIGINT
    out, err = capfd.readouterr()
    assert out == "a run\n" and "continue with: charlm train --resume 'a run'\n" in err
    assert json.loads(Path("a run/last/state.json").read_text())["step"] == 5
    ok(capfd, "train", "--resume", "a run")
    expected = weights(Path("whole"))
    for name, tensor in weights(Path("a run")).items():
        assert torch.equal(tensor, expected[name]), name


def test_ctrl_c_stops_the_process_of_a_training_which_can_be_resumed(capfd, text_file):
    # It cannot end before the signal: the pipe is full after some hundred lines of evaluations.
    budget = ["--steps", "10000", "--set", "training.evaluations=10000", "--out", "run"]
    command = [sys.executable, "-m", "charlm", "train", str(text_file), *SETTINGS, *budget]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        begun = list(itertools.takewhile(lambda line: "validation" not in line, process.stderr))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGINT, (begun, err)
    assert out == "run\n"
    step = json.loads(Path("run/last/state.json").read_text())["step"]
    lines = [line for line in err.splitlines() if not line.startswith("step ")]
    end = f"stopped and saved at step {step:,}; continue with: charlm train --resume run"
    assert lines == [end]
    ok(capfd, "train", "--resume", "run", "--steps", step + 2)
    assert json.loads(Path("run/last/state.json").read_text())["step"] == step + 2


def test_a_reader_that_closes_the_pipe_early_sees_no_error(trained, monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as pipe, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", pipe)
        patch.setattr(sys, "stderr", sys.stderr)  # Restored: typer replaces both.
        with pytest.raises(SystemExit) as end:
            charlm(["sample", str(trained), "--length", "3000"])
    assert end.value.code == 1
    assert capfd.readouterr() == ("", "")


def test_a_report_of_several_processes_is_refused_before_the_text_is_read(capsys):
    assert charlm(["train", "missing.txt", "--processes", "2", "--report"]) == 2
    assert "--report: cannot be combined with --processes" in capsys.readouterr().err


def test_commands_show_the_path_of_a_text_as_it_was_written(text_file, capfd):
    Path("my.txt").write_bytes(text_file.read_bytes())
    assert charlm(["train", "my.txt", *SETTINGS, "--steps", "2", "--out", "runs/my"]) == 0
    assert "\ntext: my.txt; mode stream, " in capfd.readouterr().err
    assert ok(capfd, "runs").splitlines()[1].endswith(" my.txt")
    assert ok(capfd, "corpus", "stats", "my.txt").startswith("my.txt (stream)\n")


def test_a_language_model_has_no_task_to_score(trained, capfd):
    assert refused(capfd, "eval", "task", trained).endswith("charlm eval perplexity\n")


def test_a_card_of_a_text_from_standard_input_names_it(text_file, monkeypatch, capfd):
    standard_input(monkeypatch, text_file.read_bytes())
    assert charlm(["train", "-", *SETTINGS, "--steps", "2", "--out", "runs/my"]) == 0
    capfd.readouterr()
    assert "\n# standard input\n" in ok(capfd, "card")
