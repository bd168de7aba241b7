"""Cross-entropy: summed over time, averaged over the batch; each token of a text scored once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config import Model
from charlm.data.tokenizer import EOS
from charlm.data.windows import PADDING, scoring_record_windows, scoring_windows
from charlm.model.language_model import LanguageModel
from charlm.training.loss import Score, score, summed_loss

CPU = torch.device("cpu")
VOCABULARY = 8


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Model(hidden_size=8, embedding_size=4, num_layers=2, output_dropout=0.5), VOCABULARY)


def uniform_model() -> LanguageModel:
    made = LanguageModel(Model(hidden_size=3, embedding_size=2), VOCABULARY)
    with torch.no_grad():
        made.projection.weight.zero_()
    return made


def ids(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(1, VOCABULARY, count).astype(np.uint8)


def scored(model: LanguageModel, windows: object) -> Score:
    return score(model, windows, device=CPU, precision=torch.float32)


def random_logits(time: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(time * 100 + batch)
    logits = torch.randn(time, batch, VOCABULARY, generator=generator)
    return logits, torch.randint(VOCABULARY, (time, batch), generator=generator)


# The objective


def test_the_loss_of_two_tokens_by_hand():
    logits = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.125, 0.875], [0.75, 0.25]]]).log()
    targets = torch.tensor([[0, 0], [0, 1]])
    # Two records, of which one has probability 1/2 x 1/8 and the other 1/4 x 1/4.
    torch.testing.assert_close(summed_loss(logits, targets), torch.tensor((math.log(16) + math.log(16)) / 2))


@pytest.mark.parametrize(("time", "batch"), [(1, 1), (5, 3), (2, 7)])
def test_the_loss_is_the_sum_over_time_of_the_mean_over_the_batch(time, batch):
    logits, targets = random_logits(time, batch)
    steps = [torch.nn.functional.cross_entropy(logits[t], targets[t]) for t in range(time)]
    torch.testing.assert_close(summed_loss(logits, targets), torch.stack(steps).sum())


def test_twice_the_time_is_twice_the_loss_and_twice_the_batch_is_the_same():
    logits, targets = random_logits(4, 3)
    loss = summed_loss(logits, targets)
    torch.testing.assert_close(summed_loss(logits.repeat(2, 1, 1), targets.repeat(2, 1)), 2 * loss)
    torch.testing.assert_close(summed_loss(logits.repeat(1, 2, 1), targets.repeat(1, 2)), loss)


def test_padding_is_not_counted_and_has_no_gradient():
    logits, targets = random_logits(4, 2)
    targets[2:, 1] = PADDING
    logits.requires_grad_()
    loss = summed_loss(logits, targets)
    loss.backward()
    columns = [torch.nn.functional.cross_entropy(logits[:4, 0], targets[:4, 0], reduction="sum"),
               torch.nn.functional.cross_entropy(logits[:2, 1], targets[:2, 1], reduction="sum")]  # fmt: skip
    torch.testing.assert_close(loss, sum(columns) / 2)
    assert logits.grad is not None
    assert (logits.grad[2:, 1] == 0).all()
    assert (logits.grad[:2] != 0).all()


def test_padding_alone_costs_nothing():
    logits, _ = random_logits(2, 2)
    assert summed_loss(logits, torch.full((2, 2), PADDING)) == 0


def test_the_order_of_records_does_not_change_the_loss():
    logits, targets = random_logits(5, 6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(summed_loss(logits[:, order], targets[:, order]), summed_loss(logits, targets))


# The score of a text


def test_uniform_model_over_eight_tokens_scores_three_bits():
    text = ids(50)
    result = scored(uniform_model(), scoring_windows(text, window=7))
    assert result.tokens == 50
    assert result.nats == pytest.approx(50 * math.log(8), rel=1e-6)
    assert result.loss_nats == pytest.approx(math.log(8), rel=1e-6)
    assert result.perplexity == pytest.approx(8, rel=1e-6)
    assert result.bits_per(50) == pytest.approx(3, rel=1e-6)


def test_bits_are_per_character_and_not_per_token():
    # Four tokens of probability 1/4 each are eight bits: over 16 characters, half a bit each.
    assert Score(nats=4 * math.log(4), tokens=4, correct=0).bits_per(16) == pytest.approx(0.5)
    assert Score(nats=4 * math.log(4), tokens=4, correct=0).perplexity == pytest.approx(4)


def test_an_empty_score_is_zero_and_a_hopeless_one_infinite():
    assert Score(0.0, 0, 0).loss_nats == 0
    assert Score(0.0, 0, 0).bits_per(0) == 0
    assert Score(1e6, 1, 0).perplexity == math.inf


@settings(max_examples=25, deadline=None)
@given(window=st.integers(1, 60))
def test_windows_with_carried_state_score_what_one_long_window_does(model, window):
    text = ids(60)
    whole = scored(model, scoring_windows(text, window=60))
    parts = scored(model, scoring_windows(text, window=window))
    assert parts.nats == pytest.approx(whole.nats, rel=1e-6)
    assert (parts.tokens, parts.correct) == (whole.tokens, whole.correct)


def test_a_text_is_scored_as_the_equations_say(model):
    text = ids(20)
    model.eval()
    with torch.no_grad():
        logits, _ = model(torch.tensor([EOS, *text[:-1].tolist()])[:, None])
    probabilities = logits[:, 0].double().softmax(dim=-1)[torch.arange(20), torch.from_numpy(text.astype(np.int64))]
    result = scored(model, scoring_windows(text, window=6))
    assert result.nats == pytest.approx(-float(probabilities.log().sum()), rel=1e-5)
    assert result.correct == int((logits[:, 0].argmax(dim=-1).numpy() == text).sum())


def test_records_score_the_same_together_and_each_alone(model):
    records = [[3, 4, 5, 6, 7, EOS], [2, EOS], [5, 5, 5, EOS], [7, 2, EOS]]
    together = scored(model, scoring_record_windows(np.concatenate(records), batch_size=3, window=2))
    alone = [scored(model, scoring_windows(np.array(record))) for record in records]
    assert together.nats == pytest.approx(sum(one.nats for one in alone), rel=1e-6)
    assert together.tokens == sum(map(len, records))
    assert together.correct == sum(one.correct for one in alone)


def test_a_warmed_up_stream_scores_nearly_what_the_whole_text_does(model):
    text = ids(400)
    exact = scored(model, scoring_windows(text))
    warmed = scored(model, scoring_windows(text, streams=4, window=50, warm_up=64))
    cold = scored(model, scoring_windows(text, streams=4, window=50))
    assert warmed.tokens == exact.tokens
    assert warmed.nats == pytest.approx(exact.nats, rel=1e-5)
    assert abs(warmed.nats - exact.nats) < abs(cold.nats - exact.nats)


@pytest.mark.parametrize("was_training", [True, False])
def test_scoring_uses_no_dropout_and_leaves_the_model_as_it_was(model, was_training):
    model.train(was_training)
    first, second = (scored(model, scoring_windows(ids(30))) for _ in range(2))
    assert first == second
    assert model.training is was_training
