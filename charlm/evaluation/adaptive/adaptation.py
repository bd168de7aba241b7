"""A model that adapts to a text while it reads: all methods together, fitted on held-out text."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from charlm.config.corpus import Mode
from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import record_spans, reverse
from charlm.errors import CorpusError, UnsupportedOptionError
from charlm.evaluation.adaptive.cache import cache_log_probabilities, fit_cache
from charlm.evaluation.adaptive.dynamic import (
    DynamicSettings,
    dynamic_log_probabilities,
    fit_dynamic_settings,
    mean_squared_gradients,
)
from charlm.evaluation.adaptive.interpolation import fit_weights, interpolate
from charlm.evaluation.adaptive.ngram import KneserNey
from charlm.evaluation.options import AdaptationOptions
from charlm.evaluation.static_model import Floats, StaticModel, require_one_probability
from charlm.model.language_model import LanguageModel


class AdaptedPrediction(NamedTuple):
    """Predictions of a text by a model that adapts.

    Attributes:
        log_p: log p of each token in reading order, (tokens,).
        settings: Fitted settings of each method, the weights of the interpolation, and the number
            of tokens they were fitted on.
    """

    log_p: Floats
    settings: dict[str, Any]


class _Predictor(NamedTuple):
    """One of the predictors that are interpolated.

    Attributes:
        settings: Fitted settings; empty for a model that does not learn.
        fitted: log p of each token that the settings were fitted on, (tokens,).
        predict: Function from a text in reading order to log p of its tokens.
    """

    settings: dict[str, Any]
    fitted: Floats
    predict: Callable[[Ids], Floats]


def check_adaptation(model: LanguageModel, options: AdaptationOptions, mode: Mode) -> None:
    """Check that a model can adapt as the options ask.

    Raises:
        CharlmError: The model reads in both directions.
        UnsupportedOptionError: The cache is not defined for records.
    """
    if not options.is_static:
        require_one_probability(model)
    if options.cache and mode == "records":
        raise UnsupportedOptionError(
            "cache",
            "looks back over one long text, but in records mode each record is a text of its own; "
            "leave it out, or use {}",
            others=["dynamic"],
        )


def adapted_log_probabilities(
    static: StaticModel,
    ids: Ids,
    options: AdaptationOptions,
    *,
    train_ids: Ids,
    valid_ids: Ids,
) -> AdaptedPrediction:
    """Predict a text by a model that adapts.

    All settings are fitted on the beginning of `valid_ids`. No learning and no interpolation are
    always among the candidates. Dynamic evaluation computes in fp32 whatever the precision.

    Args:
        static: Model without adaptation; it is not changed.
        ids: Text to predict, (tokens,).
        options: Methods of adaptation.
        train_ids: Training text, (tokens,).
        valid_ids: Validation text, (tokens,).

    Raises:
        CharlmError: A method is not defined for this model, or the validation text is empty.
    """
    check_adaptation(static.model, options, static.mode)
    if static.model.direction == "backward":
        texts = (ids, train_ids, valid_ids)
        ids, train_ids, valid_ids = (reverse(text, mode=static.mode) for text in texts)
    fit_ids = _beginning(valid_ids, options.fit_tokens, static.mode)
    if not len(fit_ids):
        raise CorpusError(
            "the validation split has no token to fit on; increase corpus.valid_share"
        )
    predictors = _fit_predictors(static, options, train_ids, fit_ids)
    weights = fit_weights(np.stack([predictor.fitted for predictor in predictors.values()]))
    settings = {
        name: predictor.settings for name, predictor in predictors.items() if predictor.settings
    }
    settings["weights"] = {
        name: round(float(weight), 4) for name, weight in zip(predictors, weights, strict=True)
    }
    return AdaptedPrediction(
        log_p=_interpolate(list(predictors.values()), weights, ids),
        settings=settings | {"fitted_on": f"the first {len(fit_ids):,} tokens of valid"},
    )


def _interpolate(predictors: list[_Predictor], weights: Floats, ids: Ids) -> Floats:
    """Return log p of a text's tokens; predictors without weight are not computed."""
    used = np.flatnonzero(weights > 0)
    log_probabilities = np.stack([predictors[number].predict(ids) for number in used])
    return interpolate(log_probabilities, weights[used])


def _fit_predictors(
    static: StaticModel, options: AdaptationOptions, train_ids: Ids, fit_ids: Ids
) -> dict[str, _Predictor]:
    predictors: dict[str, _Predictor] = {}
    if options.dynamic:
        network = _fit_dynamic(static, options.segment, train_ids, fit_ids)
        predictors["dynamic"] = network
    else:
        network = _static_predictor(static, fit_ids)
        predictors["static"] = network
    if options.cache:
        predictors["cache"] = _fit_cache(static, fit_ids, network.fitted)
    if options.mix_ngram is not None:
        predictors["ngram"] = _count_ngrams(static, options.mix_ngram, train_ids, fit_ids)
    return predictors


def _static_predictor(static: StaticModel, fit_ids: Ids) -> _Predictor:
    predict = static.log_probabilities_as_read
    return _Predictor({}, fitted=predict(fit_ids), predict=predict)


def _fit_dynamic(static: StaticModel, segment: int, train_ids: Ids, fit_ids: Ids) -> _Predictor:
    """Fit dynamic evaluation; if learning does not help, predict with the weights as they are."""
    context: dict[str, Any] = {
        "mode": static.mode,
        "device": static.device,
        "temperature": static.temperature,
    }
    squares = mean_squared_gradients(static.model, train_ids, segment=segment, **context)

    def predict(settings: DynamicSettings, ids: Ids) -> Floats:
        return dynamic_log_probabilities(static.model, ids, settings, squares, **context)

    fitted: dict[DynamicSettings, Floats] = {}

    def loss(settings: DynamicSettings) -> float:
        fitted[settings] = predict(settings, fit_ids)
        return -float(fitted[settings].mean())

    unchanged = _static_predictor(static, fit_ids)
    settings = fit_dynamic_settings(loss, -float(unchanged.fitted.mean()), segment=segment)
    if not settings.learning_rate:
        return unchanged._replace(settings=asdict(settings))
    return _Predictor(asdict(settings), fitted[settings], lambda ids: predict(settings, ids))


def _fit_cache(static: StaticModel, fit_ids: Ids, log_p: Floats) -> _Predictor:
    context: dict[str, Any] = {"device": static.device, "precision": static.precision}
    settings, fitted = fit_cache(static.model, fit_ids, log_p, **context)
    return _Predictor(
        settings=asdict(settings),
        fitted=fitted,
        predict=lambda ids: cache_log_probabilities(static.model, ids, settings, **context),
    )


def _count_ngrams(static: StaticModel, order: int, train_ids: Ids, fit_ids: Ids) -> _Predictor:
    ngrams = KneserNey(
        train_ids, order, static.model.vocabulary_size, records=static.mode == "records"
    )
    return _Predictor(
        settings={"order": order},
        fitted=ngrams.log_probabilities(fit_ids),
        predict=ngrams.log_probabilities,
    )


def _beginning(ids: Ids, tokens: int, mode: Mode) -> Ids:
    """Return the beginning of a text; in records mode whole records, at least one if there is."""
    if mode == "records":
        ends = record_spans(ids)[:, 1]
        return ids[: max(ends[:1].max(initial=0), ends[ends <= tokens].max(initial=0))]
    return ids[:tokens]
