"""`charlm sample` as a person types it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEXT, small_config, train_all

import charlm as package
from charlm.cli.main import run as charlm
from charlm.cli.terminal import printable


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Run each command in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)


def ok(capfd, *arguments: object) -> str:
    """Run a command that must succeed; return what it printed on stdout."""
    assert charlm(["sample", *map(str, arguments)]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def refused(capfd, *arguments: object, status: int = 1) -> str:
    """Run a command that must be refused in one line on stderr; return the line."""
    assert charlm(["sample", *map(str, arguments)]) == status
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    return err


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


EVERYTHING = [
    "--temperature",
    1.2,
    "--top-k",
    12,
    "--top-p",
    0.95,
    "--min-p",
    0.01,
    "--typical",
    0.95,
    "--epsilon",
    0.001,
    "--eta",
    0.002,
    "--repetition-penalty",
    1.1,
    "--repetition-window",
    20,
    "--no-repeat",
    8,
    "--ban",
    "owl",
]


def test_all_filters_together_write_and_are_told_with_the_text(capfd, trained):
    (one,) = objects(ok(capfd, trained, *EVERYTHING, "--seed", 1, "--length", 60, "--json"))
    told = {
        "temperature": 1.2,
        "top_k": 12,
        "top_p": 0.95,
        "min_p": 0.01,
        "typical": 0.95,
        "epsilon": 0.001,
        "eta": 0.002,
        "repetition_penalty": 1.1,
        "repetition_window": 20,
        "no_repeat_ngram": 8,
        "ban": ["owl"],
        "length": 60,
    }
    assert told.items() <= one["settings"].items()
    assert "owl" not in one["text"] and len(one["tokens"]) == 60


@pytest.mark.parametrize("options", [[], EVERYTHING, ["--best-of", 2], ["--until", "."]])
def test_text_k_of_a_seed_is_the_same_whatever_the_batch(capfd, trained, options):
    many = objects(
        ok(capfd, trained, *options, "--seed", 7, "--length", 25, "--count", 20, "--json")
    )
    few = objects(ok(capfd, trained, *options, "--seed", 7, "--length", 25, "--count", 2, "--json"))
    assert [one["text"] for one in few] == [one["text"] for one in many[:2]]
    assert [one["tokens"] for one in few] == [one["tokens"] for one in many[:2]]


def test_log_probabilities_add_up_to_the_score_of_the_text(capfd, trained_records):
    """Against `eval`'s way to score a text: all tokens in one forward."""
    run = package.load(trained_records)
    samples = run.sample(count=5, seed=1, length=40, temperature=0.7, prompt="ba")
    assert all(sample.ended for sample in samples)
    for sample in samples:
        words = run.perplexity(sample.text + "\n")
        with_prompt = -words.loss_nats * words.tokens
        head = run.sample(prompt="ba", length=1, seed=1)[0]
        assert len(sample.log_probabilities) == len(sample.tokens)
        assert sum(sample.log_probabilities) > sample.log_probability > with_prompt
        assert head.log_probabilities[0] <= 0
    from_nothing = run.sample(count=5, seed=1, length=40, temperature=0.7)
    for sample in from_nothing:
        score = run.perplexity(sample.text + "\n")
        assert sample.log_probability == pytest.approx(-score.loss_nats * score.tokens, abs=1e-3)


def test_a_text_of_so_many_characters_is_cut_exactly(capfd, text_file, tmp_path):
    train_all(small_config(text_file, "tokenizer.level=word"), tmp_path / "words")
    for count in (1, 3):
        texts = objects(
            ok(
                capfd,
                "words",
                "--characters",
                33,
                "--count",
                count,
                "--json",
                "--prompt",
                "The cat",
            )
        )
        assert [len(one["text"]) for one in texts] == [len("The cat") + 33] * count
    assert len(ok(capfd, "words", "--characters", 33, "--seed", 1)) == 34


def test_a_text_ends_with_what_it_was_to_go_until(capfd, trained):
    for text in ok(
        capfd, trained, "--until", ".", "--until", "at", "--count", 5, "--seed", 1
    ).split("\n\n---\n\n"):
        assert text.rstrip("\n").endswith((".", "at"))
    assert ok(capfd, trained, "--until", ".", "--seed", 1).count(".") == 1


