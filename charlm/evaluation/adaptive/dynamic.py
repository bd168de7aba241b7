"""Dynamic evaluation: the model learns from each segment of a text after predicting it.

Krause et al. 2018 (arXiv:1709.07432), sections 3 and 4: gradient steps scaled by the size of the
gradients on the training text, and a decay toward the trained weights.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from charlm.config.corpus import Mode
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows.directions import record_spans
from charlm.data.windows.scoring import WARM_UP
from charlm.evaluation.static_model import Floats
from charlm.model.language_model import LanguageModel, detach
from charlm.model.log_probabilities import differentiable_log_probabilities, without_tf32

_MAX_SEGMENTS = 1000  # Segments of the training text whose gradients are squared.
_PLACES = 20  # Places of the training text at which these segments are read.
# ε as a fraction of the mean RMS: a weight that training hardly moved must not jump.
_EPSILON = 0.1
_FIRST_RATE, _FIRST_DECAY = 5e-4, 2e-3  # The search starts here, close to tiny Shakespeare's.
_MAX_MOVES = 6  # Moves of the search in one direction.


@dataclass(frozen=True)
class DynamicSettings:
    """Settings of dynamic evaluation.

    Attributes:
        learning_rate: η, the change of a weight whose gradient has its usual size; with 0 the
            weights stay as they are.
        decay: λ, the fraction by which a weight of mean gradient returns to its trained value in
            each step.
        segment: Number of tokens predicted before each step.
    """

    learning_rate: float
    decay: float
    segment: int


class _Span(NamedTuple):
    """A segment of a text.

    Attributes:
        start: Position of the first token.
        end: Position after the last token.
        resets_state: Whether the state is the initial one at the first token.
    """

    start: int
    end: int
    resets_state: bool


@without_tf32()
def dynamic_log_probabilities(
    model: LanguageModel,
    ids: Ids,
    settings: DynamicSettings,
    squares: list[Tensor],
    *,
    mode: Mode,
    device: torch.device,
    temperature: float = 1.0,
) -> Floats:
    """Return log p of each token, (tokens,), by a copy of the model that learns from the text.

    θ ← θ + λ' (θ_0 - θ) - η g / (RMS + ε), element by element: g is the gradient of the segment's
    loss, RMS the square root of `squares`, λ' = min(λ RMS / mean RMS, 1) (Krause et al. 2018,
    section 4). The state is carried; gradients stop at the beginning of a segment, as in truncated
    backpropagation through time.

    Args:
        model: Trained model; it is not changed.
        ids: Text in reading order, (tokens,).
        settings: Learning rate, decay and segment.
        squares: Result of `mean_squared_gradients` for the same segment.
        mode: `stream`, or `records`: each record starts from the initial state, while the weights
            are carried on.
        device: Device of the model.
        temperature: Divisor of the logits, in learning as well.
    """
    model = copy.deepcopy(model).float().eval()
    weights = _trainable_weights(model)
    trained = [weight.detach().clone() for weight in weights]
    rates, decays = _step_sizes(settings, squares)
    parts = []
    spans = _spans(ids, mode, settings.segment)
    for log_p in _predict_segments(model, ids, spans, device, temperature):
        parts.append(log_p.detach())
        gradients = torch.autograd.grad(-log_p.sum(), weights, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_lerp_(weights, trained, decays)
            torch._foreach_addcmul_(weights, gradients, rates, -1.0)
    return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)


@without_tf32()
def mean_squared_gradients(
    model: LanguageModel,
    ids: Ids,
    *,
    mode: Mode,
    segment: int,
    device: torch.device,
    temperature: float = 1.0,
    max_segments: int = _MAX_SEGMENTS,
) -> list[Tensor]:
    """Return the mean square of a segment's gradient on the training text, for each weight tensor.

    Args:
        model: Trained model; it is not changed.
        ids: Training text in reading order; segments at a few evenly spaced places are read.
        mode: As for `dynamic_log_probabilities`.
        segment: Number of tokens in a segment.
        device: Device of the model.
        temperature: Divisor of the logits.
        max_segments: Largest number of segments.
    """
    model = copy.deepcopy(model).float().eval()
    weights = _trainable_weights(model)
    squares = [torch.zeros_like(weight) for weight in weights]
    count = 0
    for piece, warm_up in _training_pieces(ids, mode, segment, max_segments):
        spans = _spans(piece, mode, segment)
        predictions = _predict_segments(model, piece, spans, device, temperature)
        for number, log_p in enumerate(predictions):
            if number < warm_up:
                continue
            gradients = torch.autograd.grad(-log_p.sum(), weights, materialize_grads=True)
            torch._foreach_addcmul_(squares, gradients, gradients)
            count += 1
    return [square / max(count, 1) for square in squares]


def fit_dynamic_settings(
    loss: Callable[[DynamicSettings], float], static_loss: float, *, segment: int
) -> DynamicSettings:
    """Return the settings of least loss found by a coordinate search.

    The search changes the learning rate, then the decay, then the learning rate in smaller steps.

    Args:
        loss: Loss on held-out text as a function of the settings; NaN where learning diverged.
        static_loss: Loss without learning. If the search finds nothing better, the learning rate
            is zero.
        segment: Number of tokens in a segment.
    """

    @functools.cache
    def finite_loss(settings: DynamicSettings) -> float:
        nats = loss(settings)
        return nats if math.isfinite(nats) else math.inf

    settings = DynamicSettings(_FIRST_RATE, _FIRST_DECAY, segment)
    settings = _descend(settings, finite_loss, _scale_rate, 2)
    settings = _descend(settings, finite_loss, _scale_decay, 3)
    settings = _descend(settings, finite_loss, _scale_rate, 2**0.5, max_moves=1)
    if finite_loss(settings) < static_loss:
        return settings
    return replace(settings, learning_rate=0.0)


def _descend(
    settings: DynamicSettings,
    loss: Callable[[DynamicSettings], float],
    scale: Callable[[DynamicSettings, float], DynamicSettings],
    factor: float,
    max_moves: int = _MAX_MOVES,
) -> DynamicSettings:
    """Return the settings after scaling one of them, up and then down, while the loss falls."""
    for ratio in (factor, 1 / factor):
        for _ in range(max_moves):
            candidate = scale(settings, ratio)
            if loss(candidate) >= loss(settings):
                break
            settings = candidate
    return settings


def _scale_rate(settings: DynamicSettings, ratio: float) -> DynamicSettings:
    return replace(settings, learning_rate=_round(settings.learning_rate * ratio))


def _scale_decay(settings: DynamicSettings, ratio: float) -> DynamicSettings:
    return replace(settings, decay=_round(min(settings.decay * ratio, 1.0)))


def _round(number: float) -> float:
    """Return a number with three significant digits, short enough to print."""
    return float(f"{number:.3g}")


def _step_sizes(
    settings: DynamicSettings, squares: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return η / (RMS + ε) and λ' for each weight tensor."""
    rms = [square.sqrt() for square in squares]
    mean = sum(float(part.sum()) for part in rms) / sum(part.numel() for part in rms)
    mean = max(mean, torch.finfo(torch.float32).tiny)
    rates = [settings.learning_rate / (part + _EPSILON * mean) for part in rms]
    decays = [(settings.decay / mean * part).clamp(max=1) for part in rms]
    return rates, decays


