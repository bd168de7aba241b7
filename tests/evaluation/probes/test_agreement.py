"""Agreement: only the subject decides; stub models with known answers; pairs from files."""

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
from cli import running
from conftest import small_config, train_all
from torch import nn

from charlm.api import load
from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.builders.agreement import _NOUNS, AgreementSentence, agreement
from charlm.data.tokenizer import Tokenizer
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CorpusError, OptionError, TokenizerError
from charlm.evaluation.probes.agreement import (
    Agreement,
    draw_sentences,
    read_pairs,
    score_pairs,
    score_verbs,
)
from charlm.model_texts import encode, training_texts

CPU = torch.device("cpu")
IS_PLURAL = {noun.singular: False for noun in _NOUNS} | {noun.plural: True for noun in _NOUNS}
VERBS = {False: ["is", "was", "has"], True: ["are", "were", "have"]}
Words = list[str]
Rule = Callable[[Words], bool | None]  # Words so far → whether the verb is plural, None if unknown.


def draw(
    count: int = 200, *, seed: int = 2, longest: int = 4, most_nouns: int = 3
) -> list[AgreementSentence]:
    return draw_sentences(count, seed=seed, longest=longest, most_nouns=most_nouns)[0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_tokenizer(["\n".join(agreement(sentences=2000))], Section(level="word"))


class RuleModel(nn.Module):
    """A model that prefers the verbs of the number that a rule derives from the words before."""

    def __init__(self, tokenizer: Tokenizer, rule: Rule, direction: str = "forward") -> None:
        super().__init__()
        self.rule, self.direction = rule, direction
        self.projection = nn.Identity()
        self.words = [text.decode().strip() for text in tokenizer.token_bytes]
        self.verbs = {
            number: [self.words.index(verb) for verb in verbs if verb in self.words]
            for number, verbs in VERBS.items()
        }
        self.texts_read: list[Words] = []

    def encoder(
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
        self.texts_read += texts
        return logits, texts

    def read(self, inputs, targets, states=None):
        features, states = self.encoder(inputs, states)
        return features, targets, states

    def adapt(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def nouns(words: Words) -> list[bool]:
    return [IS_PLURAL[word] for word in words if word in IS_PLURAL]


def verbs(words: Words) -> list[bool]:
    return [word in VERBS[True] for word in words if word in VERBS[False] + VERBS[True]]


def first_noun(words: Words) -> bool | None:
    return next(iter(nouns(words)), None)


def score(tokenizer: Tokenizer, rule: Rule, sentences: list[AgreementSentence]) -> Agreement:
    model = RuleModel(tokenizer, rule)
    return score_verbs(model, tokenizer, sentences, records=True, device=CPU)


def accuracies(rows: list[dict[str, float]]) -> dict[float, float]:
    """Return a table's accuracy by the first number of its rows."""
    return {next(iter(row.values())): row["accuracy"] for row in rows}


def test_a_model_that_knows_the_subject_is_always_right(tokenizer):
    result = score(tokenizer, first_noun, draw())
    assert (result.accuracy, result.count) == (1.0, 200)
    rows = (*result.by_distance, *result.by_nouns, *result.by_attractors)
    assert {row["accuracy"] for row in rows} == {1.0}


def test_a_model_that_uses_the_last_noun_is_right_only_where_no_noun_intervenes(tokenizer):
    result = score(tokenizer, lambda words: next(reversed(nouns(words)), None), draw())
    by_nouns = accuracies(result.by_nouns)
    assert by_nouns.pop(0) == 1.0
    assert set(by_nouns.values()) == {0.5}
    assert accuracies(result.by_attractors)[0] == 1.0
    assert accuracies(result.by_attractors)[3] == 0.0
    assert result.by_attractors[1]["attractors"] == 1
    assert 0.2 < result.by_attractors[1]["accuracy"] < 0.5


def test_a_model_that_ignores_the_subject_is_right_half_the_time_at_every_distance(tokenizer):
    rules: dict[str, Rule] = {
        "plural": lambda words: True,
        "singular": lambda words: False,
        "length": lambda words: len(words) % 2 == 0,
        "majority": lambda words: sum(nouns(words)[1:]) * 2 > len(nouns(words)[1:]),
        "word": lambda words: "that" in words,
    }
    for name, rule in rules.items():
        result = score(tokenizer, rule, draw(100))
        by_distance, by_nouns = accuracies(result.by_distance), accuracies(result.by_nouns)
        assert {result.accuracy, *by_distance.values(), *by_nouns.values()} == {0.5}, name


def test_only_subject_and_verb_depend_on_the_number():
    for longest, most_nouns in [(4, 3), (12, 6), (0, 0)]:
        counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        sentences = draw(400, longest=longest, most_nouns=most_nouns)
        for sentence in sentences:
            words = sentence.prefix.replace(",", "").split()
            subject = words.pop(len(words) - sentence.distance - 1)
            assert IS_PLURAL[subject] == sentence.subject_is_plural
            counts[sentence.subject_is_plural].update(
                [*words, sentence.rest, f"distance {sentence.distance}"]
            )
        assert counts[False] == counts[True], longest
        assert sum(sentence.subject_is_plural for sentence in sentences) == 200
        assert len({sentence.text for sentence in sentences}) == 400


def test_nothing_after_the_verb_counts_for_a_model_that_reads_forward(tokenizer):
    # The rest of each sentence fits only the wrong verb, so that whole sentences are all wrong.
    sentences = [
        dataclasses.replace(sentence, rest=f"{sentence.wrong_verb} " * 9) for sentence in draw(20)
    ]
    model = RuleModel(tokenizer, lambda words: next(iter(verbs(words) or nouns(words)), None))
    result = score_verbs(model, tokenizer, sentences, records=True, device=CPU)
    assert result.accuracy == 1.0
    assert result.settings["compared"] == "texts up to the verb"
    whole = [(sentence.text, sentence.wrong_text) for sentence in sentences]
    assert score_pairs(model, tokenizer, whole, records=True, device=CPU).accuracy == 0.0


def test_a_model_that_reads_backward_is_given_whole_sentences(tokenizer):
    sentences = draw(2)
    last = sentences[0].text.removesuffix(".").split()[-1]
    for direction in ("backward", "both"):
        model = RuleModel(tokenizer, lambda words: None, direction)
        result = score_verbs(model, tokenizer, sentences, records=False, device=CPU)
        assert result.settings["compared"] == "whole sentences"
        assert ["", ".", last] in [words[:3] for words in model.texts_read], direction


def test_a_tie_counts_as_wrong(tokenizer):
    result = score(tokenizer, lambda words: None, draw(20))
    assert (result.accuracy, result.unknown_pairs, result.unknown_share) == (0.0, 0, 0.0)


def test_verbs_that_the_model_does_not_know_are_listed_and_are_ties():
    lines = [
        line
        for line in agreement(sentences=500)
        if " has been " not in line and " have been " not in line
    ]
    tokenizer = learn_tokenizer(["\n".join(lines)], Section(level="word"))
    sentences = draw(100)
    result = score(tokenizer, first_noun, sentences)
    unknown = sum(sentence.verb in ("has", "have") for sentence in sentences)
    assert result.settings["unknown_verbs"] == ["has", "have"]
    assert result.unknown_pairs == unknown > 0
    assert result.accuracy == 1 - unknown / 100
    assert 0 < result.unknown_share < 0.1


def test_a_model_that_knows_none_of_the_verbs_is_refused():
    problem = r"^agreement: the model knows none of the verbs are, .*corpus agreement"
    for text, level in [("the cat sat.\n" * 9, "word"), ("0123456789\n" * 9, "char")]:
        tokenizer = learn_tokenizer([text], Section(level=level))
        with pytest.raises(TokenizerError, match=problem):
            score_verbs(None, tokenizer, draw(40), records=True, device=CPU)


def test_every_sentence_is_in_one_row_of_each_table(tokenizer):
    sentences = draw(300, longest=12, most_nouns=6)
    result = score(tokenizer, lambda words: len(words) % 3 == 0, sentences)
    for rows in (result.by_distance, result.by_nouns, result.by_attractors):
        assert sum(row["count"] for row in rows) == result.count == 300
        right = sum(row["count"] * row["accuracy"] for row in rows)
        assert right == pytest.approx(result.count * result.accuracy)
    spans = [(row["distance_from"], row["distance_to"]) for row in result.by_distance]
    assert spans == [(0, 0), (1, 3), (4, 6), (7, 9), (10, 12), (13, 16), (17, 20), (21, None)]
    for (low, high), row in zip(spans, result.by_distance, strict=True):
        last = 99 if high is None else high
        assert row["count"] == sum(low <= sentence.distance <= last for sentence in sentences)


def test_distances_without_sentences_have_no_row(tokenizer):
    result = score(tokenizer, lambda words: True, draw(20, longest=0))
    row = {"distance_from": 0, "distance_to": 0, "count": 20, "accuracy": 0.5}
    assert result.by_distance == [row]
    assert result.by_nouns == [{"nouns": 0, "count": 20, "accuracy": 0.5}]


def test_sentences_of_the_training_text_are_left_out_with_their_counterparts():
    seen = {sentence.text for sentence in draw(100)[::4]}
    sentences, left_out = draw_sentences(100, seed=2, longest=4, most_nouns=3, seen=seen)
    assert (len(sentences), left_out) == (100, 50)
    assert not seen & {sentence.text for sentence in sentences}
    assert [sentence.subject_is_plural for sentence in sentences] == [False, True] * 50


def test_the_seed_decides_which_sentences_are_drawn():
    assert draw(50) == draw(50)
    first, other = ({sentence.text for sentence in draw(50, seed=seed)} for seed in (2, 3))
    assert not first >= other


def test_the_number_of_sentences_must_be_even():
    for count in (-2, 0, 1, 7):
        problem = rf"^sentences: must be even and at least 2, .* got {count}$"
        with pytest.raises(OptionError, match=problem):
            draw(count)


def test_pairs_are_compared_as_whole_sentences_and_records_with_their_end(tokenizer):
    model = RuleModel(tokenizer, first_noun)
    pairs = [("The cat is full.", "The cat are full."), ("The cat are full.", "The cat is full.")]
    result = score_pairs(model, tokenizer, pairs, records=True, device=CPU)
    assert (result.accuracy, result.count, result.unknown_pairs) == (0.5, 2, 0)
    assert result.by_distance == result.by_nouns == result.by_attractors == []
    assert model.texts_read[0][-1] == "."  # So that <EOS> is predicted after it.
    model.texts_read.clear()
    score_pairs(model, tokenizer, pairs, records=False, device=CPU)
    assert model.texts_read[0][-1] == "full"


def test_pairs_that_are_the_same_tokens_count_as_wrong(tokenizer):
    pairs = [("The cat is full.", "The cat are full."), ("The zebra is full.", "The zebu is full.")]
    model = RuleModel(tokenizer, lambda words: False)
    result = score_pairs(model, tokenizer, pairs, records=False, device=CPU)
    assert (result.accuracy, result.unknown_pairs) == (0.5, 1)
    assert result.unknown_share == pytest.approx(2 / 20)


def test_pairs_are_read_from_a_file_or_standard_input(tmp_path, monkeypatch):
    path = tmp_path / "pairs.tsv"
    path.write_bytes("\ufeffA cat is\tA cat are\r\n\n  \nŽebras are\tŽebras is".encode())
    assert read_pairs(path) == [("A cat is", "A cat are"), ("Žebras are", "Žebras is")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b\ta c\nd\n")))
    with pytest.raises(CorpusError, match=r"^standard input:2: must have one tab"):
        read_pairs("-")


def test_an_error_in_a_file_of_pairs_names_its_line(tmp_path):
    path = tmp_path / "pairs.tsv"
    for contents, problem in [
        (b"a\tb\n\nno tab\n", ":3: must have one tab .* got 0: 'no tab'"),
        (b"a\tb\tc\n", ":1: must have one tab .* got 2"),
        (b"a\tb\ncaf\xe9\tcafe\n", r":2: byte 3 \(0xe9\) is not UTF-8"),
        (b"a b\ta b\n", ":1: both sentences are the same, 'a b'"),
        (b"a b\t\n", ":1: must have a sentence on both"),
        (b"", ": has no pair"),
        (b"\n \n", ": has no pair"),
    ]:
        path.write_bytes(contents)
        with pytest.raises(CorpusError, match=rf"^{path}{problem}[^\n]*$"):
            read_pairs(path)
    with pytest.raises(CorpusError, match=r"nothing.tsv: cannot be read: No such file"):
        read_pairs(tmp_path / "nothing.tsv")
    with pytest.raises(CorpusError, match="cannot be read: Is a directory"):
        read_pairs(tmp_path)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run trained on sentences of the grammar, which are in a file of its own."""
    folder = tmp_path_factory.mktemp("agreement")
    lines = agreement(sentences=300, seed=5, longest=1)
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = small_config(folder / "text.txt", "corpus.mode=records", "tokenizer.level=word")
    train_all(config, folder / "run")
    return folder / "run"


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sentences that a run is scored on."""
    texts: list[str] = []

    def spy(
        model: object, tokenizer: object, sentences: list[AgreementSentence], **rest: object
    ) -> Agreement:
        texts.extend(sentence.text for sentence in sentences)
        return score_verbs(model, tokenizer, sentences, **rest)

    monkeypatch.setattr("charlm.evaluation.probes.agreement.score_verbs", spy)
    return texts


def test_a_run_is_never_scored_on_its_training_sentences(run_folder, scored):
    run = load(run_folder)
    result = run.agreement(sentences=100, seed=5, longest=1)
    text = set(run_folder.with_name("text.txt").read_text(encoding="utf-8").splitlines())
    ids = encode(run.trained, training_texts(run.trained)["train"]).ids.tolist()
    trained_on = set(run.tokenizer.decode(ids).splitlines())
    assert 100 < len(trained_on) < len(text) and trained_on < text and len(scored) == 100
    assert not trained_on & set(scored)
    assert result.settings["left_out_as_seen"] > 50


def test_a_run_without_its_text_is_scored_on_any_sentences(run_folder, tmp_path):
    shutil.copytree(run_folder.parent, tmp_path / "copy")
    path = tmp_path / "copy/run/config.yaml"
    config = path.read_text(encoding="utf-8")
    path.write_text(config.replace(str(run_folder.parent), str(tmp_path / "gone")))
    result = load(tmp_path / "copy/run").agreement(sentences=10)
    assert result.settings["left_out_as_seen"] is None


def test_a_result_has_all_settings_that_it_depends_on(run_folder, tmp_path):
    run = load(run_folder)
    data = run.agreement(sentences=40, longest=6, most_nouns=2).to_json()
    names = (
        "run checkpoint step level mode direction device training_seed version sentences seed "
        "longest most_nouns"
    )
    assert set(names.split()) < set(json.loads(json.dumps(data))["settings"])
    assert data["settings"]["longest"] == 6 and data["settings"]["seed"] == 2
    path = tmp_path / "pairs.tsv"
    path.write_text("The cat is sad.\tThe cat are sad.\n")
    settings = run.agreement(path).settings
    assert settings["pairs"] == str(path)
    assert settings["compared"] == "whole sentences, each with its <EOS>"


def ok(capfd, *arguments: object) -> str:
    return running.ok(capfd, "eval", "agreement", *arguments)


def test_the_command_prints_a_table_or_json(capfd, run_folder):
    arguments = [run_folder, "--sentences", 200, "--longest", 9]
    table = ok(capfd, *arguments).splitlines()
    assert table[0].split()[0] == "accuracy" and "200 pairs" in table[0]
    assert any(line.startswith("words from subject to verb 0 ") for line in table)
    assert any("21 or more" in line for line in table) and any("4 to 6" in line for line in table)
    assert "longest 9" in table[-1]
    data = json.loads(ok(capfd, *arguments, "--json"))
    assert f"{data['accuracy']:.1%}" in table[0]
    assert data["count"] == 200


def test_the_command_scores_the_newest_run_on_a_file(capfd, run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, "runs/newest")
    Path("pairs.tsv").write_text(
        "The cat is sad.\tThe cat are sad.\nThe gnu is sad.\tThe zebu is sad.\n"
    )
    data = json.loads(ok(capfd, "pairs.tsv", "--json"))
    assert (data["count"], data["unknown_pairs"], data["settings"]["run"]) == (2, 1, "runs/newest")
    table = ok(capfd, run_folder, "pairs.tsv")
    assert "2 pairs" in table and "both sentences are the same tokens" in table


def test_a_mistake_is_one_line(capfd, run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.tsv").write_text("no tab\n")
    for arguments, status, problem in [
        (["--sentences", "3"], 2, "--sentences: must be even"),
        (["--longest", "17"], 2, "--longest"),
        (["a.tsv", "a.tsv"], 2, "one file of pairs"),
        (["a.tsv"], 1, "a.tsv:1: must have one tab"),
        (["nowhere.tsv"], 1, "nowhere.tsv: cannot be read"),
    ]:
        error = running.refused(capfd, "eval", "agreement", run_folder, *arguments, status=status)
        assert problem in error
