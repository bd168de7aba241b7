"""Dynamic evaluation: against its equations, and what it must never do."""

import copy
import math

import numpy as np
import pytest
import torch
from small_models import CPU

from charlm.config.model import Model
from charlm.data.tokenizer import EOS
from charlm.evaluation.adaptive.dynamic import (
    DynamicSettings,
    dynamic_log_probabilities,
    fit_dynamic_settings,
    mean_squared_gradients,
)
from charlm.evaluation.static_model import StaticModel
from charlm.model.encoder import Encoder
from charlm.model.language_model import LanguageModel, detach

VOCABULARY = 12
STREAM = {"mode": "stream", "device": CPU}
RECORDS = {"mode": "records", "device": CPU}
SETTINGS = DynamicSettings(learning_rate=3e-3, decay=0.2, segment=5)
STILL = DynamicSettings(learning_rate=0.0, decay=0.2, segment=5)
FAST = DynamicSettings(learning_rate=2e-2, decay=0.0, segment=5)
MODELS = {
    "lstm": {},
    "gru": {"cell": {"kind": "gru", "reset": "before"}},
    "elman": {"cell": {"kind": "elman"}},
    "min_gru": {"cell": {"kind": "min_gru"}},
    "mogrifier_lstm": {"cell": {"kind": "mogrifier_lstm"}},
    "two layers": {"num_layers": 2, "dropout": 0.5, "output_dropout": 0.5, "weight_dropout": 0.5},
    "learned state": {"initial_state": "learned"},
    "tied": {"tied": True},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": [4]},
    "one_hot": {"embedding": "one_hot"},
}


def make(**options: object) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Model(hidden_size=8, embedding_size=6, **options), VOCABULARY).eval()


def text(tokens: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, VOCABULARY, tokens).astype(np.uint8)


def of_records(records: int) -> np.ndarray:
    return np.concatenate(
        [np.append(text(length % 7 + 1, length), EOS) for length in range(records)]
    ).astype(np.uint8)


def assert_learning_improves(
    model: LanguageModel, ids: np.ndarray, options: dict, name: str = ""
) -> None:
    """Without learning the score is the static one; with learning it is better on this text."""
    squares = mean_squared_gradients(model, ids, segment=5, **options)
    static = StaticModel(model, **options).log_probabilities(ids)
    still = dynamic_log_probabilities(model, ids, STILL, squares, **options)
    assert still == pytest.approx(static, abs=1e-4), name
    learning = dynamic_log_probabilities(model, ids, FAST, squares, **options)
    assert learning[:5] == pytest.approx(static[:5], abs=1e-4), name
    assert learning.mean() > static.mean() + 0.1, name


def test_any_model_learns_from_a_repeated_text():
    for name, options in MODELS.items():
        assert_learning_improves(make(**options), np.tile(text(15), 5), STREAM, name)


def test_records_start_from_the_initial_state_and_the_weights_are_carried_on():
    ids = np.concatenate([[2], text(5), [EOS], np.tile(of_records(4), 10)]).astype(np.uint8)
    assert_learning_improves(make(), ids, RECORDS)


def test_the_model_is_not_changed():
    for training in (True, False):
        model = make(output_dropout=0.5).train(training)
        before = copy.deepcopy(model.state_dict())
        squares = mean_squared_gradients(model, text(40), segment=5, **STREAM)
        dynamic_log_probabilities(model, text(40), SETTINGS, squares, **STREAM)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]), name
        assert model.training == training
        assert all(parameter.grad is None for parameter in model.parameters())


def test_a_token_is_predicted_before_it_is_learned_from():
    model, ids = make(), text(40)
    squares = mean_squared_gradients(model, text(40, seed=2), segment=5, **STREAM)
    expected = dynamic_log_probabilities(model, ids, SETTINGS, squares, **STREAM)
    for first in (17, 20, 23):
        changed = ids.copy()
        changed[first:] = (changed[first:] - 2 + 3) % (VOCABULARY - 2) + 2
        log_p = dynamic_log_probabilities(model, changed, SETTINGS, squares, **STREAM)
        assert log_p[:first] == pytest.approx(expected[:first], abs=1e-6), first
        assert np.abs(log_p - expected)[first:].min() > 1e-5, first


