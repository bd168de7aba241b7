"""How much of a text is in another text."""

import numpy as np
import pytest
from small_models import random_ids

from charlm.data.shards import ShardedIds
from charlm.data.tokenizer import EOS
from charlm.evaluation import overlap
from charlm.evaluation.overlap import shared_fraction


def random_text(tokens: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 100, tokens).astype(np.uint8)


def test_windows_of_a_stream_are_found_wherever_they_are(monkeypatch):
    text, other = random_text(640, 1), random_text(1000, 2)
    assert shared_fraction(text, text, mode="stream") == 1
    assert shared_fraction(text, other, mode="stream") == 0
    half = np.concatenate([other[:77], text[320:], other[77:]])
    for block in (1 << 22, 50):
        monkeypatch.setattr(overlap, "_BLOCK", block)
        assert shared_fraction(text, half, mode="stream") == 0.5, block
        shards = ShardedIds([half[:300], half[300:]])
        assert shared_fraction(text, shards, mode="stream") == 0.5, block


def test_a_repeated_window_counts_as_often_as_it_occurs():
    own, other = random_text(64, 1), random_text(1000, 2)
    text = np.concatenate([np.tile(own, 3), other[:64]])
    assert shared_fraction(text, other, mode="stream") == 1 / 4


def test_a_short_text_is_compared_as_far_as_a_window_reaches():
    other = random_text(1000, 2)
    assert shared_fraction(other[500:510], other, mode="stream") == 1
    assert shared_fraction(random_text(10, 1), other, mode="stream") == 0
    assert shared_fraction(other[:0], other, mode="stream") == 0


def test_records_count_in_any_order_and_by_whole_records():
    records = [np.append(random_ids(6, seed), EOS) for seed in range(4)]
    text = np.concatenate(records[:3])
    other = np.concatenate([records[2], records[3][:3], records[3], records[0]])
    assert shared_fraction(text, other, mode="records") == pytest.approx(2 / 3)
