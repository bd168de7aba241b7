"""Predictions of a passage, known letters, and embeddings."""

import numpy as np
import pytest
import torch
from conftest import small_config, train_all
from small_models import (
    CPU,
    VOCABULARY,
    log_p_at_once,
    make_model,
    random_ids,
    random_records,
)

from charlm.api import load
from charlm.config.tokenizer import Tokenizer as Section
from charlm.data.tokenizer import EOS
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CharlmError
from charlm.evaluation.probes.embeddings import measure_embeddings, principal_components
from charlm.evaluation.probes.known_letters import (
    count_known_letters,
    measure_known_letters,
    rank_tokens,
)
from charlm.evaluation.probes.passage import measure_passage, predict_passage
from charlm.evaluation.probes.reading import texts_of
from charlm.evaluation.static_model import StaticModel


def test_distributions_sum_to_one_and_contain_the_score_of_each_token():
    for direction in ("forward", "backward"):
        for mode, ids in (("stream", random_ids(40)), ("records", random_records(7))):
            model = make_model(direction)
            log_p = predict_passage(model, ids, mode=mode)
            np.testing.assert_allclose(np.exp(log_p).sum(axis=1), 1, err_msg=f"{direction} {mode}")
            targets = np.take_along_axis(log_p, ids[:, None].astype(int), axis=1)[:, 0]
            expected = StaticModel(model, mode, CPU).log_probabilities(ids)
            np.testing.assert_allclose(targets, expected, atol=1e-5, err_msg=f"{direction} {mode}")


def test_a_passage_of_a_run_has_texts_ranks_and_alternatives(trained):
    run = load(trained)
    passage = measure_passage(run.trained, "The cat sat\n")
    texts = [token.text for token in passage.tokens if token.token != EOS]
    assert "".join(texts) == "The cat sat\n"
    for token in passage.tokens:
        best = token.alternatives[0]
        assert (token.rank == 1) == (best.text == token.label)
        assert token.surprisal_bits == pytest.approx(-np.log2(token.probability))
        assert 0 <= token.entropy_bits <= np.log2(passage.vocabulary_size)
        probabilities = [alternative.probability for alternative in token.alternatives]
        assert probabilities == sorted(probabilities, reverse=True)


def test_the_rank_counts_the_tokens_that_are_at_least_as_probable():
    log_p = np.log([[0.5, 0.3, 0.2], [0.2, 0.4, 0.4], [0.1, 0.2, 0.7]])
    assert rank_tokens(log_p, np.array([1, 2, 0])).tolist() == [2, 2, 3]


def test_known_letters_are_counted_from_the_start_of_each_word():
    assert count_known_letters("a 1bc-d\n").tolist() == [0, -1, -1, 0, 1, -1, 0, -1]
    # Bytes of "n\u00e9e": the first byte of a character adds no text and ends no word.
    assert count_known_letters(["n", "", "\u00e9", "e"]).tolist() == [0, -1, 1, 2]


def test_the_end_of_a_record_ends_a_word():
    tokenizer = learn_tokenizer(["ab"], Section(level="char", eos="none"))
    texts = texts_of(np.array([2, 3, EOS, 3, 2]), tokenizer, records=True)
    assert texts == ["a", "b", "\n", "b", "a"]
    assert count_known_letters(texts).tolist() == [0, 1, -1, 0, 1]


def test_a_model_knows_a_word_better_after_its_first_letters(trained):
    run = load(trained)
    result = measure_known_letters(run.trained)
    accuracy = {row.known: row.accuracy for row in result.by_known}
    assert accuracy[2][0] > accuracy[0][0]
    for row in result.by_known:
        assert row.accuracy == sorted(row.accuracy)
    ids = run.tokenizer.encode("The cat sat on the roof.")
    score = StaticModel(run.model, "stream", CPU).log_probabilities(ids)
    ranks = rank_tokens(predict_passage(run.model, ids, mode="stream"), ids.astype(np.int64))
    assert (ranks[np.exp(score) > 0.5] == 1).all()


def test_words_have_no_known_letters(text_file, tmp_path):
    train_all(small_config(text_file, "tokenizer.level=word", "training.steps=2"), tmp_path / "run")
    with pytest.raises(CharlmError, match="level word"):
        measure_known_letters(load(tmp_path / "run").trained)


def test_principal_components_are_those_of_the_covariance():
    vectors = np.random.default_rng(1).normal(size=(30, 4)) * [5, 2, 1, 0.1]
    places, variance = principal_components(vectors)
    values = np.sort(np.linalg.eigvalsh(np.cov(vectors.T, bias=True)))[::-1]
    np.testing.assert_allclose(places.var(axis=0), values[:2])
    np.testing.assert_allclose(variance, values[:2] / values.sum())
    np.testing.assert_allclose(principal_components(np.ones((3, 2)))[0], 0)


def test_embeddings_list_the_nearest_tokens_by_cosine(trained):
    run = load(trained)
    embeddings = measure_embeddings(run.trained)
    counts = [token.count for token in embeddings.tokens]
    assert counts == sorted(counts, reverse=True)
    assert min(counts) > 0
    by_label = {token.label: token.token for token in embeddings.tokens}
    weight = run.model.encoder.embedding.weight.detach()
    first = embeddings.tokens[0]
    near = first.neighbours[0]
    cosines = torch.cosine_similarity(weight[first.token], weight[[*by_label.values()]])
    assert near.cosine == pytest.approx(float(cosines.topk(2).values[1]), abs=1e-5)
    assert near.label in by_label


def test_one_hot_tokens_have_no_embeddings(text_file, tmp_path):
    config = small_config(text_file, "model.embedding=one_hot", "training.steps=1")
    train_all(config, tmp_path / "run")
    with pytest.raises(CharlmError, match="one-hot"):
        measure_embeddings(load(tmp_path / "run").trained)


def test_the_first_input_of_a_passage_is_the_end_of_a_text():
    model, ids = make_model(), random_ids(6)
    log_p = predict_passage(model, ids, mode="stream")
    with torch.no_grad():
        logits, _ = model(torch.tensor([[EOS]]))
    np.testing.assert_allclose(log_p[0], logits[0, 0].log_softmax(dim=-1), atol=1e-6)
    assert log_p.shape == (6, VOCABULARY)
    assert np.take_along_axis(log_p, ids[:, None].astype(int), 1)[5, 0] == pytest.approx(
        log_p_at_once(model, ids)[5], abs=1e-5
    )