def by_the_equations(
    model: LanguageModel, ids: np.ndarray, settings: DynamicSettings, squares: list[torch.Tensor]
) -> list[float]:
    """Return log p of each token, one weight tensor after the other, as in the paper, in float64."""
    model = copy.deepcopy(model).double().eval()
    weights = list(model.parameters())
    trained = [weight.detach().clone() for weight in weights]
    rms = [square.double().sqrt() for square in squares]
    mean = torch.cat([part.flatten() for part in rms]).mean()
    inputs = torch.from_numpy(np.append(EOS, ids[:-1]).astype(np.int64))
    targets = torch.from_numpy(ids.astype(int))
    result, states = [], None
    for first in range(0, len(ids), settings.segment):
        part = slice(first, first + settings.segment)
        logits, states = model(inputs[part, None], states)
        states = detach(states)
        log_p = logits[:, 0].log_softmax(dim=-1)[torch.arange(len(targets[part])), targets[part]]
        result += log_p.tolist()
        model.zero_grad()
        (-log_p.sum()).backward()
        with torch.no_grad():
            for weight, begun, scale in zip(weights, trained, rms, strict=True):
                back = torch.minimum(settings.decay * scale / mean, torch.ones(()))
                step = settings.learning_rate * weight.grad / (scale + 0.1 * mean)
                weight.copy_(weight + back * (begun - weight) - step)
    return result


def test_dynamic_evaluation_follows_its_equations():
    model, ids = make(), text(38)
    for settings in (SETTINGS, DynamicSettings(1e-2, 0.0, 4), DynamicSettings(1e-2, 3.0, 7)):
        train = text(60, seed=2)
        squares = mean_squared_gradients(model, train, segment=settings.segment, **STREAM)
        log_p = dynamic_log_probabilities(model, ids, settings, squares, **STREAM)
        expected = by_the_equations(model, ids, settings, squares)
        assert log_p == pytest.approx(expected, abs=1e-4), settings


def test_squares_are_the_mean_of_each_segment_s_squared_gradient():
    model, ids = make(), text(9)
    squares = mean_squared_gradients(model, ids, segment=5, **STREAM)
    expected = [torch.zeros_like(weight) for weight in model.parameters()]
    inputs = torch.from_numpy(np.append(EOS, ids[:-1]).astype(np.int64))
    targets = torch.from_numpy(ids.astype(int))
    states = None
    for part in (slice(0, 5), slice(5, 9)):
        model.zero_grad()
        logits, states = model(inputs[part, None], states)
        torch.nn.functional.cross_entropy(logits[:, 0], targets[part], reduction="sum").backward()
        states = detach(states)
        for square, weight in zip(expected, model.parameters(), strict=True):
            square += weight.grad.square() / 2
    for square, wanted in zip(squares, expected, strict=True):
        torch.testing.assert_close(square, wanted, rtol=1e-3, atol=1e-7)


def test_a_long_text_is_read_at_a_few_places_and_warm_up_segments_do_not_count(monkeypatch):
    read, squared = [], []
    forward, grad = Encoder.forward, torch.autograd.grad
    monkeypatch.setattr(
        Encoder,
        "forward",
        lambda self, ids, *rest, **options: (
            read.append(ids) or forward(self, ids, *rest, **options)
        ),
    )
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda *arguments, **options: squared.append(1) or grad(*arguments, **options),
    )
    squares = mean_squared_gradients(make(), text(20_000), segment=64, max_segments=40, **STREAM)
    # 20 places, each with two segments after the warm-up.
    assert (len(read), len(squared)) == (20 * (256 // 64 + 2), 20 * 2)
    assert all(torch.isfinite(square).all() for square in squares)
    read.clear()
    mean_squared_gradients(make(), of_records(200), segment=64, max_segments=40, **RECORDS)
    assert len(read) == 40


def test_weights_that_were_not_trained_do_not_learn():
    model = make()
    model.encoder.embedding.weight.requires_grad_(False)
    squares = mean_squared_gradients(model, text(30), segment=5, **STREAM)
    assert len(squares) == sum(weight.requires_grad for weight in model.parameters())
    log_p = dynamic_log_probabilities(model, text(30), SETTINGS, squares, **STREAM)
    assert np.isfinite(log_p).all()


def test_an_empty_text_has_no_probabilities():
    squares = mean_squared_gradients(make(), text(30), segment=5, **STREAM)
    assert dynamic_log_probabilities(make(), text(0), SETTINGS, squares, **STREAM).shape == (0,)


def test_the_search_comes_close_to_the_best_settings():
    def loss(settings: DynamicSettings) -> float:
        rate, decay = settings.learning_rate / 3e-3, settings.decay / 1e-4
        return 1 + math.log(rate) ** 2 + 0.1 * math.log(decay) ** 2

    settings = fit_dynamic_settings(loss, 9.0, segment=7)
    assert settings.segment == 7
    assert 3e-3 / 1.3 < settings.learning_rate < 3e-3 * 1.3
    assert 1e-4 / 2 < settings.decay < 1e-4 * 2


def test_where_learning_never_helps_or_diverges_the_rate_is_zero():
    def rate(loss) -> float:
        return fit_dynamic_settings(loss, 1.9, segment=5).learning_rate

    assert rate(lambda settings: 2.0 + settings.learning_rate) == 0
    assert rate(lambda settings: math.nan) == 0
    assert rate(lambda settings: math.nan if settings.learning_rate > 1e-3 else 1.0) > 0
