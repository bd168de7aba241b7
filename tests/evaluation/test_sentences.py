"""Sentences, each read by itself, whole and token by token."""

import math

import numpy as np
import pytest
from small_models import CPU, make_model

from charlm.api import load
from charlm.config.tokenizer import Tokenizer
from charlm.data.tokenizer import EOS
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.perplexity import score_text
from charlm.evaluation.sentences import Line, Sentence, Sentences, read_sentences, score_lines
from charlm.evaluation.static_model import StaticModel
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import sequence_log_probabilities


def score(
    lines: list[str], model: LanguageModel, *, predicts_end: bool, explain: bool = True
) -> list[Sentence]:
    return score_lines(
        model,
        learn_tokenizer(["abcdef"], Tokenizer(level="char")),
        [Line(number, text) for number, text in enumerate(lines, start=1)],
        predicts_end=predicts_end,
        explain=explain,
        device=CPU,
    )


def nats_of(model: LanguageModel, ids: list[int]) -> float:
    return sequence_log_probabilities(model, [ids], eos=EOS, device=CPU)[0]


def test_the_score_of_a_sentence_is_that_of_its_tokens():
    first, second = score(["abc", "fz"], make_model(), predicts_end=True)
    assert first.log_probability == pytest.approx(nats_of(make_model(), [2, 3, 4, EOS]))
    assert first.log_probability_per_token == pytest.approx(first.log_probability / 4)
    assert (first.tokens, first.unknown, second.tokens, second.unknown) == (4, 0, 3, 1)
    for sentence, texts in ((first, ["a", "b", "c", "<EOS>"]), (second, ["f", "<UNK>", "<EOS>"])):
        assert [token.text for token in sentence.explained] == texts
        total = sum(token.log_probability for token in sentence.explained)
        assert total == pytest.approx(sentence.log_probability, rel=1e-5)
        product = math.prod(token.probability for token in sentence.explained)
        assert product == pytest.approx(math.exp(sentence.log_probability), rel=1e-4)


def test_the_token_that_is_read_first_has_no_context():
    for direction, position in {"forward": 0, "backward": 1}.items():
        model = make_model(direction)
        (sentence,) = score(["ab"], model, predicts_end=False)
        first = sentence.explained[position]
        assert first.log_probability == pytest.approx(nats_of(model, [first.token]), rel=1e-5)
        total = sum(token.log_probability for token in sentence.explained)
        assert sentence.log_probability == pytest.approx(total), direction


def test_a_model_of_both_directions_scores_sentences_but_not_tokens():
    model = make_model("both")
    (sentence,) = score(["ab"], model, predicts_end=True, explain=False)
    mean = -score_text(StaticModel(model, "records", CPU), np.array([2, 3, EOS])).loss_nats
    assert sentence.log_probability_per_token == pytest.approx(mean, rel=1e-5)
    assert sentence.log_probability == pytest.approx(3 * mean, rel=1e-5)
    with pytest.raises(CharlmError, match="both"):
        score(["ab"], model, predicts_end=True)


def test_ranking_keeps_the_order_of_ties():
    rows = [
        Sentence(line, "", nats, nats, tokens=1, unknown=0)
        for line, nats in ((1, -3.0), (2, -1.0), (3, -3.0), (4, -2.0))
    ]
    assert [row.line for row in Sentences(rows, {}).ranked()] == [2, 4, 1, 3]


def test_sentences_are_read_line_by_line_with_their_numbers(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_bytes("\ufeffà la carte\r\n\n  \n two ".encode())
    assert read_sentences(path) == [(1, "à la carte"), (4, " two ")]


def test_sentences_beside_a_file_and_no_sentences_are_refused(trained):
    run = load(trained)
    with pytest.raises(OptionError, match=r"^path: cannot be combined with sentences; "):
        run.sentences(["The cat"], path="-")
    for nothing in (None, []):
        with pytest.raises(CharlmError, match=r"^sentences: no sentence to score; "):
            run.sentences(nothing)


def test_a_file_without_sentences_is_refused(tmp_path):
    path = tmp_path / "sentences.txt"
    for contents, problem in [(b"\n \n", "has no sentence"), (b"caf\xe9", "byte 3 .0xe9. is not")]:
        path.write_bytes(contents)
        with pytest.raises(CorpusError, match=f"^{path}: {problem}[^\n]*$"):
            read_sentences(path)
    with pytest.raises(CorpusError, match="cannot be read: Is a directory"):
        read_sentences(tmp_path)
