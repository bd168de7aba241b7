"""All methods of adaptation together, and the text that they are fitted on."""

import numpy as np
import pytest
from small_models import CPU, make_model, random_ids, random_records

from charlm.data.tokenizer import EOS
from charlm.data.windows.directions import reverse
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.adaptive import adaptation
from charlm.evaluation.adaptive.adaptation import adapted_log_probabilities, check_adaptation
from charlm.evaluation.options import AdaptationOptions
from charlm.evaluation.static_model import StaticModel

ALL = AdaptationOptions(dynamic=True, cache=True, mix_ngram=2, segment=10, fit_tokens=60)
TEXTS = {"train_ids": random_ids(200, 2), "valid_ids": random_ids(90, 3)}


def static(direction: str = "forward", mode: str = "stream") -> StaticModel:
    return StaticModel(make_model(direction), mode, CPU)


def test_on_the_fitted_text_adaptation_is_never_worse_than_the_static_model():
    valid = random_ids(60, 3)
    for options in (
        ALL,
        AdaptationOptions(dynamic=True, segment=10),
        AdaptationOptions(cache=True),
        AdaptationOptions(mix_ngram=3),
    ):
        texts = TEXTS | {"valid_ids": valid}
        log_p, settings = adapted_log_probabilities(static(), valid, options, **texts)
        assert log_p.mean() >= static().log_probabilities(valid).mean() - 1e-6, options
        assert sum(settings["weights"].values()) == pytest.approx(1, abs=1e-3)
        assert settings["fitted_on"] == "the first 60 tokens of valid"


def test_adaptation_predicts_a_repeated_text_better():
    ids = np.tile(random_ids(12), 20)
    for options in (AdaptationOptions(dynamic=True, segment=6), AdaptationOptions(cache=True)):
        texts = TEXTS | {"valid_ids": ids}
        log_p, _ = adapted_log_probabilities(static(), ids, options, **texts)
        assert log_p.mean() > static().log_probabilities(ids).mean() + 0.3, options


def test_nothing_is_fitted_on_the_scored_text(monkeypatch):
    """Every text read before the fit is over is the training text or the validation text."""
    read = []
    for name in ("dynamic_log_probabilities", "fit_cache", "mean_squared_gradients"):
        original = getattr(adaptation, name)
        monkeypatch.setattr(
            adaptation,
            name,
            lambda model, ids, *rest, _original=original, _name=name, **options: (
                read.append((_name, ids.tolist())),
                _original(model, ids, *rest, **options),
            )[1],
        )
    scored, other = random_ids(70, 4), random_ids(30, 5)
    _, settings = adapted_log_probabilities(static(), scored, ALL, **TEXTS)
    _, other_settings = adapted_log_probabilities(static(), other, ALL, **TEXTS)
    assert settings == other_settings
    scored_texts = (scored.tolist(), other.tolist())
    by_scored = [name for name, ids in read if ids in scored_texts]
    assert set(by_scored) <= {"dynamic_log_probabilities"} and len(by_scored) <= 2
    for name, ids in read:
        if name == "mean_squared_gradients":
            assert ids == TEXTS["train_ids"].tolist()
        elif ids not in scored_texts:
            assert ids == TEXTS["valid_ids"][:60].tolist()


def test_a_backward_model_adapts_in_its_reading_order():
    ids = random_ids(40, 4)
    backward, _ = adapted_log_probabilities(static("backward"), ids, ALL, **TEXTS)
    texts = {name: reverse(text, mode="stream") for name, text in TEXTS.items()}
    forward, _ = adapted_log_probabilities(static(), reverse(ids, mode="stream"), ALL, **texts)
    assert backward == pytest.approx(forward)


def test_adaptation_to_records_is_fitted_on_whole_records():
    ids = random_records(40)
    ends = np.flatnonzero(ids == EOS) + 1

    def fitted_on(options: AdaptationOptions, valid: np.ndarray) -> str:
        _, settings = adapted_log_probabilities(
            static(mode="records"), ids, options, train_ids=ids, valid_ids=valid
        )
        return settings["fitted_on"]

    options = AdaptationOptions(dynamic=True, mix_ngram=2, segment=10, fit_tokens=50)
    assert fitted_on(options, ids) == f"the first {ends[ends <= 50].max()} tokens of valid"
    options = AdaptationOptions(mix_ngram=2, fit_tokens=1)  # At least one record.
    assert fitted_on(options, ids[1:]) == f"the first {ends[1] - 1} tokens of valid"


def test_adaptation_that_is_not_defined_is_refused():
    with pytest.raises(OptionError, match=r"^cache: [^\n]+ dynamic$"):
        check_adaptation(make_model(), AdaptationOptions(cache=True), "records")
    for options in (
        AdaptationOptions(dynamic=True),
        AdaptationOptions(cache=True),
        AdaptationOptions(mix_ngram=2),
    ):
        with pytest.raises(CharlmError, match=r"^model.direction: both [^\n]+$"):
            check_adaptation(make_model("both"), options, "stream")
    check_adaptation(make_model("both"), AdaptationOptions(), "records")
    with pytest.raises(CorpusError, match="no token to fit on"):
        adapted_log_probabilities(
            static(),
            random_ids(5),
            AdaptationOptions(mix_ngram=2),
            train_ids=random_ids(200, 2),
            valid_ids=random_ids(0),
        )
