"""What a model gives each token of a text, as it was trained and as it adapts while it reads."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from charlm.config.schema import Mode
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows import PADDING, Position, Window, record_spans, reverse
from charlm.errors import CharlmError, CorpusError
from charlm.evaluation.adaptive.cache import cache_log_probabilities, fit_cache
from charlm.evaluation.adaptive.dynamic import (
    DynamicSettings,
    dynamic_log_probabilities,
    fit_dynamic_settings,
    mean_squared_gradients,
)
from charlm.evaluation.adaptive.interpolation import Floats, fit_weights, interpolate
from charlm.model.language_model import LanguageModel
from charlm.training.loss import predict_windows

Positions = npt.NDArray[np.int64]

SEGMENT, FIT_TOKENS = 20, 20_000
_TOKENS_AT_ONCE = 4096
_RECORDS_AT_ONCE, _RECORD_WINDOW = 64, 64


@dataclass(frozen=True)
class AdaptationOptions:
    """What a model is helped by.

    Attributes:
        dynamic: Dynamic evaluation: it learns from each segment after predicting it.
        cache: A neural cache is mixed in.
        ngram: An n-gram model of the training text of this order is mixed in.
        segment: Tokens that dynamic evaluation predicts before it learns from them.
        fit_tokens: Tokens of the validation split, from its beginning, that rates and weights are fitted on.
    """

    dynamic: bool = False
    cache: bool = False
    ngram: int | None = None
    segment: int = SEGMENT
    fit_tokens: int = FIT_TOKENS

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.dynamic or self.cache or self.ngram is not None


@dataclass(frozen=True)
class ScoringOptions:
    """How a model reads.

    Attributes:
        mode: `stream` or `records`.
        vocabulary_size: Number of ids.
        device: Where the model is.
        precision: What its matrix products are computed in, but for dynamic evaluation: that is in fp32.
        temperature: What logits are divided by.
    """

    mode: Mode
    vocabulary_size: int
    device: torch.device
    precision: torch.dtype
    temperature: float = 1.0


class _Predictor(NamedTuple):
    """One of those that are mixed: what was fitted, what it gives the held-out tokens, and a text's."""

    settings: dict[str, Any]
    fitted: Floats
    predict: Callable[[Ids], Floats]


def target_log_probabilities(
    model: LanguageModel,
    ids: Ids,
    *,
    mode: Mode,
    device: torch.device,
    precision: torch.dtype,
    temperature: float = 1.0,
) -> Floats:
    """Return the natural logarithm of what the model gives each token of a text, in the order of the text, (tokens,).

    Each token is predicted once, in stream mode with the state carried through the whole text. A model that reads
    backward gives each token what it has after those that follow it.

    Args:
        model: On `device`; put into evaluation mode, and back.
        ids: The text, (tokens,). In records mode what follows the last <EOS> is no record, and not a number.
        mode: `stream`; or `records`: each starts from the initial state.
        device: Where to compute.
        precision: What matrix products are computed in.
        temperature: What logits are divided by.

    Raises:
        CharlmError: The model reads both ways: a token then has two probabilities.
    """
    _check_one_way(model)
    order = _order(model, ids, mode)
    found = np.empty(len(ids))
    found[order] = _static(model, np.asarray(ids)[order], mode, device, precision, temperature)
    return found


def check_methods(model: LanguageModel, methods: AdaptationOptions, mode: Mode) -> None:
    """Check that what a model is to be helped by is defined for it.

    Raises:
        CharlmError: It is not.
    """
    if methods.any:
        _check_one_way(model)
    if methods.cache and mode == "records":
        raise CharlmError(
            "cache: looks back over one long text, and in records mode each record is a text of its own; leave it out, "
            "or learn from record to record with dynamic evaluation"
        )


