"""Gradients over time: the norm of a loss's gradient by the distance to an earlier state.

Whether gradients vanish or explode over time is the question of Bengio et al. 1994 and Pascanu et
al. 2013 (arXiv:1211.5063). The measure is theirs, ||dL_T / dh_t||, on a network and a text. A token
that is predicted with certainty has no loss and so no gradient, whatever the recurrence does:
networks are compared by the norm relative to that at distance 0, on tokens that have a loss.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from charlm.config.corpus import Mode
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows.directions import readings_of
from charlm.errors import OptionError, UnsupportedOptionError
from charlm.evaluation.probes.places import Windows, choose_windows, tokens_named
from charlm.evaluation.static_model import Floats, Integers
from charlm.model.cells.base import Cell, State
from charlm.model.descriptions import part_name
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import Run, States
from charlm.model_texts import text_to_score
from charlm.storage.results import Result
from charlm.storage.tables import format_settings
from charlm.trained_model import TrainedModel, provenance

if TYPE_CHECKING:
    from charlm.data.cards import Part

_MIN_WINDOW = 3  # In tokens: the half-life comes from a line through distances 1 and 2.
NEAR_ZERO_NATS = 0.05  # A token of this loss has a probability of 0.95.
_PARTS = ("hidden", "memory")  # Names of the first two tensors of a state; others are left out.
# Tokens of windows that are read together: their states, gates and logits in float64 take a few
# hundred megabytes.
_MAX_TOKENS = 2048
_MIN_DECAY = 1e-9  # Per token. A slower decay is the rounding of a constant gradient.


@dataclass(frozen=True)
class NormsAtDistance(Result):
    """Norms of the gradient with respect to the state at one distance before the loss.

    Attributes:
        distance: Number of tokens T - t; the state at distance 0 makes the prediction that the
            loss scores.
        mean: Mean of the norms.
        quantile_10: 10 % quantile of the norms.
        quantile_50: Median of the norms.
        quantile_90: 90 % quantile of the norms.
        count: Number of windows that reach so far back.
        relative: Median over these windows of the norm divided by that at distance 0. NaN if the
            gradient at distance 0 is zero in all of them.
    """

    distance: int
    mean: float
    quantile_10: float
    quantile_50: float
    quantile_90: float
    count: int
    relative: float


@dataclass(frozen=True)
class Curve(Result):
    """Norms of the gradient by distance.

    Attributes:
        layer: `layer_0` for the first layer and so on; `backward_layer_0` and so on for the
            backward recurrence of direction `both`.
        part: `hidden`, or `memory` for the memory cell of an LSTM.
        half_life_tokens: Number of tokens over which the norm halves; infinite if it does not
            fall, 0 if it is zero beyond distance 0.
        distances: Norms at distance 0, 1 and so on.
    """

    layer: str
    part: str
    half_life_tokens: float
    distances: list[NormsAtDistance]

    @property
    def name(self) -> str:
        """Name of the layer and the part, as in "layer 1 hidden"."""
        return f"{part_name(self.layer)} {self.part}"


@dataclass(frozen=True)
class Gradients(Result):
    """Norms of the gradient of a token's loss with respect to earlier states.

    Attributes:
        curves: One curve for every layer and part of its state.
        settings: Window, number of windows, initial state, run, version and so on.
        median_loss_nats: Median loss of the tokens whose gradient is measured. Near zero, the norms
            say that these tokens are certain, and nothing about the recurrence.
    """

    curves: list[Curve]
    settings: dict[str, Any]
    median_loss_nats: float

    @property
    def is_certain(self) -> bool:
        """Whether most of the measured tokens have a loss near zero."""
        return self.median_loss_nats < NEAR_ZERO_NATS

    def to_json(self) -> dict[str, Any]:
        """Return the fields as values that JSON can hold; infinity and NaN become None."""
        data = asdict(self)
        for curve in data["curves"]:
            if math.isinf(curve["half_life_tokens"]):
                curve["half_life_tokens"] = None
            for row in curve["distances"]:
                row["relative"] = None if math.isnan(row["relative"]) else row["relative"]
        return data

    def lines(self) -> Iterator[str]:
        """Yield rows for each curve, the half-lives and the settings."""
        width = max(len(curve.name) for curve in self.curves)
        columns = ("distance", "relative", "mean", "10 %", "50 %", "90 %", "windows")
        yield " " * width + "".join(f"{column:>11}" for column in columns)
        for curve in self.curves:
            yield from _curve_rows(curve, width)
        for curve in self.curves:
            is_infinite = math.isinf(curve.half_life_tokens)
            cells = ["none"] if is_infinite else [f"{curve.half_life_tokens:,.2f}", "tokens"]
            yield f"{curve.name:<{width}}{'half-life':>11}" + "".join(
                f"{cell:>11}" for cell in cells
            )
        yield f"median loss {self.median_loss_nats:.4f} nats, {format_settings(self.settings)}"


class _Measured(NamedTuple):
    """Norms and losses of a batch of windows.

    Attributes:
        norms: Norms of each layer and part by distance, (window, batch); NaN before a record.
        losses: Losses of the measured tokens in nats, one for each window and direction.
    """

    norms: dict[tuple[str, str], Floats]
    losses: Floats


class _Batch(NamedTuple):
    """Windows read side by side.

    Attributes:
        inputs: Ids, (warm-up + time, batch).
        targets: Id that follows each window, (batch,).
        last: Position T of the last input in its window, (batch,).
    """

    inputs: Integers
    targets: Integers
    last: Integers


def measure_gradients(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    window: int = 64,
    windows: int = 64,
    at: Sequence[str] = (),
    untrained: bool = False,
) -> Gradients:
    """Measure the norm of the gradient of a token's loss by the distance to earlier states.

    Args:
        trained: The model.
        text: String to read.
        paths: Files, folders or names of corpora to read, instead of `text`.
        split: Part of the run's own corpus to read, if neither of the two is given.
        window: Number of tokens in a window; the loss is that of its last token.
        windows: Number of windows, evenly spaced over the text.
        at: Measure only the losses of these tokens, such as `was`; none measures those of all.
        untrained: Whether to measure the network as it was before the training.

    Raises:
        CharlmError: The text cannot be read, is too short for a window, or has no such token.
        UnsupportedOptionError: The training did not begin with weights that follow from its seed.
    """
    targets, named = tokens_named(trained, at)
    tokens, name = text_to_score(trained, text, paths, split)
    facts = provenance(trained) | {"text": name, "at": named}
    if untrained:
        facts |= {"checkpoint": "untrained", "step": 0}
    gradients = measure_gradient_norms(
        _untrained_model(trained) if untrained else trained.model,
        tokens.ids,
        mode=trained.mode,
        window=window,
        windows=windows,
        device=trained.device,
        targets=targets,
    )
    return replace(gradients, settings=facts | gradients.settings)


def _untrained_model(trained: TrainedModel) -> LanguageModel:
    """Return the network with the weights that its training began with.

    Raises:
        UnsupportedOptionError: They do not follow from the seed.
    """
    ancestor = trained.origin.corpus.get("ancestor")
    if ancestor or trained.config.model.vectors:
        source = f"the weights of {ancestor['name']}" if ancestor else "vectors of a file"
        problem = f"the training of {trained.folder} began with {source}, and not with random ones"
        raise UnsupportedOptionError("untrained", f"{problem}; leave the option out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trained.config.training.seed)
        return LanguageModel(trained.config.model, trained.tokenizer.vocabulary_size)


def measure_gradient_norms(
    model: LanguageModel,
    ids: Ids,
    *,
    mode: Mode,
    window: int,
    windows: int,
    device: torch.device,
    targets: Sequence[int] = (),
) -> Gradients:
    """Measure the total derivative of a window's last loss with respect to each earlier state.

    The norm ||dL_T / dh_t||, with all effects of h_t on later states, is computed in float64,
    because small norms underflow in fp32, and without dropout. In stream mode the windows are
    evenly spaced, and the state before each window is that after reading the `WARM_UP` tokens
    before it. In records mode a window is the beginning of a record, up to any of its tokens from
    the fourth on (the third in a window of three); these tokens are evenly spaced over the text.

    Args:
        model: Model on `device`; it is not changed.
        ids: Text in its own order, (tokens,); a backward model reads it from its end.
        mode: `stream` or `records`.
        window: Number of tokens in a window; distances are from 0 to `window` - 1.
        windows: Number of windows; fewer if the text has fewer.
        device: Device of the model.
        targets: Ids of the tokens whose loss is measured; none measures all.

    Raises:
        OptionError: `window` or `windows` is too small.
        CorpusError: The text has no such window.
    """
    if window < _MIN_WINDOW:
        raise OptionError("window", f"must be at least {_MIN_WINDOW}", value=window)
    if windows < 1:
        raise OptionError("windows", "must be at least 1", value=windows)
    model = copy.deepcopy(model).to(device).double().eval()
    texts = readings_of(ids, model.direction, mode=mode)
    chosen = _choose_windows(texts, mode, window, windows, targets)
    size = max(1, _MAX_TOKENS // (window * len(texts)))
    batches = [
        _norms_by_distance(model, texts, batch, window, device)
        for batch in zip(*(part.split(size) for part in chosen), strict=True)
    ]
    settings = {
        "mode": mode,
        "direction": model.direction,
        "window": window,
        "windows": len(chosen[0].starts),
        "state": "initial at each record"
        if mode == "records"
        else f"carried over {chosen[0].warm_up} tokens before each window",
        "precision": "fp64",
    }
    return _summarize(batches, settings)


def _choose_windows(
    texts: Sequence[Ids], mode: Mode, window: int, windows: int, targets: Sequence[int]
) -> list[Windows]:
    """Return windows of the text of each direction, as many for one as for the other."""
    for text in texts:
        windows = min(windows, len(choose_windows(text, mode, window, windows, targets).starts))
    return [choose_windows(text, mode, window, windows, targets) for text in texts]


def _summarize(batches: Sequence[_Measured], settings: dict[str, Any]) -> Gradients:
    norms = [batch.norms for batch in batches]
    return Gradients(
        curves=[
            _curve(layer, part, np.concatenate([batch[layer, part] for batch in norms], axis=1))
            for layer, part in norms[0]
        ],
        settings=settings,
        median_loss_nats=float(np.median(np.concatenate([batch.losses for batch in batches]))),
    )


def half_life_tokens(means: Sequence[float]) -> float:
    """Return ln 2 / rate, where -rate is the slope of log(mean norm) over distance.

    The slope is that of the least-squares line.

    Args:
        means: Mean norm at distance 0, 1, ...; distance 0, which has no recurrence, and means of
            zero are left out.

    Returns:
        Number of tokens; infinite if the line does not fall, 0 if fewer than two means are left.
    """
    points = [
        (distance, math.log(mean)) for distance, mean in enumerate(means) if distance and mean > 0
    ]
    if len(points) < 2:
        return 0.0
    distances, logs = np.array(points).T
    centered = distances - distances.mean()
    rate = -float((centered * (logs - logs.mean())).sum() / (centered**2).sum())
    return math.log(2) / rate if rate > _MIN_DECAY else math.inf


def _norms_by_distance(
    model: LanguageModel,
    texts: Sequence[Ids],
    windows: Sequence[Windows],
    window: int,
    device: torch.device,
) -> _Measured:
    """Return the norms of a batch of windows by distance, and the losses.

    Args:
        model: Model in float64.
        texts: Text in reading order, for each direction of the model.
        windows: Windows of each text to read together.
        window: Largest number of tokens in a window.
        device: Device of the model.
    """
    longest = max(int(part.lengths.max()) for part in windows)
    batches = [_read(ids, part, longest) for ids, part in zip(texts, windows, strict=True)]
    batch = _Batch(*(np.concatenate(arrays, axis=-1) for arrays in zip(*batches, strict=True)))
    norms, losses = _norms(model, batch, device, warm_up=windows[0].warm_up, window=window)
    num_layers = len(norms) // len(texts)
    by_distance: dict[tuple[str, str], Floats] = {}
    for number, parts in enumerate(norms):
        direction, layer = divmod(number, num_layers)
        positions = batches[direction].last - np.arange(window)[:, None]  # (window, batch)
        for part, values in zip(_PARTS, parts, strict=False):
            reversed_values = np.take_along_axis(values, np.maximum(positions, 0), axis=0)
            name = f"{'backward_' * direction}layer_{layer}"
            by_distance[name, part] = np.where(positions >= 0, reversed_values, np.nan)
    return _Measured(by_distance, losses)


def _read(ids: Ids, windows: Windows, longest: int) -> _Batch:
    """Return the windows of one text, with `longest` inputs after those of the warm-up."""
    time = np.arange(-windows.warm_up, longest)[:, None]
    positions = windows.starts + time  # (warm-up + time, batch)
    before = ids[np.clip(positions - 1, 0, len(ids) - 1)].astype(np.int64)
    return _Batch(
        inputs=np.where(positions > 0, before, EOS),
        targets=ids[windows.starts + windows.lengths - 1].astype(np.int64),
        last=windows.lengths - 1,
    )


def _norms(
    model: LanguageModel, batch: _Batch, device: torch.device, *, warm_up: int, window: int
) -> tuple[list[list[Floats]], Floats]:
    """Return ||dL_T / dh_t|| of every layer and part of its state, each (time, batch), and L_T.

    Args:
        model: Model in float64.
        batch: Windows of all directions side by side.
        device: Device of the model.
        warm_up: Number of inputs before the windows.
        window: Number of these inputs that are read together.
    """
    inputs, targets, last = (torch.from_numpy(array).to(device) for array in batch)
    states = _warm_up(model, inputs[:warm_up], window)
    trace: list[list[State]] = []
    logits, _ = model(inputs[warm_up:], states, run=_record_states(trace))
    columns = torch.arange(len(targets), device=device)
    # Windows are independent: the gradient of the sum consists of the gradients of the windows.
    losses = functional.cross_entropy(logits[last, columns], targets, reduction="none")
    # The states are ordered by layer, then by part of the state, then by time.
    layers = [list(zip(*states, strict=True))[: len(_PARTS)] for states in trace]
    states_in_a_row = [state for parts in layers for part in parts for state in part]
    gradients = iter(torch.autograd.grad(losses.sum(), states_in_a_row))
    norms = [[_stack_norms([next(gradients) for _ in part]) for part in parts] for parts in layers]
    return norms, losses.numpy(force=True)


def _warm_up(model: LanguageModel, inputs: Tensor, window: int) -> States | None:
    """Return the states after the inputs, (time, batch); None for the initial states."""
    states = None
    with torch.no_grad():
        for first in range(0, len(inputs), window):
            _, states = model.encoder(inputs[first : first + window], states)
    return states


def _stack_norms(gradients: Sequence[Tensor]) -> Floats:
    """Return the norm of each gradient, (time, batch), from gradients of shape (batch, hidden)."""
    norms: Floats = torch.stack(
        [torch.linalg.vector_norm(gradient, dim=-1) for gradient in gradients]
    ).numpy(force=True)
    return norms


def _record_states(trace: list[list[State]]) -> Run:
    """Return a plain loop over a window that appends each layer's states over time to `trace`."""

    def run_stepwise(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        # The states need gradients even if nothing before them is trained, as in a bag of one-hot
        # tokens.
        state = tuple(tensor.detach().requires_grad_() for tensor in state)
        states = []
        for projected in cell.project(x).unbind():
            state = cell.step(projected, state)
            states.append(state)
        trace.append(states)
        return torch.stack([cell.output(state) for state in states]), state

    return run_stepwise


def _curve(layer: str, part: str, norms: Floats) -> Curve:
    """Return the statistics of norms, (distance, windows), NaN where a window is shorter."""
    distances = []
    relative = np.divide(norms, norms[0], out=np.full_like(norms, np.nan), where=norms[0] > 0)
    for distance, row in enumerate(norms):
        reached = row[~np.isnan(row)]
        if len(reached):
            low, median, high = np.quantile(reached, [0.1, 0.5, 0.9]).tolist()
            ratios = relative[distance][~np.isnan(relative[distance])]
            distances.append(
                NormsAtDistance(
                    distance=distance,
                    mean=float(reached.mean()),
                    quantile_10=low,
                    quantile_50=median,
                    quantile_90=high,
                    count=len(reached),
                    relative=float(np.median(ratios)) if len(ratios) else math.nan,
                )
            )
    return Curve(layer, part, half_life_tokens([row.mean for row in distances]), distances)


def _curve_rows(curve: Curve, width: int) -> Iterator[str]:
    """Yield one row for each distance that is 0 or a power of two."""
    label = curve.name
    for row in curve.distances:
        if row.distance.bit_count() <= 1:
            norms = [row.relative, row.mean, row.quantile_10, row.quantile_50, row.quantile_90]
            cells = [f"{row.distance:,}", *[f"{norm:.3e}" for norm in norms], f"{row.count:,}"]
            yield f"{label:<{width}}" + "".join(f"{cell:>11}" for cell in cells)
            label = ""