def test_the_best_of_some_is_the_most_probable_of_them(capfd, trained):
    each = objects(ok(capfd, trained, "--seed", 3, "--length", 20, "--count", 6, "--json"))
    best = objects(
        ok(capfd, trained, "--seed", 3, "--length", 20, "--count", 2, "--best-of", 3, "--json")
    )
    totals = [one["log_probability"] for one in each]
    assert [one["log_probability"] for one in best] == pytest.approx(
        [max(totals[:3]), max(totals[3:])]
    )


def test_beams_find_a_text_at_least_as_probable_as_the_greedy_one_and_any_sample(capfd, trained):
    shape = ["--length", 15, "--json", "--prompt", "The "]
    (greedy,) = objects(ok(capfd, trained, *shape, "--temperature", 0))
    (one,) = objects(ok(capfd, trained, *shape, "--beams", 1))
    found = objects(ok(capfd, trained, *shape, "--beams", 8, "--count", 3))
    assert one["text"] == greedy["text"]
    assert found[0]["log_probability"] >= greedy["log_probability"] - 1e-6
    totals = [text["log_probability"] for text in found]
    assert totals == sorted(totals, reverse=True)
    assert found[0]["settings"]["beams"] == 8 and found[0]["seed"] is None


def test_beams_end_records_and_stop_strings(capfd, trained_records, trained):
    for one in objects(ok(capfd, trained_records, "--beams", 4, "--count", 4, "--json")):
        assert one["ended"] and one["log_probability"] < sum(one["log_probabilities"])
    assert (
        ok(capfd, trained, "--beams", 3, "--until", "at", "--ban", "roof")
        .rstrip("\n")
        .endswith("at")
    )


@pytest.mark.parametrize("options", [[], EVERYTHING])
def test_chapters_are_the_text_told_at_once(capfd, trained, options):
    whole = ok(capfd, trained, *options, "--seed", 4, "--length", 200, "--prompt", "The cat")
    first = ok(
        capfd,
        trained,
        *options,
        "--seed",
        4,
        "--length",
        100,
        "--prompt",
        "The cat",
        "--state-out",
        "a",
    )
    (second,) = objects(
        ok(
            capfd,
            trained,
            *options,
            "--length",
            100,
            "--state-in",
            "a",
            "--state-out",
            "b",
            "--json",
        )
    )
    assert first + second["text"] + "\n" == whole
    assert len(second["tokens"]) == 100 and second["seed"] == 4
    assert ok(capfd, trained, "--state-in", "b", "--prompt", " The dog", "--length", 5).startswith(
        " The dog"
    )


def test_a_state_of_another_model_and_a_file_that_is_none_are_refused(
    capfd, trained, text_file, tmp_path
):
    ok(capfd, trained, "--length", 3, "--state-out", "state")
    train_all(small_config(text_file, "training.steps=2"), tmp_path / "other")
    assert "another model" in refused(capfd, "other", "--state-in", "state")
    Path("state").write_bytes(Path("state").read_bytes()[:50])
    assert "state: is no state" in refused(capfd, trained, "--state-in", "state")
    assert "--state-in: none: cannot be read" in refused(capfd, trained, "--state-in", "none")
    assert "cannot be written" in refused(
        capfd, trained, "--json", "--state-out", "/proc/none/state"
    )


def test_a_record_that_has_ended_cannot_go_on(capfd, trained_records):
    ok(capfd, trained_records, "--seed", 1, "--state-out", "state")
    assert "has ended this text" in refused(capfd, trained_records, "--state-in", "state")


