"""The task `complete`: its targets, its errors, and what a model writes for a source."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import PAIRS, small_config, train_all

from charlm.api import Run, load
from charlm.cli.main import run as charlm
from charlm.config.tokenizer import Tokenizer
from charlm.data.builders.pairs import number_in_words, number_words
from charlm.data.pairs import completion_targets, separator_id
from charlm.data.tokenizer import EOS
from charlm.data.vocabulary import learn_tokenizer
from charlm.data.windows.records import record_windows
from charlm.data.windows.scoring import scoring_record_windows
from charlm.data.windows.window import PADDING, Position
from charlm.errors import CharlmError, ConfigError, CorpusError
from charlm.runs import prepare, session
from charlm.runs.experiment import Sampled
from charlm.sampling.completion import complete_ids
from charlm.sampling.during_training import sampled
from charlm.sampling.options import CompletionOptions
from charlm.tasks.completion import edit_distance
from charlm.training.loss import score


@pytest.fixture(scope="module")
def run(pairs_files, tmp_path_factory):
    """A run that has learned to write a name backwards and in capital letters."""
    folder = tmp_path_factory.mktemp("complete") / "run"
    overrides = ["model.hidden_size=48", "training.steps=400", "training.learning_rate=2e-2"]
    pairs = [*overrides, "task.kind=complete", "training.batch_size=16"]
    train_all(small_config(pairs_files["complete"], *pairs), folder)
    return load(folder, device="cpu")


def encoded(pairs):
    text = "".join(f"{source}\t{target}" for source, target in pairs)
    tokenizer = learn_tokenizer([text], Tokenizer())
    ids = [[*tokenizer.encode(f"{source}\t{target}"), EOS] for source, target in pairs]
    return tokenizer, np.concatenate(ids).astype(np.uint8)


def test_only_the_target_and_its_eos_are_predicted():
    tokenizer, ids = encoded([("ab", "c"), ("a", "bc\tb")])
    shown = [
        "-" if target == PADDING else tokenizer.decode([target]) if target else "."
        for target in completion_targets(ids, tokenizer).tolist()
    ]
    assert "".join(shown) == "---c." + "--bc\tb."


@pytest.mark.parametrize(
    ("record", "problem"),
    [("abc", "has no tab"), ("\tabc", "has no source"), ("abc\t", "has no target")],
)
def test_a_record_that_is_no_pair_is_refused(record, problem):
    tokenizer, ids = encoded([("ab", "c")])
    wrong = np.concatenate([ids, tokenizer.encode(record), [EOS]])
    with pytest.raises(CorpusError, match=problem):
        completion_targets(wrong, tokenizer)


def test_a_level_at_which_the_tab_is_no_token_is_refused():
    section = Tokenizer(level="word", words="whitespace")
    with pytest.raises(ConfigError, match=r"use tokenizer.level=char or byte"):
        separator_id(learn_tokenizer(["a\tb"], section))


def test_windows_of_a_task_are_whole_records_and_predict_the_targets():
    tokenizer, ids = encoded(PAIRS["complete"])
    targets = completion_targets(ids, tokenizer)
    expected = sorted(targets[targets >= 0].tolist())
    windows = record_windows(ids, batch_size=8, window=2, seed=1, start=Position(), targets=targets)
    found = []
    for window in windows:
        assert window.resets_state and window.tokens > 0
        found += window.targets[window.targets >= 0].tolist()
        if window.next.epoch:
            break
    assert sorted(found) == expected
    scored = scoring_record_windows(ids, batch_size=8, targets=targets)
    assert sorted(t for w in scored for t in w.targets.flatten().tolist() if t >= 0) == expected


def test_a_score_does_not_depend_on_padding(run):
    ids = np.concatenate(
        [[*run.tokenizer.encode(f"{a}\t{b}"), EOS] for a, b in PAIRS["complete"][:40]]
    )
    targets = completion_targets(ids, run.tokenizer)
    scores = [
        score(
            run.model,
            scoring_record_windows(ids, batch_size=size, targets=targets),
            device=run.device,
            precision=torch.float32,
        )
        for size in (1, 7, 40)
    ]
    assert len({found.tokens for found in scores}) == 1
    for found in scores:
        assert found.nats == pytest.approx(scores[0].nats, rel=1e-6)


def test_sources_of_different_lengths_are_completed_as_one_by_one(run):
    sources = [source for source, _ in PAIRS["complete"]]
    assert run.complete(sources) == [run.complete(source)[0] for source in sources]


def test_the_best_of_one_beam_is_the_greedy_text_and_more_beams_are_no_worse(run):
    prompts = [run.tokenizer.encode(f"{a}\t").tolist() for a, _ in PAIRS["complete"][:10]]
    greedy = complete_ids(run.model, prompts, CompletionOptions())
    searched = complete_ids(run.model, prompts, CompletionOptions(beams=4))
    right = [target for _, target in PAIRS["complete"][:10]]
    texts = [[run.tokenizer.decode(ids) for ids in each] for each in (greedy, searched)]
    assert texts[0] == texts[1] == right


def test_a_target_has_at_most_the_given_length(run):
    assert [len(target) for target in run.complete(["bano", "bara"], length=2)] == [2, 2]


def test_the_score_of_a_task_counts_exact_matches_and_edits(run):
    result = run.completions("valid")
    wrong = [error for error in result.errors if error.written != error.target]
    assert len(wrong) == len(result.errors)
    assert result.records == 30
    assert result.exact_match > 0.5
    assert result.edit_distance == pytest.approx(
        sum(error.edit_distance for error in result.errors) / 30
    )
    assert 0 < result.loss_nats < 1


def test_edit_distances_by_hand():
    pairs = {("", ""): 0, ("", "abc"): 3, ("kitten", "sitting"): 3, ("ab", "ba"): 2}
    assert {pair: edit_distance(*pair) for pair in pairs} == pairs


def test_control_characters_of_a_target_are_escaped_on_a_terminal_unless_raw(
    run, capsys, monkeypatch
):
    monkeypatch.setattr(Run, "complete", lambda self, sources, **options: ["a\x1b[2Jb"])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    arguments = ["sample", str(run.folder), "--source", "bano"]
    assert charlm(arguments) == 0
    assert capsys.readouterr().out == "a\\x1b[2Jb\n"
    assert charlm([*arguments, "--raw"]) == 0
    assert capsys.readouterr().out == "a\x1b[2Jb\n"


def test_a_source_is_completed_from_the_command_line(run, capfd, tmp_path):
    assert charlm(["sample", str(run.folder), "--source", "bano"]) == 0
    (expected,) = run.complete("bano")
    assert capfd.readouterr().out == f"{expected}\n"
    assert charlm(["sample", str(run.folder), "--source", "bano", "--beams", "2", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["beams"] == 2
    key = ["--source", "bano", "--api-key-file", str(tmp_path / "key")]
    assert charlm(["sample", str(run.folder), *key]) == 2
    assert "--api-key-file: cannot be combined with --source" in capfd.readouterr().err
    assert charlm(["eval", "task", str(run.folder), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == run.completions().to_json()
    assert charlm(["eval", "task", str(run.folder)]) == 0
    assert "exact_match" in capfd.readouterr().out


def test_what_does_not_apply_is_refused_with_what_to_use_instead(run, trained):
    with pytest.raises(CharlmError, match=r"in Python Run\.complete\) .* charlm eval task"):
        run.perplexity()
    with pytest.raises(CharlmError, match="charlm train PAIRS --task complete"):
        load(trained, device="cpu").complete("The")


def test_the_samples_of_a_training_are_completions(pairs_files, tmp_path):
    config = small_config(pairs_files["complete"], "task.kind=complete")
    experiment = prepare.begin(config, tmp_path / "run")
    *_, sample = (e for e in sampled(experiment, session.run(experiment)) if isinstance(e, Sampled))
    run = load(tmp_path / "run", which="last", device="cpu")
    for line in sample.text.split("\n")[:5]:
        source, target = line.split("\t")
        assert run.complete(source, length=80) == [target]


def test_numbers_are_written_in_words():
    names = {
        0: "zero",
        13: "thirteen",
        40: "forty",
        99: "ninety-nine",
        100: "one hundred",
        1234: "one thousand two hundred thirty-four",
        1_000_007: "one million seven",
    }
    assert {number: number_in_words(number) for number in names} == names
    pairs = [line.split("\t") for line in number_words(numbers=300, digits=4)]
    assert len({number for number, _ in pairs}) == 300
    assert all(number_in_words(int(n.replace(",", ""))) == name for n, name in pairs)
    for wrong in ({"digits": 10}, {"digits": "6"}, {"numbers": 6, "digits": 1}):
        name = next(iter(wrong))
        with pytest.raises(CorpusError, match=f"number-words: {name} must be"):
            next(number_words(**wrong))
