"""Whether the verb agrees: nothing but the subject tells; stubs with scores known beforehand; pairs from files."""

import dataclasses
import io
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import small_config, train_all

from charlm.api import Run, load
from charlm.cli.main import run as charlm
from charlm.config.schema import Tokenizer as Section
from charlm.data.builders import _NOUNS, AgreementSentence, agreement
from charlm.data.tokenizer import EOS, Tokenizer, learn_tokenizer
from charlm.errors import CorpusError, TokenizerError
from charlm.evaluation.probes.agreement import (
    Agreement,
    ask_pairs,
    ask_sentences,
    draw_sentences,
    read_pairs,
)
from charlm.evaluation.sentences import log_probabilities
from charlm.trained_model import text_to_score

CPU = torch.device("cpu")
IS_PLURAL = {noun.singular: False for noun in _NOUNS} | {noun.plural: True for noun in _NOUNS}
VERBS = {False: ["is", "was", "has"], True: ["are", "were", "have"]}
Words = list[str]


def draw(
    count: int = 200, *, seed: int = 2, longest: int = 4, most_nouns: int = 3
) -> list[AgreementSentence]:
    return draw_sentences(count, seed=seed, longest=longest, most_nouns=most_nouns)[0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_tokenizer(["\n".join(agreement(sentences=2000))], Section(level="word"))


class DynamicSettings(torch.nn.Module):
    """A model that tells the verb's number from the words before it by a rule, and nothing else."""

    def __init__(
        self, tokenizer: Tokenizer, rule: Callable[[Words], bool | None], direction: str = "forward"
    ) -> None:
        super().__init__()
        self.rule, self.direction = rule, direction
        self.words = [text.decode().strip() for text in tokenizer.token_bytes]
        self.verbs = {
            number: [self.words.index(verb) for verb in verbs if verb in self.words]
            for number, verbs in VERBS.items()
        }
        self.read: list[Words] = []

    def forward(
        self, ids: torch.Tensor, states: list[Words] | None = None
    ) -> tuple[torch.Tensor, list[Words]]:
        texts = [list(words) for words in states or [[]] * ids.shape[1]]
        logits = torch.zeros(*ids.shape, len(self.words))
        for time, row in enumerate(ids.tolist()):
            for column, token in enumerate(row):
                texts[column].append(self.words[token])
                number = self.rule(texts[column])
                if number is not None:
                    logits[time, column, self.verbs[number]] = 1.0
        self.read += texts
        return logits, texts


def nouns(words: Words) -> list[bool]:
    return [IS_PLURAL[word] for word in words if word in IS_PLURAL]


def verbs(words: Words) -> list[bool]:
    return [word in VERBS[True] for word in words if word in VERBS[False] + VERBS[True]]


def ask(
    tokenizer: Tokenizer, rule: Callable[[Words], bool | None], sentences: list[AgreementSentence]
) -> Agreement:
    return ask_sentences(
        DynamicSettings(tokenizer, rule), tokenizer, sentences, records=True, device=CPU
    )


def shares(rows: list[dict[str, float]]) -> dict[float, float]:
    """Return a table's accuracy by the first number of its rows."""
    return {next(iter(row.values())): row["accuracy"] for row in rows}


def test_who_knows_the_subject_is_always_right(tokenizer):
    found = ask(tokenizer, lambda words: next(iter(nouns(words)), None), draw())
    assert (found.accuracy, found.count) == (1.0, 200)
    assert {
        row["accuracy"] for row in (*found.by_distance, *found.by_nouns, *found.by_attractors)
    } == {1.0}


def test_who_takes_the_last_noun_for_the_subject_is_right_only_where_there_is_no_other(tokenizer):
    found = ask(tokenizer, lambda words: next(reversed(nouns(words)), None), draw())
    by_nouns = shares(found.by_nouns)
    assert by_nouns.pop(0) == 1.0
    assert set(by_nouns.values()) == {0.5}
    assert shares(found.by_attractors)[0] == 1.0
    assert shares(found.by_attractors)[3] == 0.0
    assert found.by_attractors[1]["attractors"] == 1
    assert 0.2 < found.by_attractors[1]["accuracy"] < 0.5


@pytest.mark.parametrize(
    "rule",
    [
        lambda words: True,
        lambda words: False,
        lambda words: len(words) % 2 == 0,
        lambda words: sum(nouns(words)[1:]) * 2 > len(nouns(words)[1:]),
        lambda words: "that" in words,
    ],
    ids=["plural", "singular", "length", "majority", "word"],
)
def test_who_never_reads_the_subject_is_right_half_the_time_at_every_distance(tokenizer, rule):
    found = ask(tokenizer, rule, draw())
    assert {
        found.accuracy,
        *shares(found.by_distance).values(),
        *shares(found.by_nouns).values(),
    } == {0.5}


@pytest.mark.parametrize(("longest", "most_nouns"), [(4, 3), (12, 6), (0, 0)])
def test_words_beside_subject_and_verb_do_not_tell_the_number(longest, most_nouns):
    counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    sentences = draw(400, longest=longest, most_nouns=most_nouns)
    for sentence in sentences:
        words = sentence.prefix.replace(",", "").split()
        before = len(words) - sentence.distance - 1
        assert IS_PLURAL[words.pop(before)] == sentence.subject_is_plural
        counts[sentence.subject_is_plural].update(
            [*words, sentence.rest, f"distance {sentence.distance}"]
        )
    assert counts[False] == counts[True]
    assert sum(sentence.subject_is_plural for sentence in sentences) == 200
    assert len({sentence.text for sentence in sentences}) == 400


def test_nothing_after_the_verb_counts_for_a_model_that_reads_forward(tokenizer):
    # After its verb a sentence goes on as only the wrong one would: whole sentences would all be decided wrong by it.
    sentences = [
        dataclasses.replace(sentence, rest=f"{sentence.wrong_verb} " * 9) for sentence in draw(20)
    ]
    model = DynamicSettings(tokenizer, lambda words: next(iter(verbs(words) or nouns(words)), None))
    found = ask_sentences(model, tokenizer, sentences, records=True, device=CPU)
    assert found.accuracy == 1.0
    assert found.settings["compared"] == "texts up to the verb"
    whole = [(sentence.text, sentence.wrong_text) for sentence in sentences]
    assert ask_pairs(model, tokenizer, whole, records=True, device=CPU).accuracy == 0.0


@pytest.mark.parametrize("direction", ["backward", "both"])
def test_a_model_that_reads_backward_is_asked_for_whole_sentences(tokenizer, direction):
    sentences = draw(2)
    model = DynamicSettings(tokenizer, lambda words: None, direction)
    found = ask_sentences(model, tokenizer, sentences, records=False, device=CPU)
    assert found.settings["compared"] == "whole sentences"
    last = sentences[0].text.removesuffix(".").split()[-1]
    assert ["", ".", last] in [words[:3] for words in model.read]


def test_a_tie_counts_as_wrong(tokenizer):
    found = ask(tokenizer, lambda words: None, draw(20))
    assert (found.accuracy, found.unknown_pairs, found.unknown_share) == (0.0, 0, 0.0)


def test_verbs_that_the_model_does_not_know_are_told_and_are_ties():
    lines = [
        line
        for line in agreement(sentences=500)
        if " has been " not in line and " have been " not in line
    ]
    tokenizer = learn_tokenizer(["\n".join(lines)], Section(level="word"))
    sentences = draw(100)
    model = DynamicSettings(tokenizer, lambda words: next(iter(nouns(words)), None))
    found = ask_sentences(model, tokenizer, sentences, records=True, device=CPU)
    unknown = sum(sentence.verb in ("has", "have") for sentence in sentences)
    assert found.settings["unknown_verbs"] == ["has", "have"]
    assert found.unknown_pairs == unknown > 0
    assert found.accuracy == 1 - unknown / 100
    assert 0 < found.unknown_share < 0.1


@pytest.mark.parametrize(
    ("text", "level"), [("the cat sat.\n" * 9, "word"), ("0123456789\n" * 9, "char")]
)
def test_a_model_that_knows_none_of_the_verbs_is_told_to_train_on_the_corpus(text, level):
    tokenizer = learn_tokenizer([text], Section(level=level))
    with pytest.raises(
        TokenizerError,
        match=r"^agreement: the model knows none of the verbs are, .*corpus agreement",
    ):
        ask_sentences(None, tokenizer, draw(40), records=True, device=CPU)


def test_every_sentence_is_in_one_row_of_each_table(tokenizer):
    sentences = draw(300, longest=12, most_nouns=6)
    found = ask(tokenizer, lambda words: len(words) % 3 == 0, sentences)
    for rows in (found.by_distance, found.by_nouns, found.by_attractors):
        assert sum(row["count"] for row in rows) == found.count == 300
        right = sum(row["count"] * row["accuracy"] for row in rows)
        assert right == pytest.approx(found.count * found.accuracy)
    spans = [(row["distance_from"], row["distance_to"]) for row in found.by_distance]
    assert spans == [(0, 0), (1, 3), (4, 6), (7, 9), (10, 12), (13, 16), (17, 20), (21, None)]
    for (low, high), row in zip(spans, found.by_distance, strict=True):
        last = 99 if high is None else high
        assert row["count"] == sum(low <= sentence.distance <= last for sentence in sentences)


def test_distances_that_nothing_asks_for_are_left_out(tokenizer):
    found = ask(tokenizer, lambda words: True, draw(20, longest=0))
    assert found.by_distance == [
        {"distance_from": 0, "distance_to": 0, "count": 20, "accuracy": 0.5}
    ]
    assert found.by_nouns == [{"nouns": 0, "count": 20, "accuracy": 0.5}]


def test_sentences_that_were_seen_are_left_out_with_their_other_number():
    first = draw(100)
    seen = {sentence.text for sentence in first[::4]}
    sentences, left_out = draw_sentences(100, seed=2, longest=4, most_nouns=3, seen=seen)
    assert (len(sentences), left_out) == (100, 50)
    assert not seen & {sentence.text for sentence in sentences}
    assert [sentence.subject_is_plural for sentence in sentences] == [False, True] * 50


def test_a_seed_asks_the_same_sentences_and_another_others():
    assert draw(50) == draw(50)
    assert not {sentence.text for sentence in draw(50)} >= {
        sentence.text for sentence in draw(50, seed=3)
    }


@pytest.mark.parametrize("count", [-2, 0, 1, 7])
def test_a_number_of_sentences_that_cannot_be_half_plural_is_refused(count):
    with pytest.raises(
        CorpusError, match=rf"^sentences must be even and at least 2, got {count}: "
    ):
        draw(count)


def test_pairs_are_compared_as_whole_sentences_and_records_with_their_end(tokenizer):
    model = DynamicSettings(tokenizer, lambda words: next(iter(nouns(words)), None))
    pairs = [("The cat is full.", "The cat are full."), ("The cat are full.", "The cat is full.")]
    found = ask_pairs(model, tokenizer, pairs, records=True, device=CPU)
    assert (found.accuracy, found.count, found.unknown_pairs) == (0.5, 2, 0)
    assert found.by_distance == found.by_nouns == found.by_attractors == []
    ids = [*tokenizer.encode("The cat is full.").tolist(), EOS]
    assert log_probabilities(model, [ids], device=CPU)[0] < 0
    assert model.read[0][-1] == "."  # So that <EOS> is predicted after it.
    model.read.clear()
    ask_pairs(model, tokenizer, pairs, records=False, device=CPU)
    assert model.read[0][-1] == "full"


def test_pairs_that_are_the_same_tokens_to_the_model_count_as_wrong(tokenizer):
    pairs = [("The cat is full.", "The cat are full."), ("The zebra is full.", "The zebu is full.")]
    model = DynamicSettings(tokenizer, lambda words: False)
    found = ask_pairs(model, tokenizer, pairs, records=False, device=CPU)
    assert (found.accuracy, found.unknown_pairs) == (0.5, 1)
    assert found.unknown_share == pytest.approx(2 / 20)


def test_pairs_are_read_from_a_file_a_line_each(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes("\ufeffA cat is\tA cat are\r\n\n  \nŽebras are\tŽebras is".encode())
    assert read_pairs(path) == [("A cat is", "A cat are"), ("Žebras are", "Žebras is")]


def test_pairs_come_from_standard_input_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b\ta c\nd\n")))
    with pytest.raises(CorpusError, match=r"^standard input:2: must have one tab"):
        read_pairs("-")


@pytest.mark.parametrize(
    ("contents", "problem"),
    [
        (b"a\tb\n\nno tab\n", ":3: must have one tab, .* got 0: 'no tab'"),
        (b"a\tb\tc\n", ":1: must have one tab, .* got 2"),
        (b"a\tb\ncaf\xe9\tcafe\n", r":2: byte 3 \(0xe9\) is not UTF-8"),
        (b"a b\ta b\n", ":1: the two sentences are the same, 'a b'"),
        (b"a b\t\n", ":1: must have a sentence on both"),
        (b"", ": holds no pair"),
        (b"\n \n", ": holds no pair"),
    ],
)
def test_a_file_that_holds_no_pairs_is_told_by_its_line(tmp_path, contents, problem):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(contents)
    with pytest.raises(CorpusError, match=rf"^{path}{problem}[^\n]*$"):
        read_pairs(path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CorpusError, match=r"nothing.tsv: cannot be read: No such file"):
        read_pairs(tmp_path / "nothing.tsv")
    with pytest.raises(CorpusError, match="cannot be read: Is a directory"):
        read_pairs(tmp_path)


TRAINING = {"sentences": 300, "seed": 5, "longest": 1}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run on sentences of the grammar, in a file of its own."""
    folder = tmp_path_factory.mktemp("agreement")
    (folder / "text.txt").write_text("\n".join(agreement(**TRAINING)) + "\n", encoding="utf-8")
    config = small_config(folder / "text.txt", "corpus.mode=records", "tokenizer.level=word")
    train_all(config, folder / "run")
    return folder / "run"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences that a run asks."""
    texts: list[str] = []

    def spy(
        model: object, tokenizer: object, sentences: list[AgreementSentence], **rest: object
    ) -> Agreement:
        texts.extend(sentence.text for sentence in sentences)
        return ask_sentences(model, tokenizer, sentences, **rest)

    monkeypatch.setattr("charlm.trained.scoring.ask_sentences", spy)
    return texts


def test_a_run_is_asked_nothing_that_it_was_trained_on(run_folder, asked):
    run = load(run_folder)
    found = run.agreement(sentences=100, seed=5, longest=1)
    text = set(run_folder.with_name("text.txt").read_text(encoding="utf-8").splitlines())
    trained_on = {run.tokenizer.decode(ids) for ids in _records(run)}
    assert trained_on < text and len(asked) == 100
    assert not trained_on & set(asked)
    assert found.settings["left_out_as_seen"] > 50


def _records(run: Run) -> list[list[int]]:
    records: list[list[int]] = [[]]
    for token in text_to_score(run.trained, split="train").tokens.ids.tolist():
        records[-1].append(token) if token != EOS else records.append([])
    return records[:-1]


def test_a_run_whose_text_is_gone_is_asked_all_the_same_and_says_so(run_folder, tmp_path):
    shutil.copytree(run_folder.parent, tmp_path / "copy")
    config = (tmp_path / "copy/run/config.yaml").read_text(encoding="utf-8")
    (tmp_path / "copy/run/config.yaml").write_text(
        config.replace(str(run_folder.parent), str(tmp_path / "gone"))
    )
    found = load(tmp_path / "copy/run").agreement(sentences=10)
    assert found.settings["left_out_as_seen"] is None


def test_a_score_tells_what_it_belongs_to(run_folder, tmp_path):
    run = load(run_folder)
    found = json.loads(json.dumps(run.agreement(sentences=40, longest=6, most_nouns=2).to_json()))
    names = "run checkpoint step level mode direction device training_seed version sentences seed longest most_nouns"
    assert set(names.split()) < set(found["settings"])
    assert found["settings"]["longest"] == 6 and found["settings"]["seed"] == 2
    path = tmp_path / "pairs.tsv"
    path.write_text("The cat is sad.\tThe cat are sad.\n")
    settings = run.agreement(path).settings
    assert (settings["pairs"], settings["compared"]) == (
        str(path),
        "whole sentences, each with its <EOS>",
    )


def ok(capfd, *arguments: object) -> str:
    """Run a command that must succeed; return what it printed on stdout."""
    assert charlm(["eval", "agreement", *map(str, arguments)]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def test_the_command_prints_a_table_for_people_or_one_object(capfd, run_folder):
    table = ok(capfd, run_folder, "--sentences", 200, "--longest", 9).splitlines()
    assert table[0].split()[0] == "accuracy" and "200 pairs" in table[0]
    assert any(line.startswith("words from subject to verb 0 ") for line in table)
    assert any("21 or more" in line for line in table) and any("4 to 6" in line for line in table)
    assert "longest 9" in table[-1]
    data = json.loads(ok(capfd, run_folder, "--sentences", 200, "--longest", 9, "--json"))
    assert f"{data['accuracy']:.1%}" in table[0]
    assert data["count"] == 200


def test_the_command_asks_the_newest_run_for_the_pairs_of_a_file(
    capfd, run_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, "runs/newest")
    Path("pairs.tsv").write_text(
        "The cat is sad.\tThe cat are sad.\nThe gnu is sad.\tThe zebu is sad.\n"
    )
    data = json.loads(ok(capfd, "pairs.tsv", "--json"))
    assert (data["count"], data["unknown_pairs"], data["settings"]["run"]) == (2, 1, "runs/newest")
    table = ok(capfd, run_folder, "pairs.tsv")
    assert "2 pairs" in table and "the same tokens to the model" in table


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["--sentences", "3"], 1, "must be even"),
        (["--longest", "17"], 2, "--longest"),
        (["a.tsv", "a.tsv"], 2, "one file of pairs"),
        (["a.tsv"], 1, "a.tsv:1: must have one tab"),
        (["nowhere.tsv"], 1, "nowhere.tsv: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(
    capfd, run_folder, tmp_path, monkeypatch, arguments, status, problem
):
    monkeypatch.chdir(tmp_path)
    Path("a.tsv").write_text("no tab\n")
    assert charlm(["eval", "agreement", str(run_folder), *arguments]) == status
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and problem in err
