"""The neural cache against the sum that defines it."""

import math

import numpy as np
import pytest
import torch
from small_models import CPU, VOCABULARY, make_model

from charlm.data.tokenizer import EOS
from charlm.evaluation.adaptive import cache
from charlm.evaluation.adaptive.cache import CacheSettings, cache_log_probabilities, fit_cache
from charlm.evaluation.adaptive.interpolation import fit_pair_weight, interpolate_pair
from charlm.model.language_model import LanguageModel

OPTIONS = {"device": CPU, "precision": torch.float32}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let a text of tens of tokens have several blocks."""
    monkeypatch.setattr(cache, "_BLOCK", 7)


@pytest.fixture
def model() -> LanguageModel:
    return make_model(sharpness=1)


def text(tokens: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCABULARY, tokens).astype(np.uint8)


def reference(model: LanguageModel, ids: np.ndarray, settings: CacheSettings) -> list[list[float]]:
    """Return the cache's probability of every id at every token but the first, by two loops."""
    inputs = torch.from_numpy(np.concatenate([[EOS], ids[:-1]]).astype(np.int64))[:, None]
    with torch.no_grad():
        features, _ = model.encoder(inputs)
        states = model.adapt(features)[:, 0].double().tolist()
    probabilities = []
    for now in range(1, len(ids)):
        weights = [0.0] * VOCABULARY
        for then in range(max(0, now - settings.window), now):
            product = sum(a * b for a, b in zip(states[now], states[then], strict=True))
            weights[ids[then]] += math.exp(settings.flatness * product)
        probabilities.append([weight / sum(weights) for weight in weights])
    return probabilities


def test_the_cache_is_the_sum_that_defines_it(model):
    ids = text(40)
    for window, flatness in [(1, 0.7), (3, 5.0), (7, 0.7), (12, 0.0), (12, 5.0), (100, 0.7)]:
        settings = CacheSettings(window, flatness)
        p = np.exp(cache_log_probabilities(model, ids, settings, **OPTIONS))
        rows = zip(reference(model, ids, settings), ids[1:], strict=True)
        assert p[0] == pytest.approx(1 / VOCABULARY)
        assert p[1:] == pytest.approx([row[token] for row, token in rows], rel=1e-4), settings


def test_with_flatness_zero_the_cache_counts_its_window_by_hand(model):
    ids = np.array([2, 3, 2, 2, 5, 3], dtype=np.uint8)
    p = np.exp(cache_log_probabilities(model, ids, CacheSettings(3, 0.0), **OPTIONS))
    assert p == pytest.approx([1 / 8, 0, 1 / 2, 2 / 3, 0, 0])


def test_later_tokens_change_no_earlier_probability(model):
    ids = text(40)
    changed = ids.copy()
    changed[20:] = (changed[20:] + 3) % VOCABULARY
    before, after = (
        cache_log_probabilities(model, each, CacheSettings(9, 1.0), **OPTIONS)
        for each in (ids, changed)
    )
    assert before[:20].tolist() == after[:20].tolist()
    assert before[20:].tolist() != after[20:].tolist()


def test_the_fit_finds_the_window_in_which_a_text_repeats(model):
    ids = np.tile(text(12), 12)
    uniform = np.full(len(ids), -math.log(VOCABULARY))
    best, fitted = fit_cache(model, ids, uniform, windows=(3, 12, 100), **OPTIONS)
    assert fitted == pytest.approx(cache_log_probabilities(model, ids, best, **OPTIONS), rel=1e-4)

    def loss(settings: CacheSettings) -> float:
        log_q = cache_log_probabilities(model, ids, settings, **OPTIONS)
        return -interpolate_pair(uniform, log_q, fit_pair_weight(uniform, log_q)).sum()

    for window, flatness in [
        (3, best.flatness),
        (12, best.flatness),
        (100, best.flatness),
        (12, 0),
    ]:
        assert loss(best) <= loss(CacheSettings(window, flatness)) + 1e-3


def test_an_empty_text_has_no_probabilities(model):
    assert cache_log_probabilities(model, text(0), CacheSettings(3, 1.0), **OPTIONS).shape == (0,)
    assert len(fit_cache(model, text(0), np.zeros(0), **OPTIONS)[1]) == 0
