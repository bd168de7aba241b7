"""The score of a text, with what it is compared with."""

import json
import math

import numpy as np
import pytest
import torch

from charlm.config.schema import Model
from charlm.data.tokenizer import EOS
from charlm.data.tokens import Counts, Tokens
from charlm.errors import CorpusError
from charlm.evaluation.perplexity import Perplexity, measure, unigram_loss_nats
from charlm.model.language_model import LanguageModel

CPU = torch.device("cpu")
VOCABULARY = 8


def text(ids: list[int], *, characters: int = 0) -> Tokens:
    return Tokens(
        np.array(ids, dtype=np.uint8),
        Counts(len(ids), ids.count(1), characters or len(ids), len(ids)),
    )


def make(*, uniform: bool) -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(Model(hidden_size=8, embedding_size=4), VOCABULARY).eval()
    with torch.no_grad():
        model.projection.weight *= 0 if uniform else 4
    return model


def score_of(model: LanguageModel, tokens: Tokens, *, mode: str = "stream", streams: int = 1):
    return measure(model, tokens, mode=mode, streams=streams, device=CPU, precision=torch.float32)


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_uniform_model_over_eight_tokens_scores_three_bits(mode):
    tokens = text([2, 3, EOS, 7, 7, 5, 4, EOS])
    score = score_of(make(uniform=True), tokens, mode=mode)
    assert score.tokens == 8
    assert score.bits_per(tokens.counts.characters) == pytest.approx(3, rel=1e-6)


def test_bits_per_character_by_hand():
    # Ten tokens of three bits each for a text of 40 characters: 30 / 40.
    tokens = text([2, 3, 4, 5, 6, 7, 2, 3, 4, EOS], characters=40)
    score = score_of(make(uniform=True), tokens)
    assert score.bits_per(tokens.counts.characters) == pytest.approx(0.75, rel=1e-6)


def test_the_state_is_carried_through_a_text_longer_than_a_window():
    model = make(uniform=False)
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 1100)
    with torch.no_grad():
        logits, _ = model(torch.from_numpy(np.concatenate([[EOS], ids[:-1]]))[:, None])
    expected = torch.nn.functional.cross_entropy(
        logits[:, 0], torch.from_numpy(ids), reduction="sum"
    )
    assert score_of(model, text(ids.tolist())).nats == pytest.approx(float(expected), rel=1e-5)


def test_a_record_forgets_the_one_before_it_and_a_stream_does_not():
    model = make(uniform=False)
    first, second = [3, 4, 5, EOS], [6, 7, EOS]
    alone = sum(score_of(model, text(record)).nats for record in (first, second))
    assert score_of(model, text(first + second), mode="records").nats == pytest.approx(
        alone, rel=1e-6
    )
    assert score_of(model, text(first + second)).nats != pytest.approx(alone, rel=1e-3)


def test_several_streams_predict_each_token_once_and_nearly_as_well():
    model = make(uniform=False)
    tokens = text(np.random.default_rng(1).integers(0, VOCABULARY, 1500).tolist())
    exact, fast = score_of(model, tokens), score_of(model, tokens, streams=4)
    assert fast.tokens == exact.tokens == 1500
    assert fast.nats == pytest.approx(exact.nats, rel=1e-5)


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_a_text_without_tokens_is_told_in_one_line(mode):
    with pytest.raises(CorpusError, match=r"^the text to score has no token; [^\n]+$"):
        score_of(make(uniform=True), text([]), mode=mode)


def test_the_perplexity_of_unigrams_by_hand():
    # With one added to each, four tokens were seen 1, 1, 4 and 2 times: of eight.
    nats = unigram_loss_nats([0, 0, 3, 1], text([2, 2, 3, 0]))
    assert math.exp(nats) == pytest.approx((2 * 2 * 4 * 8) ** (1 / 4))


def test_unigrams_that_were_never_seen_are_uniform():
    assert math.exp(unigram_loss_nats([0] * 8, text([2, 5, 7]))) == pytest.approx(8)
    assert unigram_loss_nats([0] * 8, text([])) == 0


def test_a_score_travels_as_json_with_all_that_it_belongs_to():
    perplexity = Perplexity(
        1.0, math.e, 1.4, 1.3, 0.5, 0.0, 9.0, 10, 12, 13, 0.1, {"level": "char", "seed": 1}
    )
    data = json.loads(json.dumps(perplexity.to_json()))
    assert data["loss_nats"] == 1.0
    assert data["settings"] == {"level": "char", "seed": 1}
    assert {
        "perplexity",
        "bits_per_character",
        "bits_per_byte",
        "tokens",
        "characters",
        "bytes",
    } <= set(data)