def adapted_log_probabilities(
    model: LanguageModel,
    ids: Ids,
    methods: AdaptationOptions,
    reading: ScoringOptions,
    *,
    train_ids: Ids,
    valid_ids: Ids,
) -> tuple[Floats, dict[str, Any]]:
    """Return log p of each token, in the order of reading, by the model and what it is helped by.

    All that is fitted is fitted on the beginning of `valid_ids`; that nothing is learnt and nothing mixed in is always
    among what is tried.

    Args:
        model: On `device`; left as it is.
        ids: The text to predict, (tokens,).
        methods: What it is helped by.
        reading: How it reads.
        train_ids: The training text.
        valid_ids: The validation text.

    Returns:
        (tokens,), and what was fitted.

    Raises:
        CharlmError: A method is not defined for this model, or there is nothing to fit on.
    """
    check_methods(model, methods, reading.mode)
    if model.direction == "backward":
        ids, train_ids, valid_ids = (
            reverse(text, mode=reading.mode) for text in (ids, train_ids, valid_ids)
        )
    fit_ids = _first(valid_ids, methods.fit_tokens, reading.mode)
    if not len(fit_ids):
        raise CorpusError(
            "the validation split has no text to fit on; give corpus.valid_share a larger share"
        )
    network = _network(model, methods, reading, train_ids, fit_ids)
    predictors = {"dynamic" if methods.dynamic else "static": network}
    if methods.cache:
        predictors["cache"] = _cache(model, reading, fit_ids, network.fitted)
    if methods.ngram is not None:
        predictors["ngram"] = _ngram(methods.ngram, reading, train_ids, fit_ids)
    weights = fit_weights(np.stack([predictor.fitted for predictor in predictors.values()]))
    used = [number for number, weight in enumerate(weights) if weight > 0]
    chosen = list(predictors.values())
    found = interpolate(np.stack([chosen[number].predict(ids) for number in used]), weights[used])
    settings = {
        name: predictor.settings for name, predictor in predictors.items() if predictor.settings
    }
    return found, settings | {
        "weights": {
            name: round(float(weight), 4) for name, weight in zip(predictors, weights, strict=True)
        },
        "fitted_on": f"the first {len(fit_ids):,} tokens of valid",
    }


def _network(
    model: LanguageModel,
    methods: AdaptationOptions,
    reading: ScoringOptions,
    train_ids: Ids,
    fit_ids: Ids,
) -> _Predictor:
    """Return the model as it is, or as it learns by a settings that is fitted."""

    def static(text: Ids) -> Floats:
        return _static(
            model, text, reading.mode, reading.device, reading.precision, reading.temperature
        )

    fitted = static(fit_ids)
    if not methods.dynamic:
        return _Predictor({}, fitted, static)
    options: dict[str, Any] = {
        "mode": reading.mode,
        "device": reading.device,
        "temperature": reading.temperature,
    }
    squares = mean_squared_gradients(model, train_ids, segment=methods.segment, **options)
    tried: dict[DynamicSettings, Floats] = {}

    def loss(settings: DynamicSettings) -> float:
        tried[settings] = dynamic_log_probabilities(model, fit_ids, settings, squares, **options)
        return -float(tried[settings].mean())

    settings = fit_dynamic_settings(loss, -float(fitted.mean()), segment=methods.segment)
    if not settings.learning_rate:
        return _Predictor(asdict(settings), fitted, static)
    return _Predictor(
        asdict(settings),
        tried[settings],
        lambda text: dynamic_log_probabilities(model, text, settings, squares, **options),
    )


def _static(
    model: LanguageModel,
    ids: Ids,
    mode: Mode,
    device: torch.device,
    precision: torch.dtype,
    temperature: float,
) -> Floats:
    """Return what the model gives each token of a text in the order of reading, (tokens,)."""
    at = list(_positions(ids, mode))
    windows = (_window(ids, positions, fresh) for positions, fresh in at)
    found = [
        -cross_entropy(logits / temperature, targets, ignore_index=PADDING, reduction="none")
        for logits, targets in predict_windows(model, windows, device=device, precision=precision)
    ]
    log_p = np.full(len(ids), np.nan)
    asked = np.concatenate([positions.ravel() for positions, _ in at] or [np.zeros(0, np.int64)])
    if len(asked):
        log_p[asked[asked >= 0]] = torch.cat(found).double().cpu().numpy()[asked >= 0]
    return log_p


