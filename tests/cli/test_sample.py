"""`charlm sample` on the command line."""

import io
import json
import math
import re
import sys
from pathlib import Path

import pytest
from cli import running
from conftest import TEXT, small_config, train_all

import charlm as package
from charlm.cli.terminal import printable
from charlm.sampling import sample as sample_module
from charlm.sampling.plan import Plan

pytestmark = pytest.mark.usefixtures("empty_folder")
FILTERS = {
    "--temperature": 1.2,
    "--top-k": 12,
    "--top-p": 0.95,
    "--min-p": 0.01,
    "--typical": 0.95,
    "--epsilon": 0.001,
    "--eta": 0.002,
    "--repetition-penalty": 1.1,
    "--repetition-window": 20,
}
# Without --no-repeat and --ban, which may forbid what a match needs.
FILTER_ARGUMENTS = [part for option in FILTERS.items() for part in option]
ALL_FILTERS = [*FILTER_ARGUMENTS, "--no-repeat", 8, "--ban", "owl"]


@pytest.fixture(scope="module")
def backward(text_file, tmp_path_factory) -> Path:
    """A run folder of a model that reads backward."""
    folder = tmp_path_factory.mktemp("backward") / "run"
    train_all(small_config(text_file, "model.direction=backward", "training.steps=2"), folder)
    return folder


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    """A run folder of a model that writes escape sequences."""
    folder = tmp_path_factory.mktemp("coloured")
    (folder / "text.txt").write_text("\x1b[31mred\x1b[0m\n" * 200)
    train_all(small_config(folder / "text.txt", "training.learning_rate=2e-2"), folder / "run")
    return folder / "run"


def ok(capfd, *arguments: object) -> str:
    return running.ok(capfd, "sample", *arguments)


def refused(capfd, *arguments: object, status: int = 1) -> str:
    return running.refused(capfd, "sample", *arguments, status=status)


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_all_filters_together_write_a_text_and_are_in_its_json(capfd, trained):
    (text,) = objects(ok(capfd, trained, *ALL_FILTERS, "--seed", 1, "--length", 60, "--json"))
    settings = {
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
        "until": None,
        "length_penalty": None,
    }
    assert settings.items() <= text["settings"].items()
    assert "owl" not in text["text"] and len(text["tokens"]) == 60


def test_the_temperature_is_0_8_unless_another_is_given(capfd, trained):
    shape = [trained, "--seed", 1, "--length", 60, "--json"]
    (text,) = objects(ok(capfd, *shape))
    assert text["settings"]["temperature"] == 0.8
    (same,) = objects(ok(capfd, *shape, "--temperature", 0.8))
    (other,) = objects(ok(capfd, *shape, "--temperature", 1))
    assert text == same and other["text"] != text["text"]
    assert package.load(trained).sample(seed=1, length=60)[0].text == text["text"]


def test_next_lists_the_most_probable_tokens_after_a_prompt(capfd, trained, trained_records):
    facts = json.loads(ok(capfd, trained, "--next", "--prompt", "The cat", "--json"))
    probabilities = [token["probability"] for token in facts["tokens"]]
    assert len(probabilities) == 10 and probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) + facts["others_probability"] == pytest.approx(1)
    assert facts["settings"]["run"] == str(trained)
    run = package.load(trained)
    best = facts["tokens"][0]
    (greedy,) = run.sample(prompt="The cat", length=1, temperature=0)
    assert greedy.text == "The cat" + best["text"]
    assert math.log(best["probability"]) == pytest.approx(greedy.log_probability, abs=1e-4)
    everything = run.next_tokens("The cat", count=1000)
    assert len(everything.tokens) == run.tokenizer.vocabulary_size
    assert everything.num_others == 0 and everything.others_probability < 1e-9
    assert sum(token.probability for token in everything.tokens) == pytest.approx(1)
    table = ok(capfd, trained, "--next", "--prompt", "The cat", "--count", 99)
    for shown in ("'\\n'", "' '", "<EOS>", "<UNK>"):
        assert re.search(rf"^ +\d+\.\d\d%  {re.escape(shown)}$", table, re.MULTILINE), shown
    assert "other" not in table
    assert "the other 17 tokens" in ok(capfd, trained, "--next", "--count", 5).splitlines()[-1]
    assert "'Ž'" in refused(capfd, trained, "--next", "--prompt", "Ž")
    ends = package.load(trained_records).next_tokens("balia", count=2)
    assert "<EOS>" in {token.text for token in ends.tokens}


