"""A model that learns from what it has predicted: against its equations, and what it must never do."""

import copy
import math

import numpy as np
import pytest
import torch

from charlm.config.schema import Model
from charlm.data.tokenizer import EOS
from charlm.evaluation.adaptive.adaptation import target_log_probabilities
from charlm.evaluation.adaptive.dynamic import (
    DynamicSettings,
    dynamic_log_probabilities,
    fit_dynamic_settings,
    mean_squared_gradients,
)
from charlm.model.encoder import Encoder
from charlm.model.language_model import LanguageModel, detach

CPU = torch.device("cpu")
VOCABULARY = 12
STREAM = {"mode": "stream", "device": CPU}
SETTINGS = DynamicSettings(learning_rate=3e-3, decay=0.2, segment=5)
MODELS = {
    "lstm": {},
    "gru": {"cell": {"kind": "gru", "reset": "before"}},
    "elman": {"cell": {"kind": "elman"}},
    "min_gru": {"cell": {"kind": "min_gru"}},
    "mogrifier_lstm": {"cell": {"kind": "mogrifier_lstm"}},
    "two layers": {"num_layers": 2, "dropout": 0.5, "output_dropout": 0.5, "weight_dropout": 0.5},
    "learnt state": {"initial_state": "learned"},
    "tied": {"tied": True},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": [4]},
    "one_hot": {"embedding": "one_hot"},
}


def make(**options: object) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Model(hidden_size=8, embedding_size=6, **options), VOCABULARY)


def text(tokens: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, VOCABULARY, tokens).astype(np.uint8)


def of_records(records: int) -> np.ndarray:
    return np.concatenate(
        [np.append(text(length % 7 + 1, length), EOS) for length in range(records)]
    ).astype(np.uint8)


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_any_model_that_does_not_learn_scores_as_it_is_and_one_that_learns_a_repeated_text_scores_better(
    options,
):
    model, ids = make(**options), np.tile(text(15), 5)
    squares = mean_squared_gradients(model, ids, segment=5, **STREAM)
    static = target_log_probabilities(model, ids, precision=torch.float32, **STREAM)
    still = dynamic_log_probabilities(model, ids, DynamicSettings(0.0, 0.2, 5), squares, **STREAM)
    assert still == pytest.approx(static, abs=1e-4)
    learning = dynamic_log_probabilities(
        model, ids, DynamicSettings(2e-2, 0.0, 5), squares, **STREAM
    )
    assert learning[:5] == pytest.approx(static[:5], abs=1e-4)
    assert learning.mean() > static.mean() + 0.1


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = make(output_dropout=0.5).train(training)
    before = copy.deepcopy(model.state_dict())
    squares = mean_squared_gradients(model, text(40), segment=5, **STREAM)
    dynamic_log_probabilities(model, text(40), SETTINGS, squares, **STREAM)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training == training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("changed", [17, 20, 23])
def test_a_token_is_predicted_before_it_is_learnt_from(changed):
    model, ids = make(), text(40)
    squares = mean_squared_gradients(model, text(40, seed=2), segment=5, **STREAM)
    other = ids.copy()
    other[changed:] = (other[changed:] - 2 + 3) % (VOCABULARY - 2) + 2
    one, two = (
        dynamic_log_probabilities(model, each, SETTINGS, squares, **STREAM) for each in (ids, other)
    )
    assert one[:changed] == pytest.approx(two[:changed], abs=1e-6)
    assert np.abs(one - two)[changed:].min() > 1e-5


def by_the_equations(
    model: LanguageModel, ids: np.ndarray, settings: DynamicSettings, squares: list[torch.Tensor]
) -> list[float]:
    """Return log p of each token, one weight tensor after the other, as the paper writes it, in float64."""
    model = copy.deepcopy(model).double().eval()
    weights = list(model.parameters())
    trained = [weight.detach().clone() for weight in weights]
    rms = [square.double().sqrt() for square in squares]
    mean = torch.cat([part.flatten() for part in rms]).mean()
    inputs, targets = (
        torch.from_numpy(np.append(EOS, ids[:-1]).astype(np.int64)),
        torch.from_numpy(ids.astype(int)),
    )
    found, states = [], None
    for first in range(0, len(ids), settings.segment):
        part = slice(first, first + settings.segment)
        logits, states = model(inputs[part, None], states)
        states = detach(states)
        log_p = logits[:, 0].log_softmax(dim=-1)[torch.arange(len(targets[part])), targets[part]]
        found += log_p.tolist()
        model.zero_grad()
        (-log_p.sum()).backward()
        with torch.no_grad():
            for weight, begun, scale in zip(weights, trained, rms, strict=True):
                back = torch.minimum(settings.decay * scale / mean, torch.ones(()))
                step = settings.learning_rate * weight.grad / (scale + 0.1 * mean)
                weight.copy_(weight + back * (begun - weight) - step)
    return found


