"""Dynamic evaluation: a model goes on learning from the text that it predicts, each token only once it is predicted.

After Krause et al. 2018 (arXiv:1709.07432), section 3 and 4: gradient steps scaled by the gradients' size on the
training text, and a decay toward the trained weights.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Mode
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows import WARM_UP, record_spans
from charlm.evaluation.adaptive.mixing import Floats
from charlm.model.cells.base import FusedCell
from charlm.model.language_model import LanguageModel, detach
from charlm.model.projection import AdaptiveSoftmax

_SEGMENTS, _PLACES = (
    1000,
    20,
)  # Segments whose gradients are squared, and places of the training text they are read at.
_FLOOR = 0.1  # ε, a share of the mean RMS: what was hardly ever seen in training must not leap.
_RATE, _DECAY = 5e-4, 2e-3  # Where the search begins: near what fits tiny Shakespeare.
_WALK = 6  # Most steps of the search in one direction.


@dataclass(frozen=True)
class DynamicSettings:
    """How weights follow the text.

    Attributes:
        learning_rate: η: what a gradient of its usual size moves a weight by; 0 leaves the weights alone.
        decay: λ: share by which a weight of mean gradient returns to its trained value at each step.
        segment: Tokens that are predicted before the weights learn from them.
    """

    learning_rate: float
    decay: float
    segment: int


def dynamic_log_probabilities(
    model: LanguageModel,
    ids: Ids,
    rule: DynamicSettings,
    squares: list[Tensor],
    *,
    mode: Mode,
    device: torch.device,
    temperature: float = 1.0,
) -> Floats:
    """Return log p of each token, (tokens,), by a copy of the model that learns from each segment after predicting it.

    θ ← θ + λ' (θ_0 - θ) - η g / (RMS + ε), element by element: g is the gradient of the segment's loss, RMS the root
    of `squares`, λ' = min(λ RMS / mean RMS, 1) (Krause et al. 2018, section 4). Gradients stop at a segment's edge,
    as in truncated backpropagation through time; the state is carried.

    Args:
        model: Left as it is.
        ids: The text, in the order of reading, (tokens,).
        rule: Rate, decay and segment.
        squares: From `mean_squared_gradients`, with the same segment.
        mode: `stream`, or `records`: each starts from the initial state, the weights go on.
        device: Where the model is.
        temperature: What logits are divided by, while learning too.
    """
    model = _copied(model)
    weights = _learnt(model)
    trained = [weight.detach().clone() for weight in weights]
    rms = [square.sqrt() for square in squares]
    mean = sum(float(part.sum()) for part in rms) / sum(part.numel() for part in rms)
    mean = max(mean, torch.finfo(torch.float32).tiny)
    rates = [rule.learning_rate / (part + _FLOOR * mean) for part in rms]
    decays = [(rule.decay / mean * part).clamp(max=1) for part in rms]
    found = []
    for log_p in _segments(model, ids, _spans(ids, mode, rule.segment), device, temperature):
        found.append(log_p.detach())
        gradients = torch.autograd.grad(-log_p.sum(), weights, materialize_grads=True)
        with torch.no_grad():
            torch._foreach_lerp_(weights, trained, decays)
            torch._foreach_addcmul_(weights, gradients, rates, -1.0)
    return torch.cat(found).double().cpu().numpy() if found else np.zeros(0)


def mean_squared_gradients(
    model: LanguageModel,
    ids: Ids,
    *,
    mode: Mode,
    segment: int,
    device: torch.device,
    temperature: float = 1.0,
    segments: int = _SEGMENTS,
) -> list[Tensor]:
    """Return the mean square of a segment's gradient on the training text, of each tensor that is learnt.

    Args:
        model: Left as it is.
        ids: The training text, in the order of reading; read at a few places, evenly over it.
        mode: As for `dynamic_log_probabilities`.
        segment: As in `DynamicSettings`.
        device: Where the model is.
        temperature: As for `dynamic_log_probabilities`.
        segments: Most segments that are read.
    """
    model = _copied(model)
    weights = _learnt(model)
    squares = [torch.zeros_like(weight) for weight in weights]
    count = 0
    for place, warm_up in _places(ids, mode, segment, segments):
        spans = _spans(place, mode, segment)
        for number, log_p in enumerate(_segments(model, place, spans, device, temperature)):
            if number < warm_up:
                continue
            gradients = torch.autograd.grad(-log_p.sum(), weights, materialize_grads=True)
            torch._foreach_addcmul_(squares, gradients, gradients)
            count += 1
    return [square / max(count, 1) for square in squares]


def fit_rule(
    loss: Callable[[DynamicSettings], float], static: float, *, segment: int
) -> DynamicSettings:
    """Return the rule of least loss that a search by steps finds: rate, then decay, then the rate again, finer.

    Args:
        loss: Of a rule, on held-out text; not a number where learning went astray.
        static: Its loss where nothing is learnt: what a rule must beat, else the rate is zero.
        segment: As in `DynamicSettings`.
    """
    known: dict[DynamicSettings, float] = {}

    def measured(rule: DynamicSettings) -> float:
        if rule not in known:
            nats = loss(rule)
            known[rule] = nats if math.isfinite(nats) else math.inf
        return known[rule]

    def walk(
        rule: DynamicSettings,
        change: Callable[[DynamicSettings, float], DynamicSettings],
        factor: float,
        steps: int = _WALK,
    ) -> DynamicSettings:
        for ratio in (factor, 1 / factor):
            for _ in range(steps):
                next_ = change(rule, ratio)
                if measured(next_) >= measured(rule):
                    break
                rule = next_
        return rule

    rule = walk(DynamicSettings(_RATE, _DECAY, segment), _other_rate, 2)
    rule = walk(rule, _other_decay, 3)
    rule = walk(rule, _other_rate, 2**0.5, 1)
    return rule if measured(rule) < static else replace(rule, learning_rate=0.0)


def _other_rate(rule: DynamicSettings, ratio: float) -> DynamicSettings:
    return replace(rule, learning_rate=_rounded(rule.learning_rate * ratio))


def _other_decay(rule: DynamicSettings, ratio: float) -> DynamicSettings:
    return replace(rule, decay=_rounded(min(rule.decay * ratio, 1.0)))


def _rounded(number: float) -> float:
    """Return a number of three digits, to be told and given again."""
    return float(f"{number:.3g}")


def _copied(model: LanguageModel) -> LanguageModel:
    """Return a copy in fp32 without dropout, whose fused kernels keep what their gradients need."""
    model = copy.deepcopy(model).float().eval()
    for module in model.modules():
        if isinstance(module, FusedCell):
            module.training = True  # cuDNN has no backward pass otherwise; what dropout is, the layers around say.
    return model


def _learnt(model: nn.Module) -> list[Tensor]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _segments(
    model: LanguageModel,
    ids: Ids,
    spans: Iterator[tuple[int, int, bool]],
    device: torch.device,
    temperature: float,
) -> Iterator[Tensor]:
    """Yield log p of the tokens of each span, with its graph, by the weights as they are when it is asked for."""
    states = None
    for first, end, fresh in spans:
        before = [EOS] if first == 0 else ids[first - 1 : first]
        asked = torch.from_numpy(np.concatenate([before, ids[first:end]]).astype(np.int64)).to(
            device
        )
        with torch.enable_grad():
            features, after = model.encoder(asked[:-1, None], None if fresh else states)
            read = model.adapt(features).flatten(0, 1)
            log_p = _target_log_probabilities(model.projection, read, asked[1:], temperature)
        yield log_p
        states = detach(after)


def _target_log_probabilities(
    projection: nn.Module, read: Tensor, targets: Tensor, temperature: float
) -> Tensor:
    """Return what the targets have: (tokens, width) and (tokens,) → (tokens,)."""
    if isinstance(projection, AdaptiveSoftmax) and temperature == 1:
        return projection.target_log_probabilities(read, targets)
    return -functional.cross_entropy(projection(read) / temperature, targets, reduction="none")


def _spans(ids: Ids, mode: Mode, segment: int) -> Iterator[tuple[int, int, bool]]:
    """Yield each segment's first token, the one after its last, and whether the state is the initial one there."""
    whole = record_spans(ids).tolist() if mode == "records" else [(0, len(ids))]
    for begin, end in whole:
        for first in range(begin, end, segment):
            yield first, min(first + segment, end), first == begin


def _places(ids: Ids, mode: Mode, segment: int, segments: int) -> Iterator[tuple[Ids, int]]:
    """Yield pieces of a text, evenly over it, each with how many segments only bring the state to where it would be."""
    if mode == "records":
        spans = record_spans(ids)
        for number in np.unique(
            np.linspace(0, len(spans) - 1, min(segments, len(spans))).astype(np.int64)
        ):
            yield ids[slice(*spans[number])], 0
        return
    each, warm_up = -(-segments // _PLACES), -(-WARM_UP // segment)
    length = (warm_up + each) * segment
    if len(ids) <= _PLACES * length:
        yield ids[: segments * segment], 0
        return
    for begin in np.linspace(0, len(ids) - length, _PLACES).astype(np.int64):
        yield ids[begin : begin + length], warm_up