def test_next_of_a_backward_model_is_the_token_before_the_prompt(backward):
    run = package.load(backward)
    (first, *_) = run.next_tokens("mat.", count=3).tokens
    (greedy,) = run.sample(prompt="mat.", length=1, temperature=0)
    assert greedy.text == first.text + "mat."


def test_text_k_of_a_seed_is_the_same_for_any_count(capfd, trained):
    pattern = ["--matching", "[a-zT ]{3,25}[.]"]
    for options in ([], ALL_FILTERS, ["--best-of", 2], ["--until", "."], pattern):
        shape = [trained, *options, "--seed", 7, "--length", 25, "--json", "--count"]
        many = objects(ok(capfd, *shape, 20))
        few = objects(ok(capfd, *shape, 2))
        (one,) = objects(ok(capfd, *shape, 1))
        for text, same in zip([*few, one], [*many[:2], many[0]], strict=True):
            # The product of 2 rows may be rounded differently from that of 20; the tokens agree.
            for name in ("log_probabilities", "log_probability"):
                assert text.pop(name) == pytest.approx(same[name], rel=1e-5), options
            assert text.items() <= same.items(), options


def test_many_texts_are_written_in_batches_that_fit_in_memory(trained, monkeypatch):
    run = package.load(trained)
    texts = [text.text for text in run.sample(count=7, best_of=2, seed=7, length=9)]
    sizes = []
    monkeypatch.setattr(sample_module, "_MAX_LOGITS", 3 * run.tokenizer.vocabulary_size)
    begin = Plan.begin
    monkeypatch.setattr(
        Plan,
        "begin",
        lambda plan, numbers: sizes.append(len(numbers)) or begin(plan, numbers),
    )
    assert [text.text for text in run.sample(count=7, best_of=2, seed=7, length=9)] == texts
    assert sizes == [3, 3, 3, 3, 2]


def test_a_text_is_printed_the_same_with_and_without_json(capfd, trained):
    for options in ([], ["--matching", "[a-zT ]{3,30}[.]"], ["--characters", 20]):
        shape = [trained, *options, "--seed", 7]
        (text,) = objects(ok(capfd, *shape, "--json"))
        assert ok(capfd, *shape) == text["text"] + "\n", options


def test_log_probabilities_sum_to_the_score_of_the_text(trained_records):
    """Against `eval`, which scores all tokens in one forward pass."""
    run = package.load(trained_records)
    samples = run.sample(count=5, seed=1, length=40, temperature=0.7)
    assert all(sample.ended for sample in samples)
    for sample in samples:
        score = run.perplexity(sample.text + "\n")
        assert sample.log_probability == pytest.approx(-score.loss_nats * score.tokens, abs=1e-3)
    for sample in run.sample(count=5, seed=1, length=40, temperature=0.7, prompt="ba"):
        score = run.perplexity(sample.text + "\n")
        assert len(sample.log_probabilities) == len(sample.tokens)
        # The <EOS> that ends the text is not among the tokens; the prompt is not scored.
        assert sum(sample.log_probabilities) > sample.log_probability
        assert sample.log_probability > -score.loss_nats * score.tokens


def test_a_text_is_cut_exactly_at_its_number_of_characters(capfd, text_file, empty_folder):
    train_all(small_config(text_file, "tokenizer.level=word"), empty_folder / "words")
    shape = ["words", "--characters", 33, "--prompt", "The cat", "--json"]
    for count in (1, 3):
        texts = objects(ok(capfd, *shape, "--count", count))
        assert [len(text["text"]) for text in texts] == [len("The cat") + 33] * count
    assert len(ok(capfd, "words", "--characters", 33, "--seed", 1)) == 34


def test_a_text_ends_with_a_stop_string(capfd, trained):
    printed = ok(capfd, trained, "--until", ".", "--until", "at", "--count", 5, "--seed", 1)
    for text in printed.split("\n\n---\n\n"):
        assert text.rstrip("\n").endswith((".", "at"))
    assert ok(capfd, trained, "--until", ".", "--seed", 1).count(".") == 1