def _trainable_weights(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _predict_segments(
    model: LanguageModel,
    ids: Ids,
    spans: Iterator[_Span],
    device: torch.device,
    temperature: float,
) -> Iterator[Tensor]:
    """Yield log p of each segment's tokens, (tokens,), with its graph, by the current weights."""
    states = None
    for start, end, resets_state in spans:
        before = [EOS] if start == 0 else ids[start - 1 : start]
        segment_ids = np.concatenate([before, ids[start:end]]).astype(np.int64)
        tokens = torch.from_numpy(segment_ids)[:, None].to(device)
        with torch.enable_grad():
            log_p, after = differentiable_log_probabilities(
                model,
                tokens[:-1],
                tokens[1:],
                None if resets_state else states,
                temperature=temperature,
            )
        yield log_p.flatten()
        states = detach(after)


def _spans(ids: Ids, mode: Mode, segment: int) -> Iterator[_Span]:
    """Yield the segments of a text; in records mode no segment crosses the end of a record."""
    texts = record_spans(ids).tolist() if mode == "records" else [(0, len(ids))]
    for begin, end in texts:
        for start in range(begin, end, segment):
            yield _Span(start, min(start + segment, end), resets_state=start == begin)


def _training_pieces(
    ids: Ids, mode: Mode, segment: int, max_segments: int
) -> Iterator[tuple[Ids, int]]:
    """Yield evenly spaced pieces of a text, each with its number of warm-up segments.

    The warm-up segments bring the state to where reading from the beginning would have it.
    """
    if mode == "records":
        spans = record_spans(ids)
        chosen = np.linspace(0, len(spans) - 1, min(max_segments, len(spans))).astype(np.int64)
        for number in np.unique(chosen):
            yield ids[slice(*spans[number])], 0
        return
    segments_per_place = -(-max_segments // _PLACES)
    warm_up = -(-WARM_UP // segment)
    length = (warm_up + segments_per_place) * segment
    if len(ids) <= _PLACES * length:
        yield ids[: max_segments * segment], 0
        return
    for start in np.linspace(0, len(ids) - length, _PLACES).astype(np.int64):
        yield ids[start : start + length], warm_up