def _cache(
    model: LanguageModel, reading: ScoringOptions, fit_ids: Ids, log_p: Floats
) -> _Predictor:
    options: dict[str, Any] = {
        "device": reading.device,
        "precision": reading.precision,
    }
    cache, fitted = fit_cache(model, fit_ids, log_p, **options)
    return _Predictor(
        asdict(cache), fitted, lambda text: cache_log_probabilities(model, text, cache, **options)
    )


def _ngram(order: int, reading: ScoringOptions, train_ids: Ids, fit_ids: Ids) -> _Predictor:
    from charlm.evaluation.adaptive.ngram import KneserNey

    counted = KneserNey(
        train_ids, order, reading.vocabulary_size, records=reading.mode == "records"
    )
    return _Predictor(
        {"order": order}, counted.log_probabilities(fit_ids), counted.log_probabilities
    )


def _check_one_way(model: LanguageModel) -> None:
    if model.direction == "both":
        raise CharlmError(
            "model.direction: both gives each token two probabilities, one from either side, and so none to adapt or "
            "mix; score the text as it is, or train with model.direction=forward"
        )


def _order(model: LanguageModel, ids: Ids, mode: Mode) -> Positions:
    """Return the place in the text of each token in the order of reading."""
    at = np.arange(len(ids))
    if model.direction != "backward":
        return at
    if mode == "records":
        for begin, end in record_spans(ids):
            at[begin : end - 1] = at[begin : end - 1][::-1]  # <EOS> stays last.
        return at
    end = len(ids) - 1 if len(ids) and ids[-1] == EOS else len(ids)
    return np.concatenate([at[:end][::-1], at[end:]])


def _first(ids: Ids, tokens: int, mode: Mode) -> Ids:
    """Return the beginning of a text, in records mode whole records: at least one, if there is one."""
    if mode == "records":
        ends = record_spans(ids)[:, 1]
        return ids[: max(ends[:1].max(initial=0), ends[ends <= tokens].max(initial=0))]
    return ids[:tokens]


def _positions(ids: Ids, mode: Mode) -> Iterator[tuple[Positions, bool]]:
    """Yield where the tokens of each window are, (time, batch), -1 for padding; and whether states begin there."""
    if mode == "stream":
        for first in range(0, len(ids), _TOKENS_AT_ONCE):
            yield np.arange(first, min(first + _TOKENS_AT_ONCE, len(ids)))[:, None], first == 0
        return
    spans = record_spans(ids)
    spans = spans[np.argsort(spans[:, 1] - spans[:, 0], kind="stable")]
    for batch in np.split(spans, range(_RECORDS_AT_ONCE, len(spans), _RECORDS_AT_ONCE)):
        longest = int((batch[:, 1] - batch[:, 0]).max(initial=0))
        for first in range(0, longest, _RECORD_WINDOW):
            at = batch[:, 0] + np.arange(first, min(first + _RECORD_WINDOW, longest))[:, None]
            yield np.where(at < batch[:, 1], at, -1), first == 0


def _window(ids: Ids, at: Positions, fresh: bool) -> Window:
    """Return a window of the tokens at `at`; what stands before a record is the <EOS> of the one before it."""
    inputs = np.where(at > 0, ids[np.maximum(at - 1, 0)].astype(np.int64), EOS)
    targets = np.where(at >= 0, ids[np.maximum(at, 0)].astype(np.int64), PADDING)
    return Window(
        torch.from_numpy(inputs), torch.from_numpy(targets), fresh, Position(), 0.0, inputs.shape[1]
    )