def test_best_of_returns_the_most_probable_candidate(capfd, trained):
    shape = [trained, "--seed", 3, "--length", 20, "--json"]
    candidates = objects(ok(capfd, *shape, "--count", 6))
    best = objects(ok(capfd, *shape, "--count", 2, "--best-of", 3))
    totals = [text["log_probability"] for text in candidates]
    assert [text["log_probability"] for text in best] == pytest.approx(
        [max(totals[:3]), max(totals[3:])]
    )


def test_best_of_counts_the_eos_of_a_record_in_its_length(trained_records):
    """Some candidates end within four tokens and some do not, so that it matters."""
    options = {"seed": 1, "length": 4}
    run = package.load(trained_records)
    candidates = run.sample(count=40, **options)
    for penalty in (1.5, 2.0, 5.0):
        (best,) = run.sample(best_of=40, length_penalty=penalty, **options)

        def score(sample, penalty=penalty, eos=1):
            length = len(sample.tokens) + eos * sample.ended
            return sample.log_probability / ((5 + length) / 6) ** penalty

        assert best.text == max(candidates, key=score).text, penalty


def test_beams_find_at_least_as_probable_a_text_as_greedy_sampling(capfd, trained):
    shape = [trained, "--length", 15, "--json", "--prompt", "The "]
    (greedy,) = objects(ok(capfd, *shape, "--temperature", 0))
    (one_beam,) = objects(ok(capfd, *shape, "--beams", 1))
    texts = objects(ok(capfd, *shape, "--beams", 8, "--count", 3))
    assert one_beam["text"] == greedy["text"]
    assert texts[0]["log_probability"] >= greedy["log_probability"] - 1e-6
    totals = [text["log_probability"] for text in texts]
    assert totals == sorted(totals, reverse=True)
    assert texts[0]["settings"]["beams"] == 8 and texts[0]["seed"] is None


def test_beams_end_at_the_end_of_a_record_and_at_stop_strings(capfd, trained_records, trained):
    for text in objects(ok(capfd, trained_records, "--beams", 4, "--count", 4, "--json")):
        assert text["ended"] and text["log_probability"] < sum(text["log_probabilities"])
    printed = ok(capfd, trained, "--beams", 3, "--until", "at", "--ban", "roof")
    assert printed.rstrip("\n").endswith("at") and "roof" not in printed


def test_a_text_in_two_parts_is_the_text_at_once(capfd, trained):
    for options in ([], ALL_FILTERS):
        shape = [trained, *options, "--seed", 4, "--prompt", "The cat"]
        whole = ok(capfd, *shape, "--length", 200)
        first = ok(capfd, *shape, "--length", 100, "--state-out", "a")
        states = ["--state-in", "a", "--state-out", "b"]
        (second,) = objects(ok(capfd, trained, *options, "--length", 100, *states, "--json"))
        assert first + second["text"] + "\n" == whole, options
        assert len(second["tokens"]) == 100 and second["seed"] == 4
        third = ok(capfd, trained, "--state-in", "b", "--prompt", " The dog", "--length", 5)
        assert third.startswith(" The dog")


def test_a_state_that_cannot_be_continued_is_refused(capfd, trained, text_file, empty_folder):
    ok(capfd, trained, "--length", 3, "--state-out", "state")
    train_all(small_config(text_file, "training.steps=2"), empty_folder / "other")
    assert "another model" in refused(capfd, "other", "--state-in", "state")
    Path("state").write_bytes(Path("state").read_bytes()[:50])
    assert "state: is no saved state" in refused(capfd, trained, "--state-in", "state")
    assert "none: cannot be read" in refused(capfd, trained, "--state-in", "none")
    target = "/proc/none/state"
    assert "cannot be written" in refused(capfd, trained, "--json", "--state-out", target)


def test_a_record_that_has_ended_cannot_be_continued(capfd, trained_records):
    ok(capfd, trained_records, "--seed", 1, "--state-out", "state")
    assert "has ended this text" in refused(capfd, trained_records, "--state-in", "state")


