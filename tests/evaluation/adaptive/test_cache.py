"""The neural cache against the sum that defines it."""

import math

import numpy as np
import pytest
import torch

from charlm.config.schema import Model
from charlm.data.tokenizer import EOS
from charlm.evaluation.adaptive import cache as cache_module
from charlm.evaluation.adaptive.cache import CacheSettings, cache_log_probabilities, fit_cache
from charlm.evaluation.adaptive.interpolation import fit_pair_weight, interpolate_pair
from charlm.model.language_model import LanguageModel

CPU = torch.device("cpu")
VOCABULARY = 8
OPTIONS = {"device": CPU, "precision": torch.float32}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Let a text of tens of tokens cross blocks."""
    monkeypatch.setattr(cache_module, "_BLOCK", 7)


def make() -> LanguageModel:
    torch.manual_seed(1)
    return LanguageModel(Model(hidden_size=8, embedding_size=4), VOCABULARY).eval()


def text(tokens: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, tokens).astype(np.uint8)


def slowly(model: LanguageModel, ids: np.ndarray, cache: CacheSettings) -> list[list[float]]:
    """Return the cache's probability of every id at every token but the first, by two loops."""
    inputs = torch.from_numpy(np.concatenate([[EOS], ids[:-1]]).astype(np.int64))[:, None]
    with torch.no_grad():
        features, _ = model.encoder(inputs)
    states = model.adapt(features)[:, 0].double().tolist()
    found = []
    for now in range(1, len(ids)):
        weights = [0.0] * VOCABULARY
        for then in range(max(0, now - cache.window), now):
            product = sum(a * b for a, b in zip(states[now], states[then], strict=True))
            weights[ids[then]] += math.exp(cache.flatness * product)
        found.append([weight / sum(weights) for weight in weights])
    return found


@pytest.mark.parametrize("window", [1, 3, 7, 12, 100])
@pytest.mark.parametrize("flatness", [0.0, 0.7, 5.0])
def test_the_cache_is_the_sum_that_defines_it(window, flatness):
    model, ids, cache = make(), text(40), CacheSettings(window, flatness)
    found = np.exp(cache_log_probabilities(model, ids, cache, **OPTIONS))
    expected = [row[token] for row, token in zip(slowly(model, ids, cache), ids[1:], strict=True)]
    assert found[0] == pytest.approx(1 / VOCABULARY)
    assert found[1:] == pytest.approx(expected, rel=1e-4)


def test_with_flatness_zero_it_counts_the_window_by_hand():
    ids = np.array([2, 3, 2, 2, 5, 3], dtype=np.uint8)
    found = np.exp(cache_log_probabilities(make(), ids, CacheSettings(3, 0.0), **OPTIONS))
    assert found == pytest.approx([1 / 8, 0, 1 / 2, 2 / 3, 0, 0])


def test_later_tokens_change_nothing_before_them():
    model, ids = make(), text(40)
    other = ids.copy()
    other[20:] = (other[20:] + 3) % VOCABULARY
    one, two = (
        cache_log_probabilities(model, each, CacheSettings(9, 1.0), **OPTIONS)
        for each in (ids, other)
    )
    assert one[:20].tolist() == two[:20].tolist()
    assert one[20:].tolist() != two[20:].tolist()


def test_the_fit_finds_the_window_a_text_repeats_in_and_gives_what_the_cache_gives():
    model, ids = make(), np.tile(text(12), 12)
    uniform = np.full(len(ids), -math.log(VOCABULARY))
    cache, fitted = fit_cache(model, ids, uniform, windows=(3, 12, 100), **OPTIONS)
    assert fitted == pytest.approx(cache_log_probabilities(model, ids, cache, **OPTIONS), rel=1e-4)

    def loss(each: CacheSettings) -> float:
        log_q = cache_log_probabilities(model, ids, each, **OPTIONS)
        return -interpolate_pair(uniform, log_q, fit_pair_weight(uniform, log_q)).sum()

    for other in (
        CacheSettings(3, cache.flatness),
        CacheSettings(12, cache.flatness),
        CacheSettings(100, cache.flatness),
        CacheSettings(12, 0.0),
    ):
        assert loss(cache) <= loss(other) + 1e-3


def test_an_empty_text_has_no_probabilities():
    assert cache_log_probabilities(make(), text(0), CacheSettings(3, 1.0), **OPTIONS).shape == (0,)
    assert len(fit_cache(make(), text(0), np.zeros(0), **OPTIONS)[1]) == 0
