"""Cross-entropy summed over time and averaged over the batch; each token of a text scored once."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.config.model import Model
from charlm.config.training import Training
from charlm.data.tokenizer import EOS
from charlm.data.windows.scoring import scoring_record_windows, scoring_windows
from charlm.data.windows.window import PADDING
from charlm.model.language_model import LanguageModel
from charlm.training import loss as loss_module
from charlm.training.loss import Score, regularization, score, summed_cross_entropy

CPU = torch.device("cpu")
VOCABULARY = 8


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(
        Model(hidden_size=8, embedding_size=4, num_layers=2, output_dropout=0.5), VOCABULARY
    )


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


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return summed_cross_entropy(logits, targets, projection=torch.nn.Identity()).objective


# The objective


def test_the_loss_of_two_tokens_by_hand():
    logits = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.125, 0.875], [0.75, 0.25]]]).log()
    targets = torch.tensor([[0, 0], [0, 1]])
    # Two records, of which one has probability 1/2 x 1/8 and the other 1/4 x 1/4.
    torch.testing.assert_close(
        loss_of(logits, targets), torch.tensor((math.log(16) + math.log(16)) / 2)
    )


def test_the_loss_is_the_sum_over_time_of_the_mean_over_the_batch():
    for time, batch in ((1, 1), (5, 3), (2, 7)):
        logits, targets = random_logits(time, batch)
        steps = [torch.nn.functional.cross_entropy(logits[t], targets[t]) for t in range(time)]
        torch.testing.assert_close(loss_of(logits, targets), torch.stack(steps).sum())


def test_padding_adds_nothing_to_the_loss_and_has_no_gradient():
    logits, targets = random_logits(4, 2)
    targets[2:, 1] = PADDING
    logits.requires_grad_()
    loss = loss_of(logits, targets)
    loss.backward()
    columns = [
        torch.nn.functional.cross_entropy(logits[:4, 0], targets[:4, 0], reduction="sum"),
        torch.nn.functional.cross_entropy(logits[:2, 1], targets[:2, 1], reduction="sum"),
    ]
    torch.testing.assert_close(loss, sum(columns) / 2)
    assert logits.grad is not None
    assert (logits.grad[2:, 1] == 0).all()
    assert (logits.grad[:2] != 0).all()


def test_the_loss_of_padding_alone_is_zero():
    logits, _ = random_logits(2, 2)
    assert loss_of(logits, torch.full((2, 2), PADDING)) == 0


PROJECTIONS = {
    "plain": {},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": [3, 5]},
}
every_projection = pytest.mark.parametrize("name", PROJECTIONS)


def projection_of(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    return (
        LanguageModel(Model(hidden_size=16, embedding_size=4, **PROJECTIONS[name]), VOCABULARY)
        .double()
        .projection
    )


def random_window() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    read = torch.randn(7, 3, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(VOCABULARY, (7, 3), generator=generator)
    targets[5:, 1] = PADDING
    return read, targets


@every_projection
def test_the_loss_is_the_sum_of_the_targets_log_probabilities(name):
    projection = projection_of(name).float()
    read, targets = random_window()
    everything = torch.log_softmax(projection(read.float()), dim=-1)
    torch.testing.assert_close(everything.exp().sum(dim=-1), torch.ones(7, 3))
    objective, nats = summed_cross_entropy(read.float(), targets, projection=projection)
    rows = zip(everything.flatten(0, 1), targets.flatten().tolist(), strict=True)
    expected = -sum(row[target] for row, target in rows if target != PADDING)
    torch.testing.assert_close(nats, expected.detach())
    torch.testing.assert_close(objective, expected / 3)


@every_projection
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_loss_in_chunks_and_its_gradients_equal_those_in_one_piece(name, smoothing, monkeypatch):
    projection = projection_of(name).float()
    found = []
    # All tokens at once; two tokens of the mixture, and six of the others.
    for logits_at_once in (2**24, 2 * VOCABULARY * 3):
        monkeypatch.setattr(loss_module, "_MAX_LOGITS", logits_at_once)
        read, targets = random_window()
        read = read.detach().float().requires_grad_()
        objective, nats = summed_cross_entropy(
            read, targets, projection=projection, smoothing=smoothing
        )
        gradients = torch.autograd.grad(2.5 * objective, [read, *projection.parameters()])
        found.append([objective.detach(), nats, *gradients])
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, whole)


def test_a_chunk_has_at_most_the_largest_number_of_logits(monkeypatch):
    monkeypatch.setattr(loss_module, "_MAX_LOGITS", 4 * VOCABULARY)
    sizes = []
    projection = projection_of("plain").float()
    projection.register_forward_hook(lambda _, inputs, logits: sizes.append(logits.shape))
    read, targets = random_window()
    summed_cross_entropy(read.float(), targets, projection=projection)
    assert sizes == [(4, VOCABULARY)] * 5 + [(1, VOCABULARY)]


def test_smoothing_spreads_a_part_of_the_target_over_the_vocabulary_and_not_in_nats():
    logits, targets = random_logits(4, 3)
    objective, nats = summed_cross_entropy(
        logits, targets, projection=torch.nn.Identity(), smoothing=0.3
    )
    wanted = 0.7 * torch.nn.functional.one_hot(targets, VOCABULARY) + 0.3 / VOCABULARY
    by_token = -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1)
    torch.testing.assert_close(objective, by_token.sum() / 3)
    torch.testing.assert_close(nats, 3 * loss_of(logits, targets))
    targets[1, 2] = PADDING
    padded, _ = summed_cross_entropy(logits, targets, projection=torch.nn.Identity(), smoothing=0.3)
    torch.testing.assert_close(padded, objective - by_token[1, 2] / 3)


def test_a_mixture_is_the_weighted_sum_of_its_softmaxes():
    mixture, read = projection_of("mixture"), random_window()[0]
    shares = torch.softmax(read @ mixture.prior.weight.T, dim=-1)
    expected = 0
    for k in range(3):
        rows = slice(4 * k, 4 * k + 4)
        latent = torch.tanh(read @ mixture.latent.weight[rows].T + mixture.latent.bias[rows])
        expected = expected + shares[..., k : k + 1] * torch.softmax(
            latent @ mixture.weight.T + mixture.bias, dim=-1
        )
    torch.testing.assert_close(mixture(read).exp().double(), expected, rtol=1e-5, atol=1e-7)


def test_activation_regularization_by_hand():
    features = torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]])  # Two tokens, one stream, two units.
    read = torch.tensor([[[2.0, 0.0]], [[0.0, 4.0]]])
    arguments = (features, read, torch.ones(2, 1, dtype=torch.bool))
    size = regularization(Training(activation_regularization=0.5), *arguments)
    assert size == 2 * 0.5 * (4 + 16) / 4
    change = regularization(Training(temporal_regularization=3.0), *arguments)
    assert change == 2 * 3.0 * 4 / 2
    assert regularization(Training(), *arguments) == 0


def test_regularization_counts_neither_padding_nor_changes_to_it_by_hand():
    features = torch.tensor([[[1.0], [5.0]], [[3.0], [9.0]], [[100.0], [9.0]]])
    is_predicted = torch.tensor([[True, True], [True, True], [False, True]])
    penalty = regularization(
        Training(activation_regularization=0.5), features, features, is_predicted
    )
    torch.testing.assert_close(penalty, torch.tensor(0.5 * (1 + 9 + 25 + 81 + 81) / 2))
    penalty = regularization(
        Training(temporal_regularization=4.0), features, features, is_predicted
    )
    torch.testing.assert_close(penalty, torch.tensor(4.0 * 3 / 2 * (4 + 16) / 2))


def test_a_window_of_one_token_has_no_temporal_regularization():
    one = torch.ones(1, 2, 3)
    is_predicted = torch.ones(1, 2, dtype=torch.bool)
    assert regularization(Training(temporal_regularization=3.0), one, one, is_predicted) == 0


# The score of a text


def test_uniform_model_over_eight_tokens_scores_three_bits():
    text = ids(50)
    result = scored(uniform_model(), scoring_windows(text, window=7))
    assert result.tokens == 50
    assert result.nats == pytest.approx(50 * math.log(8), rel=1e-6)
    assert result.loss_nats == pytest.approx(math.log(8), rel=1e-6)
    assert result.perplexity == pytest.approx(8, rel=1e-6)
    assert result.bits_per(50) == pytest.approx(3, rel=1e-6)


def test_bits_per_character_depend_on_the_number_of_characters_and_not_of_tokens():
    # Four tokens of probability 1/4 each are eight bits: over 16 characters, half a bit each.
    assert Score(nats=4 * math.log(4), tokens=4, correct=0).bits_per(16) == pytest.approx(0.5)
    assert Score(nats=4 * math.log(4), tokens=4, correct=0).perplexity == pytest.approx(4)


def test_the_loss_of_an_empty_text_is_zero_and_the_perplexity_of_a_huge_loss_infinite():
    assert Score(0.0, 0, 0).loss_nats == 0
    assert Score(0.0, 0, 0).bits_per(0) == 0
    assert Score(1e6, 1, 0).perplexity == math.inf


@settings(max_examples=25, deadline=None)
@given(window=st.integers(1, 60))
def test_windows_with_carried_state_have_the_score_of_one_long_window(model, window):
    text = ids(60)
    whole = scored(model, scoring_windows(text, window=60))
    parts = scored(model, scoring_windows(text, window=window))
    assert parts.nats == pytest.approx(whole.nats, rel=1e-6)
    assert (parts.tokens, parts.correct) == (whole.tokens, whole.correct)


def test_the_score_of_a_text_is_the_sum_over_its_tokens(model):
    text = ids(20)
    model.eval()
    with torch.no_grad():
        logits, _ = model(torch.tensor([EOS, *text[:-1].tolist()])[:, None])
    probabilities = (
        logits[:, 0]
        .double()
        .softmax(dim=-1)[torch.arange(20), torch.from_numpy(text.astype(np.int64))]
    )
    result = scored(model, scoring_windows(text, window=6))
    assert result.nats == pytest.approx(-float(probabilities.log().sum()), rel=1e-5)
    assert result.correct == int((logits[:, 0].argmax(dim=-1).numpy() == text).sum())


def test_records_have_the_same_score_together_as_one_by_one(model):
    records = [[3, 4, 5, 6, 7, EOS], [2, EOS], [5, 5, 5, EOS], [7, 2, EOS]]
    together = scored(
        model, scoring_record_windows(np.concatenate(records), batch_size=3, window=2)
    )
    alone = [scored(model, scoring_windows(np.array(record))) for record in records]
    assert together.nats == pytest.approx(sum(one.nats for one in alone), rel=1e-6)
    assert together.tokens == sum(map(len, records))
    assert together.correct == sum(one.correct for one in alone)


def test_streams_with_warm_up_have_nearly_the_score_of_the_whole_text(model):
    text = ids(400)
    exact = scored(model, scoring_windows(text))
    warmed = scored(model, scoring_windows(text, streams=4, window=50, warm_up=64))
    cold = scored(model, scoring_windows(text, streams=4, window=50))
    assert warmed.tokens == exact.tokens
    assert warmed.nats == pytest.approx(exact.nats, rel=1e-5)
    assert abs(warmed.nats - exact.nats) < abs(cold.nats - exact.nats)


@pytest.mark.parametrize("was_training", [True, False])
def test_scoring_uses_no_dropout_and_restores_the_mode_of_the_model(model, was_training):
    model.train(was_training)
    first, second = (scored(model, scoring_windows(ids(30))) for _ in range(2))
    assert first == second
    assert model.training is was_training


def test_a_temperature_divides_the_logits(model):
    windows = list(scoring_windows(ids(40)))
    with torch.no_grad():
        plain = LanguageModel(
            Model(hidden_size=8, embedding_size=4, num_layers=2, output_dropout=0.5), VOCABULARY
        )
        plain.load_state_dict(model.state_dict())
        plain.projection.weight /= 2.0
        plain.projection.bias /= 2.0
    halved = score(model, windows, device=CPU, precision=torch.float32, temperature=2.0)
    assert halved.nats == pytest.approx(scored(plain, windows).nats)
    assert halved.nats != pytest.approx(scored(model, windows).nats)


def test_a_reader_that_stops_early_leaves_the_model_in_training_and_gradients_on(model):
    model.train()
    reading = loss_module.predict_windows(
        model, scoring_windows(ids(40), window=4), device=CPU, precision=torch.float32
    )
    next(reading)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    reading.close()
    assert model.training