def test_a_prompt_comes_from_a_file_or_standard_input(capfd, trained, monkeypatch):
    Path("p.txt").write_text("The dog\n", encoding="utf-8")
    assert ok(capfd, trained, "--prompt-file", "p.txt", "--length", 5).startswith("The dog\n")
    for option in ("--prompt-file", "--prompt"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The owl")))
        assert ok(capfd, trained, option, "-", "--length", 5).startswith("The owl")
    Path("p.txt").write_bytes(b"\xef\xbb\xbfThe owl")
    assert ok(capfd, trained, "--prompt-file", "p.txt", "--length", 5).startswith("The owl")
    assert ok(capfd, trained, "--prompt", "\ufeffThe", "--length", 5).startswith("The")
    Path("p.txt").write_bytes(b"")
    assert ok(capfd, trained, "--prompt-file", "p.txt", "--length", 5)
    Path("p.txt").write_bytes(b"caf\xe9")
    error = refused(capfd, trained, "--prompt-file", "p.txt")
    assert "p.txt: byte 3 (0xe9) is not UTF-8; it looks like " in error
    error = refused(capfd, trained, "--prompt-file", "none")
    assert "none: cannot be read: No such file or directory; correct the path" in error


# Arguments, and the option that the message names.
WRONG_USAGE = [
    ("--beams 3 --temperature 0", "--temperature"),
    ("--beams 3 --eta 0", "--eta"),
    ("--beams 3 --best-of 3", "--best-of"),
    ("--beams 3 --seed 3", "--seed"),
    ("--beams 2 --count 3", "--beams"),
    ("--beams 2 --max-copy 6", "--max-copy"),
    ("--beams 2 --matching a", "--matching"),
    ("--fill a____b --temperature -1", "--temperature"),
    ("--fill a____b --matching a", "--matching"),
    ("--fill a____b --prompt-file b", "--fill"),
    ("--fill ab", "--fill"),
    ("--state-out a --count 2", "--count"),
    ("--state-in a --novel", "--novel"),
    ("--state-out s --matching a", "--state-out"),
    ("--prompt a --prompt-file b", "--prompt"),
    ("--interactive --json", "--json"),
    ("--interactive --count 2", "--count"),
    ("--interactive --matching a", "--matching"),
    ("--interactive --beams 2", "--beams"),
    ("--interactive --fill a____b", "--fill"),
    ("--matching a --characters 3", "--characters"),
    ("--matching a --until a --count 2", "--until"),
    ("--matching a --max-copy 3", "--max-copy"),
    ("--length-penalty 1", "--length-penalty"),
    ("--repetition-window 3", "--repetition-window"),
    ("--min-p 2", "--min-p"),
    ("--typical -1", "--typical"),
    ("--eta nan", "--eta"),
    ("--epsilon x", "--epsilon"),
    ("--temperature inf", "--temperature"),
    ("--top-k 0", "--top-k"),
    ("--repetition-penalty 0", "--repetition-penalty"),
    ("--no-repeat 0", "--no-repeat"),
    ("--until=", "--until"),
    ("--ban=", "--ban"),
    ("--beams 0", "--beams"),
    ("--characters 0", "--characters"),
    ("--length 0", "--length"),
    ("--max-copy 0", "--max-copy"),
    ("--length-penalty -1", "--length-penalty"),
]


def test_wrong_usage_is_one_line_that_names_the_option(capfd, trained):
    for arguments, named in WRONG_USAGE:
        message = refused(capfd, trained, *arguments.split(), status=2)
        assert named in message.split(";")[0], (arguments, message)


def test_options_that_this_model_cannot_serve_are_one_line(capfd, trained):
    letters = [part for letter in sorted(set(TEXT)) for part in ("--ban", letter)]
    assert "nothing can be written" in refused(capfd, trained, *letters, "--count", 2)
    for arguments, problem in (
        (["(a"], "no regular expression"),
        (["[0-9]+"], "no text that this model can write"),
        (["a{9}", "--length", 8], "raise --length, which is 8"),
        (["cat", "--ban", "cat"], "can write matches 'cat'"),
    ):
        assert problem in refused(capfd, trained, "--matching", *arguments), arguments
    error = refused(capfd, trained, "--prompt", "Ž{}")
    assert "--allow-unknown" in error and "'Ž', '{', '}'" in error


def test_a_backward_model_refuses_what_it_cannot_do(capfd, backward):
    for option, arguments in (
        ("--until", ["--until", "."]),
        ("--characters", ["--characters", 9]),
        ("--state-out", ["--state-out", "a", "--json"]),
        ("--state-out", ["--state-out", "a"]),
        ("--matching", ["--matching", "a+"]),
        ("--max-copy", ["--max-copy", 3]),
        ("--until", ["--beams", 2, "--until", "."]),
        ("--interactive", ["--interactive"]),
    ):
        assert f"charlm: {option}: " in refused(capfd, backward, *arguments), arguments


def test_a_backward_model_ends_its_text_with_the_prompt(capfd, backward):
    shape = [backward, "--prompt", "mat.", "--length", 20]
    assert ok(capfd, *shape, "--seed", 1).endswith("mat.\n")
    (text,) = objects(ok(capfd, *shape, "--beams", 2, "--json", "--ban", "the"))
    assert text["text"].endswith("mat.") and "the" not in text["text"][:-4]


def test_control_characters_are_escaped_for_a_terminal():
    shown = printable("a\x1b[31mb\tc\n\r\x07\x9b\x7f\x00é")
    assert shown == "a\\x1b[31mb\tc\n\\x0d\\x07\\x9b\\x7f\\x00é"


def test_a_terminal_gets_escape_sequences_only_with_raw(capfd, coloured, monkeypatch):
    shape = [coloured, "--seed", 1, "--length", 60]
    assert "\x1b" in ok(capfd, *shape)  # A pipe or a file gets the text as it is.
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for count in (1, 2):
        for raw in ([], ["--raw"]):
            shown = ok(capfd, *shape, "--count", count, *raw)
            assert ("\x1b" in shown) is bool(raw), (count, raw)
            assert ("\\x1b" in shown) is not bool(raw), (count, raw)


def test_long_copies_are_avoided_in_every_output(capfd, trained):
    shape = [trained, "--max-copy", 6, "--seed", 1, "--length", 50]
    (text,) = objects(ok(capfd, *shape, "--json"))
    assert text["settings"]["max_copy"] == 6
    written = text["text"]
    assert not any(written[start : start + 7] in TEXT for start in range(len(written) - 6))
    assert ok(capfd, *shape) == written + "\n"


def test_records_match_an_expression_as_a_whole(capfd, trained_records):
    options = ["--matching", "[a-z]{2,6}a", "--count", 50, "--seed", 1, "--best-of", 2]
    lines = ok(capfd, trained_records, *options).splitlines()
    assert len(lines) == 50
    assert all(re.fullmatch("[a-z]{2,6}a", line) for line in lines)
    options = ["--matching", "(la)+", "--count", 3, "--seed", 1, "--prompt", "ba", "--length", 5]
    texts = objects(ok(capfd, trained_records, *options, "--ban", "lalala", "--json"))
    assert {text["text"] for text in texts} <= {"bala", "balala"}
    assert texts[0]["settings"]["matching"] == "(la)+"


def test_a_text_without_records_ends_where_no_token_may_follow(capfd, trained):
    short = "(The|x|[a-e]{3,4}.?)[.]"
    for options in ([], ["--temperature", 0], FILTER_ARGUMENTS, ["--length", 9]):
        printed = ok(capfd, trained, "--matching", short, "--seed", 2, *options)
        assert re.fullmatch(f"{short}\n", printed), options
    pattern = "The (cat|mat|x+) (sat|slept).*[.]( The| |o.?){0,9}x?"
    shape = ["--matching", pattern, "--length", 60, "--seed", 2, "--count", 9, "--json"]
    for text in objects(ok(capfd, trained, *shape)):
        assert re.fullmatch(pattern, text["text"]) and len(text["tokens"]) <= 60


def test_an_empty_expression_writes_nothing(capfd, trained, trained_records):
    assert ok(capfd, trained, "--matching", "", "--prompt", "The") == "The\n"
    assert ok(capfd, trained_records, "--matching", "") == "\n"
