"""Log-probabilities of a text's tokens, as a model is and as it adapts."""

import numpy as np
import pytest
import torch

from charlm.config.schema import Model
from charlm.data.tokenizer import EOS
from charlm.data.tokens import Counts, Tokens
from charlm.data.windows import reverse
from charlm.errors import CharlmError, CorpusError
from charlm.evaluation.adaptive import adaptation
from charlm.evaluation.adaptive.adaptation import (
    AdaptationOptions,
    ScoringOptions,
    adapted_log_probabilities,
    check_methods,
    target_log_probabilities,
)
from charlm.evaluation.perplexity import measure
from charlm.model.language_model import LanguageModel

CPU = torch.device("cpu")
VOCABULARY = 8
ALL = AdaptationOptions(dynamic=True, cache=True, ngram=2, segment=10, fit_tokens=60)


def make(direction: str = "forward", **options: object) -> LanguageModel:
    torch.manual_seed(1)
    model = LanguageModel(
        Model(hidden_size=8, embedding_size=4, direction=direction, **options), VOCABULARY
    )
    with torch.no_grad():
        model.projection.weight *= 4
    return model.eval()


def text(tokens: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, VOCABULARY, tokens).astype(np.uint8)


def of_records(records: int) -> np.ndarray:
    return np.concatenate(
        [np.append(text(5 * length % 12, length), EOS) for length in range(records)]
    ).astype(np.uint8)


def reading(mode: str = "stream") -> ScoringOptions:
    return ScoringOptions(mode, VOCABULARY, CPU, torch.float32)


def static(
    model: LanguageModel, ids: np.ndarray, mode: str = "stream", temperature: float = 1.0
) -> np.ndarray:
    return target_log_probabilities(
        model, ids, mode=mode, device=CPU, precision=torch.float32, temperature=temperature
    )