def test_a_prompt_comes_from_a_file_and_from_standard_input(capfd, trained):
    Path("p.txt").write_text("The dog\n", encoding="utf-8")
    assert ok(capfd, trained, "--prompt-file", "p.txt", "--length", 5).startswith("The dog\n")
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "charlm",
            "sample",
            str(trained),
            "--prompt-file",
            "-",
            "--length",
            "5",
        ],
        input=b"The owl",
        capture_output=True,
        check=True,
    )
    assert process.stdout.startswith(b"The owl")
    Path("p.txt").write_bytes(b"caf\xe9")
    assert "p.txt: byte 3 of the prompt is not UTF-8" in refused(
        capfd, trained, "--prompt-file", "p.txt"
    )
    assert "--prompt-file: none: cannot be read" in refused(capfd, trained, "--prompt-file", "none")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--beams", 3, "--temperature", 0], "--temperature"),
        (["--fill", "a", "--temperature", -1], "--temperature"),
        (["--beams", 3, "--top-p", 0.5, "--eta", 0], "--top-p, --eta"),
        (["--beams", 3, "--best-of", 3], "--best-of"),
        (["--beams", 3, "--seed", 3], "--seed"),
        (["--state-out", "a", "--count", 2], "--count"),
        (["--state-in", "a", "--novel"], "--novel"),
        (["--prompt", "a", "--prompt-file", "b"], "--prompt"),
        (["--interactive", "--json"], "--json"),
        (["--length-penalty", 1], "--length-penalty"),
        (["--repetition-window", 3], "--repetition-window"),
        (["--min-p", 2], "--min-p"),
        (["--typical", -1], "--typical"),
        (["--eta", "nan"], "--eta"),
        (["--epsilon", "x"], "--epsilon"),
        (["--temperature", "inf"], "--temperature"),
        (["--top-k", 0], "--top-k"),
        (["--repetition-penalty", 0], "--repetition-penalty"),
        (["--no-repeat", 0], "--no-repeat"),
        (["--until", ""], "--until"),
        (["--ban", ""], "--ban"),
        (["--beams", 0], "--beams"),
        (["--characters", 0], "--characters"),
        (["--length", 0], "--length"),
        (["--length-penalty", -1], "--length-penalty"),
    ],
)
def test_wrong_usage_is_one_line_that_names_the_option(capfd, trained, arguments, named):
    assert named in refused(capfd, trained, *arguments, status=2)


def test_what_cannot_be_is_one_line(capfd, trained):
    letters = [part for letter in sorted(set(TEXT)) for part in ("--ban", letter)]
    assert "nothing" in refused(capfd, trained, *letters, "--count", 2)
    assert "--beams must be at least --count" in refused(capfd, trained, "--beams", 2, "--count", 3)


def test_a_model_that_reads_backward_refuses_what_it_cannot_do(capfd, text_file, tmp_path):
    train_all(
        small_config(text_file, "model.direction=backward", "training.steps=2"), tmp_path / "back"
    )
    assert "--until" in refused(capfd, "back", "--until", ".")
    assert "--state-in" in refused(capfd, "back", "--state-out", "a", "--json")
    assert "--state-in" in refused(capfd, "back", "--state-out", "a")
    assert "--interactive" in refused(capfd, "back", "--interactive")
    assert ok(capfd, "back", "--prompt", "mat.", "--length", 20, "--seed", 1).endswith("mat.\n")
    (one,) = objects(
        ok(
            capfd,
            "back",
            "--prompt",
            "mat.",
            "--beams",
            2,
            "--length",
            20,
            "--json",
            "--ban",
            "the",
        )
    )
    assert one["text"].endswith("mat.") and "the" not in one["text"][:-4]


