"""Log-probabilities of a text's tokens by a model with fixed weights."""

import numpy as np
import pytest
from small_models import CPU, log_p_at_once, make_model, random_ids, random_records

from charlm.data.tokenizer import EOS
from charlm.data.windows import scoring
from charlm.errors import CharlmError
from charlm.evaluation.perplexity import score_text
from charlm.evaluation.static_model import StaticModel


def log_p(direction: str, ids: np.ndarray, mode: str = "stream", **options) -> np.ndarray:
    return StaticModel(make_model(direction), mode, CPU, **options).log_probabilities(ids)


def test_windows_give_each_token_the_probability_of_the_text_read_at_once(monkeypatch):
    monkeypatch.setattr(scoring, "_SCORING_TOKENS", 16)
    ids = random_ids(50)
    assert log_p("forward", ids) == pytest.approx(log_p_at_once(make_model(), ids), abs=1e-5)


def test_a_backward_model_predicts_each_token_from_those_that_follow_it():
    ids = random_ids(30)
    expected = log_p_at_once(make_model(), ids[::-1])[::-1]
    assert log_p("backward", ids) == pytest.approx(expected, abs=1e-5)
    expected = log_p_at_once(make_model(), np.append(ids[::-1], EOS))
    assert log_p("backward", np.append(ids, EOS).astype(np.uint8)) == pytest.approx(
        [*expected[:-1][::-1], expected[-1]], abs=1e-5
    )


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_each_record_is_read_by_itself(monkeypatch, direction):
    monkeypatch.setattr(scoring, "_SCORING_TOKENS", 256)  # 4 tokens of 64 records.
    ids = random_records(70)
    ends = np.flatnonzero(ids == EOS) + 1
    expected = [log_p(direction, record) for record in np.split(ids, ends)[:-1]]
    assert log_p(direction, ids, "records") == pytest.approx(np.concatenate(expected), abs=1e-5)


def test_the_sum_is_the_score_at_any_temperature():
    ids = random_records(30)
    for mode in ("stream", "records"):
        for direction in ("forward", "backward"):
            static = StaticModel(make_model(direction), mode, CPU, temperature=1.7)
            total = static.log_probabilities(ids).sum()
            assert total == pytest.approx(-score_text(static, ids).nats, rel=1e-6), (
                mode,
                direction,
            )


def test_a_text_without_tokens_has_no_probabilities():
    for mode in ("stream", "records"):
        assert log_p("forward", random_ids(0), mode).shape == (0,), mode


def test_a_model_of_both_directions_has_no_probability_of_a_token():
    with pytest.raises(CharlmError, match=r"^model.direction: both [^\n]+$"):
        log_p("both", random_ids(5))
