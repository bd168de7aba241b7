"""How often each gate of a network is open and closed.

The fractions of positions at which a gate is saturated, as Karpathy et al. 2015 (arXiv:1506.02078,
section 4.3) show them: open above 0.9, closed below 0.1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from charlm.data.tokenizer import Ids
from charlm.data.windows.scoring import windows_to_score
from charlm.errors import CharlmError
from charlm.evaluation.probes.reading import num_streams, read_beginning
from charlm.evaluation.static_model import Floats
from charlm.model.cells.base import Cell, State
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import Run
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel, provenance

if TYPE_CHECKING:
    from charlm.data.cards import Part

TOKENS = 20_000
OPEN = 0.9
CLOSED = 0.1


@dataclass(frozen=True)
class GateSaturation(Result):
    """Saturation of one gate of a layer.

    Attributes:
        layer: `layer_0` for the first layer and so on.
        gate: Name of the gate.
        open: Fraction of positions at which each unit's gate is above 0.9, (units,).
        closed: Fraction of positions at which each unit's gate is below 0.1, (units,).
    """

    layer: str
    gate: str
    open: list[float]
    closed: list[float]


@dataclass(frozen=True)
class Gates(Result):
    """Saturation of all gates.

    Attributes:
        gates: One entry for each gate of each layer.
        settings: Number of tokens, run, text, version and so on.
    """

    gates: list[GateSaturation]
    settings: dict[str, Any]


def measure_gates(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    tokens: int = TOKENS,
) -> Gates:
    """Measure how often each gate is open and closed on a text.

    Args:
        trained: The model.
        text: String to read.
        paths: Files, folders or names of corpora to read, instead of `text`.
        split: Part of the run's own corpus to read, if neither of the two is given.
        tokens: Largest number of tokens to read.

    Raises:
        CharlmError: The text cannot be read or has no token, or the model has no gates or does not
            read forward.
    """
    require_gates(trained)
    ids, name, _ = read_beginning(trained, text, paths, split, tokens)
    settings = {"text": name, "tokens": len(ids), "precision": "fp32"}
    return Gates(
        gates=list(saturation(trained.model, ids, mode=trained.mode)),
        settings=provenance(trained) | settings,
    )


def require_gates(trained: TrainedModel) -> None:
    """Raise CharlmError if a model has no gates, or does not read forward."""
    if not trained.is_forward:
        raise CharlmError(
            f"{trained.folder}: the model reads in direction {trained.model.direction}; the gates "
            "of a model of direction forward can be measured"
        )
    if not any(cell.gate_names for cell in trained.model.encoder.recurrence.layers):
        kind = trained.config.model.cell.kind
        raise CharlmError(f"{trained.folder}: a network of kind {kind} has no gates")


@torch.inference_mode()
def saturation(model: LanguageModel, ids: Ids, *, mode: str) -> Iterator[GateSaturation]:
    """Yield the saturation of each gate of each layer.

    Args:
        model: Model of direction `forward`, in evaluation mode.
        ids: Text, (tokens,).
        mode: `stream` or `records`.
    """
    device = next(model.parameters()).device
    layers = model.encoder.recurrence.layers
    counts: list[Floats] = [
        np.zeros((2, len(cell.gate_names), cell.hidden_size)) for cell in layers
    ]
    states = None
    for window in windows_to_score(ids, mode=mode, streams=num_streams(ids)):
        states = None if window.resets_state else states
        is_read = torch.from_numpy(window.positions.numpy() >= 0).to(device)
        counter = _count_saturated(layers, counts, is_read)
        _, states = model.encoder(window.inputs.to(device), states, run=counter)
    for number, (cell, (opened, closed)) in enumerate(zip(layers, counts, strict=True)):
        for gate, name in enumerate(cell.gate_names):
            yield GateSaturation(
                layer=f"layer_{number}",
                gate=name,
                open=(opened[gate] / len(ids)).tolist(),
                closed=(closed[gate] / len(ids)).tolist(),
            )


class RecordedSigmoids(TorchFunctionMode):
    """Keeps the results of the logistic function while it is active."""

    def __init__(self) -> None:
        """Start with no results."""
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call `function`, and keep the result of `torch.sigmoid`."""
        result = function(*args, **(kwargs or {}))
        if function is torch.sigmoid:
            self.results.append(result)
        return result


def _count_saturated(layers: Sequence[Cell], counts: Sequence[Floats], is_read: Tensor) -> Run:
    """Return a plain loop over a window that adds open and closed gates to `counts`.

    Args:
        layers: Cells of the network.
        counts: Counts of each layer, (open or closed, gates, units).
        is_read: Whether a position counts, (time, batch).
    """

    def run_stepwise(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        layer = next(number for number, other in enumerate(layers) if other is cell)
        outputs = []
        for projected, counted in zip(cell.project(x).unbind(), is_read.unbind(), strict=True):
            with RecordedSigmoids() as recorded:
                state = cell.step(projected, state)
            outputs.append(cell.output(state))
            for gate, values in enumerate(recorded.results[: len(cell.gate_names)]):
                if values.shape[-1] != cell.hidden_size:
                    continue  # A round of a mogrifier gates the input, which has another width.
                values = values[counted]
                counts[layer][0, gate] += (values > OPEN).sum(dim=0).numpy(force=True)
                counts[layer][1, gate] += (values < CLOSED).sum(dim=0).numpy(force=True)
        return torch.stack(outputs), state

    return run_stepwise
