"""How far back a loss reaches: its gradient, by the tokens between it and an earlier state.

Whether gradients vanish or explode over time is what Bengio et al. 1994 and Pascanu et al. 2013 (arXiv:1211.5063) ask;
the measure is theirs, ||dL_T / dh_t||, on a trained network and a text.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from charlm.config.schema import Mode
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows import WARM_UP, record_spans, reverse
from charlm.errors import CharlmError, CorpusError
from charlm.model.cells.base import Cell, State
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import Run

SHORTEST_WINDOW, _SHORTEST_RECORD = (
    3,
    4,
)  # Tokens: a line through distances 1 and 2, and through 1 to 3.
_PARTS = ("hidden", "memory")  # What the first two parts of a state are; others are not told.
_TOKENS_AT_ONCE = 2048  # Their states, gates and logits in float64 take a few hundred megabytes.
_FLAT = 1e-9  # Decay a token that is none: the rounding of a gradient that stays as it is.


@dataclass(frozen=True)
class AtDistance:
    """Norms of the gradient with respect to states so many tokens before the loss.

    Attributes:
        distance: Tokens between: T - t; 0 is the state that the loss's own prediction is made from.
        mean: Of the norms.
        quantile_10: A tenth of the norms are smaller.
        quantile_50: Their median.
        quantile_90: A tenth of them are larger.
        count: Windows that reach so far back.
    """

    distance: int
    mean: float
    quantile_10: float
    quantile_50: float
    quantile_90: float
    count: int


@dataclass(frozen=True)
class Curve:
    """How the gradient changes with distance.

    Attributes:
        layer: `layer_0` and so on, first layer first; `backward_layer_0` for the second network of direction `both`.
        part: `hidden`, or `memory` where the cell has one beside it.
        half_life_tokens: Tokens over which it halves; infinite if it does not fall, 0 if it is gone beyond distance 0.
        distances: From 0 on.
    """

    layer: str
    part: str
    half_life_tokens: float
    distances: list[AtDistance]


@dataclass(frozen=True)
class Gradients:
    """How far back the loss of a token reaches, and what that belongs to.

    Attributes:
        curves: Of every layer and part.
        settings: Window, windows, how the state began, run, version and so on.
    """

    curves: list[Curve]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON's types; a half-life without end is None."""
        data = asdict(self)
        for curve in data["curves"]:
            if math.isinf(curve["half_life_tokens"]):
                curve["half_life_tokens"] = None
        return data


@dataclass(frozen=True)
class _Windows:
    """Windows of a text: their first tokens, (windows,), lengths, (windows,), and tokens to be read before each."""

    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    warm_up: int


def measure_gradients(
    model: LanguageModel, ids: Ids, *, mode: Mode, window: int, windows: int, device: torch.device
) -> Gradients:
    """Measure the norm of the total derivative of a window's last loss with respect to each earlier state.

    That is ||dL_T / dh_t||, with all that h_t does to later states, in float64 (the norms soon leave float32's range)
    and without dropout. In stream mode windows lie evenly over the text, and the state of each is that after reading
    `WARM_UP` tokens before it. In records mode a window is a record from its start, at most `window` tokens of it.

    Args:
        model: On `device`; left as it is.
        ids: The text. A backward model reads it from its end, as in training.
        mode: `stream` or `records`.
        window: Tokens in a window: distances reach from 0 to one less.
        windows: How many; fewer where the text has not so many.
        device: Where to compute.

    Raises:
        CharlmError: A number is too small, or the text has no such window.
    """
    if window < SHORTEST_WINDOW or windows < 1:
        raise CharlmError(
            f"window must be at least {SHORTEST_WINDOW} and windows 1, got {window} and {windows}"
        )
    model = copy.deepcopy(model).double().eval()
    texts = [ids] if model.direction != "backward" else []
    texts += [reverse(ids, mode=mode)] if model.direction != "forward" else []
    chosen = _choose(
        ids, mode, window, windows
    )  # Reversed, a text is as long, and each record where it was.
    batches = [
        _by_distance(model, texts, some, window, device)
        for some in _in_batches(chosen, window * len(texts))
    ]
    curves = [_curve(*name, [batch[name] for batch in batches]) for name in batches[0]]
    return Gradients(
        curves,
        {
            "mode": mode,
            "direction": model.direction,
            "window": window,
            "windows": len(chosen.starts),
            "state": "initial at each record"
            if mode == "records"
            else f"carried over {chosen.warm_up} tokens before each window",
            "precision": "fp64",
        },
    )


def half_life_tokens(means: Sequence[float]) -> float:
    """Return ln 2 / rate, with the rate of the least-squares line through log(mean norm) over distance.

    Args:
        means: At distance 0, 1, ...; distance 0, which no recurrence lies in, and means of zero are left out.

    Returns:
        Tokens; infinite if the line does not fall, 0 if less than two means are left.
    """
    points = [
        (distance, math.log(mean)) for distance, mean in enumerate(means) if distance and mean > 0
    ]
    if len(points) < 2:
        return 0.0
    distances, logs = np.array(points).T
    centred = distances - distances.mean()
    rate = -float((centred * (logs - logs.mean())).sum() / (centred**2).sum())
    return math.log(2) / rate if rate > _FLAT else math.inf