@pytest.mark.parametrize(
    "settings", [SETTINGS, DynamicSettings(1e-2, 0.0, 4), DynamicSettings(1e-2, 3.0, 7)]
)
def test_it_follows_the_equations(settings):
    model, ids = make(), text(38)
    squares = mean_squared_gradients(model, text(60, seed=2), segment=settings.segment, **STREAM)
    found = dynamic_log_probabilities(model, ids, settings, squares, **STREAM)
    assert found == pytest.approx(by_the_equations(model, ids, settings, squares), abs=1e-4)


def test_squares_are_the_mean_of_each_segment_s_own_gradient_squared():
    model, ids = make().eval(), text(9)
    squares = mean_squared_gradients(model, ids, segment=5, **STREAM)
    expected = [torch.zeros_like(weight) for weight in model.parameters()]
    inputs, targets = (
        torch.from_numpy(np.append(EOS, ids[:-1]).astype(np.int64)),
        torch.from_numpy(ids.astype(int)),
    )
    states = None
    for part in (slice(0, 5), slice(5, 9)):
        model.zero_grad()
        logits, states = model(inputs[part, None], states)
        torch.nn.functional.cross_entropy(logits[:, 0], targets[part], reduction="sum").backward()
        states = detach(states)
        for square, weight in zip(expected, model.parameters(), strict=True):
            square += weight.grad.square() / 2
    for found, wanted in zip(squares, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-7)


def test_of_a_long_text_only_so_many_segments_are_read_and_the_warm_up_of_each_place_does_not_count(
    monkeypatch,
):
    read = []
    original = Encoder.forward
    monkeypatch.setattr(
        Encoder,
        "forward",
        lambda self, ids, *rest: read.append(ids[:, 0]) or original(self, ids, *rest),
    )
    squares = mean_squared_gradients(make(), text(20_000), segment=64, max_segments=40, **STREAM)
    assert len(read) == 20 * (256 // 64 + 2)  # 20 places, two segments of each counted.
    assert all(torch.isfinite(square).all() for square in squares)
    read.clear()
    mean_squared_gradients(
        make(), of_records(200), mode="records", segment=64, device=CPU, max_segments=40
    )
    assert len(read) == 40


def test_records_begin_at_the_initial_state_and_the_weights_go_on():
    model, ids = make(), np.tile(of_records(4), 10)
    records = {"mode": "records", "device": CPU}
    squares = mean_squared_gradients(model, ids, segment=5, **records)
    static = target_log_probabilities(model, ids, precision=torch.float32, **records)
    still = dynamic_log_probabilities(model, ids, DynamicSettings(0.0, 0.0, 5), squares, **records)
    assert still == pytest.approx(static, abs=1e-4)
    learning = dynamic_log_probabilities(
        model, ids, DynamicSettings(2e-2, 0.0, 5), squares, **records
    )
    assert learning.mean() > static.mean() + 0.1


def test_what_training_left_alone_is_not_learnt():
    model = make()
    model.encoder.embedding.weight.requires_grad_(False)
    squares = mean_squared_gradients(model, text(30), segment=5, **STREAM)
    assert len(squares) == sum(weight.requires_grad for weight in model.parameters())
    assert np.isfinite(
        dynamic_log_probabilities(model, text(30), SETTINGS, squares, **STREAM)
    ).all()


def test_an_empty_text_has_no_probabilities():
    squares = mean_squared_gradients(make(), text(30), segment=5, **STREAM)
    assert dynamic_log_probabilities(make(), text(0), SETTINGS, squares, **STREAM).shape == (0,)


def test_the_search_comes_near_the_best_rule():
    def loss(settings: DynamicSettings) -> float:
        return (
            1
            + math.log(settings.learning_rate / 3e-3) ** 2
            + 0.1 * math.log(settings.decay / 1e-4) ** 2
        )

    settings = fit_dynamic_settings(loss, 9.0, segment=7)
    assert settings.segment == 7
    assert 3e-3 / 1.3 < settings.learning_rate < 3e-3 * 1.3
    assert 1e-4 / 2 < settings.decay < 1e-4 * 2


def test_where_learning_never_helps_or_goes_astray_the_rate_is_zero():
    assert (
        fit_dynamic_settings(
            lambda settings: 2.0 + settings.learning_rate, 1.9, segment=5
        ).learning_rate
        == 0
    )
    assert fit_dynamic_settings(lambda settings: math.nan, 1.9, segment=5).learning_rate == 0
    assert (
        fit_dynamic_settings(
            lambda settings: math.nan if settings.learning_rate > 1e-3 else 1.0, 1.9, segment=5
        ).learning_rate
        > 0
    )