def test_control_characters_are_escaped_for_a_terminal():
    assert (
        printable("a\x1b[31mb\tc\n\r\x07\x9b\x7f\x00é")
        == "a\\x1b[31mb\tc\n\\x0d\\x07\\x9b\\x7f\\x00é"
    )


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A run that has learnt escape sequences."""
    folder = tmp_path_factory.mktemp("coloured")
    (folder / "text.txt").write_text("\x1b[31mred\x1b[0m\n" * 200)
    train_all(small_config(folder / "text.txt", "training.learning_rate=2e-2"), folder / "run")
    return folder / "run"


@pytest.mark.parametrize(("raw", "count"), [(False, 1), (True, 1), (False, 2)])
def test_a_terminal_gets_escape_sequences_only_if_asked_for(coloured, raw, count):
    ours, theirs = pty.openpty()
    arguments = [
        "sample",
        str(coloured),
        "--seed",
        "1",
        "--length",
        "60",
        "--count",
        str(count),
        *["--raw"] * raw,
    ]
    subprocess.run([sys.executable, "-m", "charlm", *arguments], stdout=theirs, check=True)
    os.close(theirs)
    seen = os.read(ours, 1 << 16)
    os.close(ours)
    assert (b"\x1b" in seen) is raw
    assert (b"\\x1b" in seen) is not raw


def test_a_pipe_gets_the_text_as_it_is(capfd, coloured):
    assert "\x1b" in ok(capfd, coloured, "--seed", 1, "--length", 60)


def test_long_copies_are_kept_out_where_asked_and_what_that_excludes_is_told(capfd, trained):
    (one,) = objects(ok(capfd, trained, "--max-copy", 6, "--seed", 1, "--length", 50, "--json"))
    assert one["settings"]["max_copy"] == 6
    assert not any(one["text"][at : at + 7] in TEXT for at in range(len(one["text"]) - 6))
    assert "--max-copy" in refused(capfd, trained, "--max-copy", 6, "--beams", 2, status=2)
    assert "--max-copy" in refused(capfd, trained, "--max-copy", 0, status=2)


def test_records_match_an_expression_as_a_whole(capfd, trained_records):
    out = ok(
        capfd,
        trained_records,
        "--matching",
        "[a-z]{2,6}a",
        "--count",
        50,
        "--seed",
        1,
        "--best-of",
        2,
    )
    assert len(out.splitlines()) == 50
    assert all(re.fullmatch("[a-z]{2,6}a", line) for line in out.splitlines())
    texts = objects(
        ok(
            capfd,
            trained_records,
            "--matching",
            "(la)+",
            "--count",
            3,
            "--seed",
            1,
            "--json",
            "--prompt",
            "ba",
            "--length",
            5,
            "--ban",
            "lalala",
        )
    )
    assert {one["text"] for one in texts} <= {"bala", "balala"}
    assert texts[0]["settings"]["matching"] == "(la)+"


@pytest.mark.parametrize("options", [[], ["--temperature", 0], EVERYTHING[:-4], ["--length", 9]])
def test_text_of_no_records_ends_where_nothing_more_may_come(capfd, trained, options):
    pattern = "The (cat|mat|x+) (sat|slept).*[.]( The| |o.?){0,9}x?"
    out = ok(capfd, trained, "--matching", "(The|x|[a-e]{3,4}.?)[.]", "--seed", 2, *options)
    assert re.fullmatch("(The|x|[a-e]{3,4}.?)[.]\n", out)
    for one in objects(
        ok(
            capfd,
            trained,
            "--matching",
            pattern,
            "--length",
            60,
            "--seed",
            2,
            "--count",
            9,
            "--json",
        )
    ):
        assert re.fullmatch(pattern, one["text"]) and len(one["tokens"]) <= 60


def test_text_k_that_matches_is_the_same_whatever_the_batch(capfd, trained):
    few, many = (
        objects(
            ok(
                capfd,
                trained,
                "--matching",
                "[a-zT ]{3,30}[.]",
                "--seed",
                7,
                "--count",
                count,
                "--json",
            )
        )
        for count in (2, 20)
    )
    for one, other in zip(few, many, strict=False):
        # A product of two rows may round other than one of twenty, by the processor; what is drawn is the same.
        assert one.pop("log_probabilities") == pytest.approx(
            other.pop("log_probabilities"), rel=1e-5
        )
        assert one.pop("log_probability") == pytest.approx(other.pop("log_probability"), rel=1e-5)
        assert one == other
    (one,) = objects(ok(capfd, trained, "--matching", "[a-zT ]{3,30}[.]", "--seed", 7, "--json"))
    assert one["text"] == few[0]["text"]
    assert ok(capfd, trained, "--matching", "[a-zT ]{3,30}[.]", "--seed", 7) == one["text"] + "\n"


def test_an_empty_expression_writes_nothing(capfd, trained, trained_records):
    assert ok(capfd, trained, "--matching", "", "--prompt", "The") == "The\n"
    assert ok(capfd, trained_records, "--matching", "") == "\n"


@pytest.mark.parametrize(
    ("arguments", "told", "status"),
    [
        (["(a"], "no regular expression", 1),
        (["[0-9]+"], "no text that this model can write", 1),
        (["a{9}", "--length", 8], "got --length 8", 1),
        (["a", "--characters", 3], "--characters", 2),
        (["a", "--until", "a", "--count", 2], "--until", 2),
        (["a", "--max-copy", 3], "--max-copy", 2),
        (["a", "--state-out", "s"], "--state-out", 2),
        (["a", "--beams", 2], "--matching", 2),
        (["a", "--fill", "a ____ b"], "--matching", 2),
        (["a", "--interactive"], "--matching", 2),
        (["cat", "--ban", "cat"], "can write matches 'cat'", 1),
    ],
)
def test_a_match_that_cannot_be_is_one_line(capfd, trained, arguments, told, status):
    assert told in refused(capfd, trained, "--matching", *arguments, status=status)


def test_a_model_that_reads_backward_refuses_to_match(capfd, text_file, tmp_path):
    train_all(
        small_config(text_file, "model.direction=backward", "training.steps=2"), tmp_path / "back"
    )
    assert "--matching" in refused(capfd, "back", "--matching", "a+")