def _choose(ids: Ids, mode: Mode, window: int, windows: int) -> _Windows:
    """Return windows that lie evenly over the text."""
    if mode == "records":
        spans = record_spans(ids)
        spans = spans[spans[:, 1] - spans[:, 0] >= _SHORTEST_RECORD]
        if len(spans) == 0:
            raise CorpusError(
                f"the text has no record of {_SHORTEST_RECORD} tokens, <EOS> included; give one with longer records"
            )
        spans = spans[_evenly(0, len(spans) - 1, windows)]
        return _Windows(spans[:, 0], np.minimum(spans[:, 1] - spans[:, 0], window), 0)
    last = len(ids) - window
    if last < 0:
        raise CorpusError(
            f"the text has {len(ids)} tokens, less than a window of {window}; lower --window"
        )
    warm_up = min(WARM_UP, last)
    starts = _evenly(warm_up, last, windows)
    return _Windows(starts, np.full_like(starts, window), warm_up)


def _evenly(first: int, last: int, count: int) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(first, last, count).round().astype(np.int64))


def _in_batches(windows: _Windows, tokens: int) -> Iterator[_Windows]:
    """Yield windows, of so many tokens each, as many as are read at once."""
    size = max(1, _TOKENS_AT_ONCE // tokens)
    for first in range(0, len(windows.starts), size):
        some = slice(first, first + size)
        yield _Windows(windows.starts[some], windows.lengths[some], windows.warm_up)


def _by_distance(
    model: LanguageModel, texts: list[Ids], windows: _Windows, window: int, device: torch.device
) -> dict[tuple[str, str], npt.NDArray[np.float64]]:
    """Return the norms by layer and part, each (window, batch): by distance, NaN beyond a record."""
    read = [_read(ids, windows) for ids in texts]
    inputs, targets = (np.concatenate(each, axis=-1) for each in zip(*read, strict=True))
    last = windows.lengths - 1
    norms = _norms(
        model,
        *(
            torch.from_numpy(each).to(device)
            for each in (inputs, targets, np.tile(last, len(texts)))
        ),
        warm_up=windows.warm_up,
        window=window,
    )
    at = last - np.arange(window)[:, None]  # (window, batch)
    layers = len(norms) // len(texts)
    return {
        (f"{'backward_' * (number // layers)}layer_{number % layers}", part): np.where(
            at >= 0, np.take_along_axis(values, np.maximum(at, 0), axis=0), np.nan
        )
        for number, parts in enumerate(norms)
        for part, values in zip(_PARTS, parts, strict=False)
    }


def _read(ids: Ids, windows: _Windows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return what windows of a text read, (warm-up + time, batch), and the last token that each predicts, (batch,)."""
    at = windows.starts + np.arange(-windows.warm_up, windows.lengths.max())[:, None]
    before = ids[np.clip(at - 1, 0, len(ids) - 1)].astype(np.int64)
    return np.where(at > 0, before, EOS), ids[windows.starts + windows.lengths - 1].astype(np.int64)


def _norms(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    last: Tensor,
    *,
    warm_up: int,
    window: int,
) -> list[list[npt.NDArray[np.float64]]]:
    """Return ||dL_T / dh_t|| of every layer and of the parts of its state, each (time, batch).

    Args:
        model: In float64.
        inputs: Ids, (warm-up + time, batch); of several networks side by side.
        targets: The id that follows the last of each window, (batch,).
        last: Number of that last in its window, T, (batch,).
        warm_up: Inputs before the windows.
        window: Of those, so many at once.
    """
    states = None
    with torch.no_grad():
        for first in range(0, warm_up, window):
            _, states = model(inputs[first : min(first + window, warm_up)], states)
    trace: list[list[State]] = []
    logits, _ = model(inputs[warm_up:], states, run=_recorded(trace))
    columns = torch.arange(len(targets), device=targets.device)
    # No window knows of another: the gradient of the sum holds that of each.
    loss = functional.cross_entropy(logits[last, columns], targets, reduction="sum")
    layers = [
        list(zip(*states, strict=True))[: len(_PARTS)] for states in trace
    ]  # Of parts, of states over time.
    gradients = iter(
        torch.autograd.grad(loss, [state for parts in layers for part in parts for state in part])
    )
    return [
        [
            torch.stack([torch.linalg.vector_norm(next(gradients), dim=-1) for _ in part])
            .cpu()
            .numpy()
            for part in parts
        ]
        for parts in layers
    ]


def _recorded(trace: list[list[State]]) -> Run:
    """Return the plain loop over a window, which notes the states after each token, a list a layer."""

    def run_stepwise(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        # So that states have a gradient even where nothing before them is learnt: a bag of one-hot tokens.
        state = tuple(part.detach().requires_grad_() for part in state)
        states = []
        for projected in cell.project(x).unbind():
            state = cell.step(projected, state)
            states.append(state)
        trace.append(states)
        return torch.stack([cell.output(state) for state in states]), state

    return run_stepwise


def _curve(layer: str, part: str, batches: list[npt.NDArray[np.float64]]) -> Curve:
    """Return the statistics of norms by distance, of windows in batches, each (window, batch)."""
    distances = []
    for distance, norms in enumerate(np.concatenate(batches, axis=1)):
        reached = norms[~np.isnan(norms)]
        if len(reached):
            low, median, high = np.quantile(reached, [0.1, 0.5, 0.9]).tolist()
            distances.append(
                AtDistance(distance, float(reached.mean()), low, median, high, len(reached))
            )
    return Curve(layer, part, half_life_tokens([each.mean for each in distances]), distances)