def alone(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """Return log p of each token of a text that is read at once."""
    targets = torch.from_numpy(ids.astype(np.int64))
    with torch.no_grad():
        logits, _ = model(torch.cat([torch.tensor([EOS]), targets[:-1]])[:, None])
    return logits[:, 0].double().log_softmax(dim=-1).gather(1, targets[:, None])[:, 0].numpy()


def adapted(model, ids, methods, mode="stream", **texts):
    return adapted_log_probabilities(
        model,
        ids,
        methods,
        reading(mode),
        **({"train_ids": text(200, 2), "valid_ids": text(90, 3)} | texts),
    )


def test_each_token_has_what_it_has_when_the_text_is_read_at_once(monkeypatch):
    monkeypatch.setattr(adaptation, "_TOKENS_AT_ONCE", 16)
    assert static(make(), text(50)) == pytest.approx(alone(make(), text(50)), abs=1e-5)


def test_a_backward_model_gives_each_token_what_it_has_after_those_that_follow_it():
    ids = text(30)
    assert static(make("backward"), ids) == pytest.approx(alone(make(), ids[::-1])[::-1], abs=1e-5)
    closed = np.append(ids, EOS).astype(np.uint8)
    expected = alone(make(), np.append(ids[::-1], EOS))
    assert static(make("backward"), closed) == pytest.approx(
        [*expected[:-1][::-1], expected[-1]], abs=1e-5
    )


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_each_record_is_read_by_itself_and_stands_where_it_stood(monkeypatch, direction):
    monkeypatch.setattr(adaptation, "_RECORDS_AT_ONCE", 3)
    monkeypatch.setattr(adaptation, "_RECORD_WINDOW", 4)
    model, ids = make(direction), of_records(20)
    ends = np.flatnonzero(ids == EOS) + 1
    expected = [static(model, record) for record in np.split(ids, ends)[:-1]]
    assert static(model, ids, "records") == pytest.approx(np.concatenate(expected), abs=1e-5)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("mode", ["stream", "records"])
def test_their_sum_is_the_score_at_any_temperature(mode, direction):
    model, ids = make(direction), of_records(30)
    tokens = Tokens(ids, Counts(len(ids), 0, len(ids), len(ids)))
    score = measure(
        model, tokens, mode=mode, streams=1, device=CPU, precision=torch.float32, temperature=1.7
    )
    assert static(model, ids, mode, 1.7).sum() == pytest.approx(-score.nats, rel=1e-6)


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_a_text_without_tokens_has_no_probabilities(mode):
    assert static(make(), text(0), mode).shape == (0,)


def test_on_the_text_that_all_is_fitted_on_it_is_never_worse_than_the_model_as_it_is():
    model, valid = make(), text(60, 3)
    for methods in (
        ALL,
        AdaptationOptions(dynamic=True, segment=10),
        AdaptationOptions(cache=True),
        AdaptationOptions(ngram=3),
    ):
        found, settings = adapted(model, valid, methods, valid_ids=valid)
        assert found.mean() >= static(model, valid).mean() - 1e-6
        assert sum(settings["weights"].values()) == pytest.approx(1, abs=1e-3)
        assert settings["fitted_on"] == "the first 60 tokens of valid"


def test_a_text_that_repeats_itself_is_predicted_better_by_what_adapts():
    model, ids = make(), np.tile(text(12), 20)
    for methods in (AdaptationOptions(dynamic=True, segment=6), AdaptationOptions(cache=True)):
        found, _ = adapted(model, ids, methods, valid_ids=ids)
        assert found.mean() > static(model, ids).mean() + 0.3


def test_nothing_is_fitted_on_the_text_that_is_scored(monkeypatch):
    """Whatever is read before the fit is over is the training text or the beginning of the validation text."""
    read = []
    for name in ("dynamic_log_probabilities", "fit_cache", "mean_squared_gradients"):
        original = getattr(adaptation, name)
        monkeypatch.setattr(
            adaptation,
            name,
            lambda model, ids, *rest, _original=original, _name=name, **options: (
                read.append((_name, ids)),
                _original(model, ids, *rest, **options),
            )[1],
        )
    train, valid = text(200, 2), text(90, 3)
    scored = text(70, 4)
    _, settings = adapted(make(), scored, ALL, train_ids=train, valid_ids=valid)
    _, other_settings = adapted(make(), text(30, 5), ALL, train_ids=train, valid_ids=valid)
    assert settings == other_settings
    by_scored = [
        name for name, ids in read if ids.tolist() in (scored.tolist(), text(30, 5).tolist())
    ]
    assert set(by_scored) <= {"dynamic_log_probabilities"} and len(by_scored) <= 2
    for name, ids in read:
        if name == "mean_squared_gradients":
            assert ids.tolist() == train.tolist()
        elif ids.tolist() not in (scored.tolist(), text(30, 5).tolist()):
            assert ids.tolist() == valid[:60].tolist()


def test_a_backward_model_adapts_along_its_own_way():
    train, valid, ids = text(200, 2), text(60, 3), text(40, 4)
    backward, _ = adapted(make("backward"), ids, ALL, train_ids=train, valid_ids=valid)
    texts = {"train_ids": reverse(train, mode="stream"), "valid_ids": reverse(valid, mode="stream")}
    forward, _ = adapted(make(), reverse(ids, mode="stream"), ALL, **texts)
    assert backward == pytest.approx(forward)


def test_records_adapt_by_whole_records():
    ids = of_records(40)
    methods = AdaptationOptions(dynamic=True, ngram=2, segment=10, fit_tokens=50)
    _, settings = adapted(make(), ids, methods, "records", train_ids=ids, valid_ids=ids)
    ends = np.flatnonzero(ids == EOS) + 1
    assert settings["fitted_on"] == f"the first {ends[ends <= 50].max()} tokens of valid"
    _, settings = adapted(
        make(),
        ids,
        AdaptationOptions(ngram=2, fit_tokens=1),
        "records",
        train_ids=ids,
        valid_ids=ids[1:],
    )
    assert settings["fitted_on"] == f"the first {ends[1] - 1} tokens of valid"


def test_what_is_not_defined_is_refused():
    with pytest.raises(CharlmError, match=r"^cache: [^\n]+$"):
        check_methods(make(), AdaptationOptions(cache=True), "records")
    for methods in (
        AdaptationOptions(dynamic=True),
        AdaptationOptions(cache=True),
        AdaptationOptions(ngram=2),
    ):
        with pytest.raises(CharlmError, match=r"^model.direction: both [^\n]+$"):
            check_methods(make("both"), methods, "stream")
    check_methods(make("both"), AdaptationOptions(), "records")
    with pytest.raises(CharlmError, match=r"both"):
        static(make("both"), text(5))
    with pytest.raises(CorpusError, match="no text to fit on"):
        adapted(make(), text(5), AdaptationOptions(ngram=2), valid_ids=text(0))
