"""Log-probabilities of targets: by hand, against a plain softmax, and cut into pieces."""

import math

import pytest
import torch

from charlm.config.model import Model
from charlm.model import log_probabilities
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import (
    differentiable_log_probabilities,
    predict_window,
    sequence_log_probabilities,
    split_tokens,
    target_log_probabilities,
)

VOCABULARY, PADDING = 11, -100
PROJECTIONS: dict[str, dict] = {
    "linear": {},
    "tied": {"tied": True},
    "mixture": {"mixture": 3},
    "adaptive": {"adaptive_cutoffs": [3, 7]},
}


def make(**fields: object) -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Model(hidden_size=16, embedding_size=4, **fields), VOCABULARY).eval()


def window(time: int = 7, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets; the last column ends with padding."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(VOCABULARY, (time + 1, batch), generator=generator)
    targets = ids[1:].clone()
    targets[-2:, -1] = PADDING
    return ids[:-1], targets


def expected_log_probabilities(model, inputs, targets, temperature=1.0):
    """The logarithm of a softmax over whole logits, in float64."""
    logits = model(inputs)[0].double() / temperature
    log_p = logits.log_softmax(dim=-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return log_p.masked_fill(targets == PADDING, 0.0).float()


def test_a_uniform_model_gives_each_target_one_over_the_vocabulary_and_padding_zero():
    model = make()
    torch.nn.init.zeros_(model.projection.weight)
    inputs, targets = window()
    log_p, _ = target_log_probabilities(model, inputs, targets)
    assert log_p.shape == targets.shape
    torch.testing.assert_close(
        log_p[targets != PADDING], torch.full((19,), -math.log(VOCABULARY)), rtol=1e-6, atol=0
    )
    assert not log_p[targets == PADDING].any()


@pytest.mark.parametrize("name", PROJECTIONS)
def test_log_probabilities_are_those_of_a_softmax_at_any_temperature_and_piece_size(
    name, monkeypatch
):
    model = make(**PROJECTIONS[name])
    inputs, targets = window()
    for max_logits in (2**20, 60, 1):
        monkeypatch.setattr(log_probabilities, "_MAX_LOGITS_CPU", max_logits)
        for temperature in (1.0, 0.5):
            log_p, states = target_log_probabilities(
                model, inputs, targets, temperature=temperature
            )
            expected = expected_log_probabilities(model, inputs, targets, temperature)
            torch.testing.assert_close(log_p, expected, msg=f"{max_logits}, {temperature}")
            torch.testing.assert_close(states, model(inputs)[1])


@pytest.mark.parametrize("name", PROJECTIONS)
def test_differentiable_log_probabilities_are_the_same_and_have_the_gradients(name):
    model = make(**PROJECTIONS[name])
    inputs, targets = window(batch=2)
    targets = targets.clamp(min=0)
    for temperature in (1.0, 0.5):
        log_p, states = differentiable_log_probabilities(
            model, inputs, targets, temperature=temperature
        )
        plain, _ = target_log_probabilities(model, inputs, targets, temperature=temperature)
        torch.testing.assert_close(log_p, plain)
        expected = expected_log_probabilities(model, inputs, targets, temperature)
        parameters = list(model.parameters())
        gradients = [
            torch.autograd.grad(each.sum(), parameters, allow_unused=True, materialize_grads=True)
            for each in (log_p, expected)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(states, model(inputs)[1])


def test_two_windows_with_carried_state_equal_one_long_window():
    model = make(num_layers=2)
    inputs, targets = window()
    whole, after = target_log_probabilities(model, inputs, targets)
    first, states = target_log_probabilities(model, inputs[:3], targets[:3])
    second, states = target_log_probabilities(model, inputs[3:], targets[3:], states)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(states, after)


def test_predictions_cover_the_window_in_pieces_of_at_most_the_given_number_of_logits(monkeypatch):
    monkeypatch.setattr(log_probabilities, "_MAX_LOGITS_CPU", 60)
    inputs, targets = window()
    for name, tokens in {"linear": 5, "mixture": 1, "adaptive": 5}.items():
        predictions, _ = predict_window(make(**PROJECTIONS[name]), inputs, targets)
        pieces = list(predictions)
        assert {len(piece.targets) for piece in pieces[:-1]} == {tokens}, name
        assert torch.cat([piece.targets for piece in pieces]).equal(targets.flatten()), name
        assert all(len(piece.logits) == len(piece.targets) for piece in pieces), name


def test_a_piece_has_at_least_one_token():
    projection = torch.nn.Linear(2, 100)
    assert [len(rows) for (rows,) in split_tokens(projection, torch.ones(3, 2), max_logits=1)] == [
        1,
        1,
        1,
    ]


def test_products_are_computed_in_the_given_precision_and_results_are_fp32():
    model = make()
    inputs, targets = window()
    exact, _ = target_log_probabilities(model, inputs, targets)
    rounded, _ = target_log_probabilities(model, inputs, targets, precision=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05


def test_fp32_scores_do_not_use_tf32_and_the_settings_are_restored(monkeypatch):
    model = make()
    inputs, targets = window(batch=2)
    seen = []

    def record(module, arguments):
        cudnn = torch.backends.cudnn.allow_tf32
        seen.append((cudnn, torch.get_float32_matmul_precision()))

    for part in (model.encoder.embedding, model.projection):
        part.register_forward_pre_hook(record)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    try:
        target_log_probabilities(model, inputs, targets)
        differentiable_log_probabilities(model, inputs, targets.clamp(min=0))
        sequence_log_probabilities(model, [[2, 3, 4]], eos=0, device=torch.device("cpu"))
        with pytest.raises(IndexError):
            target_log_probabilities(model, inputs + 100, targets)
        assert torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(seen) == 7 and set(seen) == {(False, "highest")}
