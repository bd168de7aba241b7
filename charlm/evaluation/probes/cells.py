"""Cells: does a single unit of the network follow a label of the text?

Every unit of every layer is ranked by how well its value alone predicts a label: by the area under
the ROC curve (AUC) for labels of two values, and by Spearman's rank correlation for numbers. The
unit is chosen on the first half of the text and scored on the second. The control repeats this
with labels that are shifted along the text: shifted labels keep the correlation between adjacent
characters, which independent permutations would destroy.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.tokenizer import Ids, Tokenizer
from charlm.data.windows.scoring import windows_to_score
from charlm.errors import CharlmError, CorpusError, OptionError
from charlm.evaluation.probes.labels import Label, label_characters
from charlm.evaluation.probes.reading import num_streams, read_beginning, texts_of
from charlm.evaluation.static_model import Floats, Integers
from charlm.model.cells.base import Cell, State
from charlm.model.descriptions import part_name
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import Run
from charlm.storage.results import Result
from charlm.storage.tables import format_settings
from charlm.trained_model import TrainedModel, provenance

if TYPE_CHECKING:
    from charlm.data.cards import Part

TOKENS = 20_000
SHIFTS = 20
_MIN_TOKENS = 200
# Positions with and without a label in each half: with fewer, the best of many units is good by
# chance.
_MIN_POSITIVES = 20
_NO_CONTROL = "no shifted label is often enough in both halves of the text"
_HIGH = 0.9  # Quantile of a unit's values above which they are high.
_PARTS = ("hidden", "memory")  # Names of the first two tensors of a state; others are left out.


@dataclass(frozen=True)
class Unit(Result):
    """A unit of the network.

    Attributes:
        layer: `layer_0` for the first layer and so on.
        part: `hidden`, or `memory` for the memory cell of an LSTM.
        number: Number of the unit in its layer, from 0.
    """

    layer: str
    part: str
    number: int


@dataclass(frozen=True)
class BestUnit(Result):
    """The unit that follows a label best.

    Attributes:
        label: Name of the label.
        measure: `auc`, from 0.5 (no relation) to 1; `correlation`, from 0 to 1.
        unit: The unit with the best score on the first half of the text.
        rises: Whether its value rises with the label; otherwise it falls.
        score: Score of the unit on the second half.
        control: Largest score of the shifted labels, each with its own best unit. Shifts are left
            out whose label is not often enough in a half of the text.
        share: Fraction of the positions with the label, for labels of two values; else None.
    """

    label: str
    measure: Literal["auc", "correlation"]
    unit: Unit
    rises: bool
    score: float
    control: float
    share: float | None


@dataclass(frozen=True)
class Cells(Result):
    """Units that follow a label of the text.

    Attributes:
        best: One entry for each label, the best score above its control first.
        omitted: Names of the labels that the text does not have often enough, with the reason.
        settings: Number of units, tokens and shifts, run, text, version and so on.
    """

    best: list[BestUnit]
    omitted: dict[str, str]
    settings: dict[str, Any]

    def lines(self) -> Iterator[str]:
        """Yield a row for each label, and the settings."""
        yield f"{'label':<24}{'measure':>12}{'score':>8}{'control':>9}{'share':>8}  unit"
        for row in self.best:
            share = "" if row.share is None else f"{row.share:.1%}"
            unit = f"{part_name(row.unit.layer)} {row.unit.part} {row.unit.number}"
            direction = "rises" if row.rises else "falls"
            scores = f"{row.measure:>12}{row.score:>8.3f}{row.control:>9.3f}{share:>8}"
            yield f"{row.label:<24}{scores}  {unit}, {direction} with the label"
        for name, reason in self.omitted.items():
            yield f"{name:<24} not measured: {reason}"
        yield format_settings(self.settings)


@dataclass(frozen=True)
class Tracks(Result):
    """Units along a passage.

    Attributes:
        units: All units of the network.
        best: For each label, the values of its best unit after each token of the passage, divided
            by the largest absolute value.
        high: For each token, the numbers of the units whose value is among the highest tenth of
            their values on the passage.
    """

    units: list[Unit]
    best: dict[str, list[float]]
    high: list[list[int]]


class UnitValues(NamedTuple):
    """Values of all units over a text.

    Attributes:
        units: The units.
        values: Value of each unit after each token, (tokens, units).
    """

    units: list[Unit]
    values: npt.NDArray[np.float32]


class _Choice(NamedTuple):
    """A unit chosen on one half of a text, and its score on the other half.

    Attributes:
        column: Number of the unit in the table of values.
        rises: Whether the value rises with the label.
        score: Score on the other half.
    """

    column: int
    rises: bool
    score: float


def measure_cells(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    tokens: int = TOKENS,
    shifts: int = SHIFTS,
    seed: int = 1,
) -> Cells:
    """Find the unit that follows each label of a text best.

    Args:
        trained: The model.
        text: String to read.
        paths: Files, folders or names of corpora to read, instead of `text`.
        split: Part of the run's own corpus to read, if neither of the two is given.
        tokens: Largest number of tokens to read.
        shifts: Number of random shifts of the labels for the control.
        seed: Seed of the shifts.

    Raises:
        CharlmError: The text cannot be read or is too short, or the model does not read forward.
        OptionError: A number is too small.
    """
    require_forward(trained)
    if shifts < 1:
        raise OptionError("shifts", "must be at least 1", value=shifts)
    ids, name, _ = read_beginning(trained, text, paths, split, tokens)
    if len(ids) < _MIN_TOKENS:
        raise CorpusError(f"{name}: {len(ids)} tokens; a probe needs at least {_MIN_TOKENS}")
    units, values = read_units(trained.model, ids, mode=trained.mode)
    cells = find_units(
        UnitValues(units, values),
        label_tokens(ids, trained.tokenizer, records=trained.writes_records),
        shifts=shifts,
        seed=seed,
    )
    settings = {"text": name, "tokens": len(ids), "units": len(units), "precision": "fp32"}
    return replace(cells, settings=provenance(trained) | settings | cells.settings)


def require_forward(trained: TrainedModel) -> None:
    """Raise CharlmError unless a model reads forward."""
    if not trained.is_forward:
        raise CharlmError(
            f"{trained.folder}: the model reads in direction {trained.model.direction}, but the "
            "labels describe the text before a position; measure a model of direction forward"
        )


def track_units(trained: TrainedModel, ids: Sequence[int], cells: Cells) -> Tracks:
    """Follow units along a passage, which is read from the initial state.

    Args:
        trained: The model.
        ids: Passage, (tokens,).
        cells: The best units of the same model.
    """
    # The state after the last token is read with one token more.
    passage = np.array([*ids, ids[-1]], dtype=np.int64)
    units, values = read_units(trained.model, passage, mode=trained.mode)
    columns = {unit: number for number, unit in enumerate(units)}
    is_high = values > np.quantile(values, _HIGH, axis=0)
    return Tracks(
        units=units,
        best={row.label: _relative(values[:, columns[row.unit]].tolist()) for row in cells.best},
        high=[np.flatnonzero(row).tolist() for row in is_high],
    )


def label_tokens(ids: Integers, tokenizer: Tokenizer, *, records: bool) -> list[Label]:
    """Return the labels after each token: those of the last character that it completes.

    Args:
        ids: Text, (tokens,).
        tokenizer: Tokenizer of the model.
        records: Whether <EOS> ends a line.
    """
    pieces = texts_of(ids, tokenizer, records=records)
    last = np.maximum(np.cumsum([len(piece) for piece in pieces]) - 1, 0)
    labels = label_characters("".join(pieces))
    return [replace(label, values=label.values[last]) for label in labels]


@torch.inference_mode()
def read_units(model: LanguageModel, ids: Ids, *, mode: str) -> UnitValues:
    """Return the value of every unit after each token of a text but the last.

    Args:
        model: Model of direction `forward`, in evaluation mode.
        ids: Text, (tokens,).
        mode: `stream` or `records`.
    """
    device = next(model.parameters()).device
    layers = model.encoder.recurrence.layers
    units = [
        Unit(layer=f"layer_{number}", part=part, number=unit)
        for number, cell in enumerate(layers)
        for part in _PARTS[: cell.num_state_tensors]
        for unit in range(cell.hidden_size)
    ]
    values = np.zeros((len(ids) - 1, len(units)), dtype=np.float32)
    states = None
    for window in windows_to_score(ids, mode=mode, streams=num_streams(ids)):
        trace: list[Tensor] = []
        states = None if window.resets_state else states
        _, states = model.encoder(window.inputs.to(device), states, run=_record_units(trace))
        rows = torch.cat(trace, dim=-1).flatten(0, 1).numpy(force=True)
        # The state that predicts the token at a position is the one after the token before it.
        positions = window.positions.flatten().numpy()
        values[positions[positions > 0] - 1] = rows[positions > 0]
    return UnitValues(units, values)


def find_units(read: UnitValues, labels: Sequence[Label], *, shifts: int, seed: int) -> Cells:
    """Find the unit that follows each label best, with a control.

    Args:
        read: Values of all units, (tokens, units).
        labels: Labels of the same tokens; values beyond the last row are ignored.
        shifts: Number of random shifts of the labels for the control.
        seed: Seed of the shifts.
    """
    num_tokens = len(read.values)
    ranks = [_rank(half) for half in _halves(read.values.astype(np.float64))]
    # Shifts by less than a tenth of the text would leave long labels where they are.
    margin = num_tokens // 10
    random = np.random.default_rng(seed)
    offsets = random.integers(margin, num_tokens - margin, size=shifts).tolist()
    best, omitted = [], {}
    for label in labels:
        values, is_binary = label.values[:num_tokens], label.is_binary
        shifted = [np.roll(values, offset) for offset in offsets]
        shifted = [row for row in shifted if not _reason_to_omit(row, is_binary=is_binary)]
        reason = _reason_to_omit(values, is_binary=is_binary)
        if reason or not shifted:
            omitted[label.name] = reason or _NO_CONTROL
            continue
        choice, *controls = (
            _choose(ranks, _halves(row), is_binary=is_binary) for row in (values, *shifted)
        )
        best.append(
            BestUnit(
                label=label.name,
                measure="auc" if is_binary else "correlation",
                unit=read.units[choice.column],
                rises=choice.rises,
                score=choice.score,
                control=max(control.score for control in controls),
                share=float(values.mean()) if is_binary else None,
            )
        )
    best.sort(key=lambda row: row.control - row.score)
    return Cells(best, omitted, settings={"shifts": shifts, "seed": seed})


def _record_units(trace: list[Tensor]) -> Run:
    """Return a plain loop over a window that appends each layer's values to `trace`."""

    def run_stepwise(cell: Cell, x: Tensor, state: State) -> tuple[Tensor, State]:
        outputs, parts = [], []
        for projected in cell.project(x).unbind():
            state = cell.step(projected, state)
            parts.append(torch.cat(state[: len(_PARTS)], dim=-1))
            outputs.append(cell.output(state))
        trace.append(torch.stack(parts))  # (time, batch, parts x hidden)
        return torch.stack(outputs), state

    return run_stepwise


def _relative(values: Sequence[float]) -> list[float]:
    most = max(map(abs, values)) or 1.0
    return [value / most for value in values]


def _halves(rows: Floats) -> tuple[Floats, Floats]:
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def _reason_to_omit(values: Floats, *, is_binary: bool) -> str:
    """Return why a label cannot be probed; "" if it can."""
    for half in _halves(values):
        if is_binary:
            with_label = int(half.sum())
            if min(with_label, len(half) - with_label) < _MIN_POSITIVES:
                return f"{with_label:,} of {len(half):,} positions in a half of the text have it"
        elif half.min() == half.max():
            return f"its value is {half[0]:g} in a half of the text"
    return ""


def _rank(values: Floats) -> Floats:
    """Return the ranks of each column, less their mean: (rows, columns) → the same.

    Equal values get their mean rank, so that a constant column becomes zero.
    """
    ranks = np.empty(values.shape)
    for column in range(values.shape[1]):
        _, inverse, counts = np.unique(values[:, column], return_inverse=True, return_counts=True)
        ranks[:, column] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    centered: Floats = ranks - (len(ranks) + 1) / 2
    return centered


def _choose(ranks: Sequence[Floats], values: Sequence[Floats], *, is_binary: bool) -> _Choice:
    """Choose the unit with the strongest relation on one half, and score it on the other.

    Args:
        ranks: Ranks of all units in each half, (tokens, units).
        values: Values of the label in each half, (tokens,).
        is_binary: Whether the score is an AUC; else it is a correlation.
    """
    measure = _auc_relations if is_binary else _correlations
    first, second = (measure(*half) for half in zip(ranks, values, strict=True))
    column = int(np.argmax(np.abs(first)))
    rises = bool(first[column] >= 0)
    strength = float(second[column]) if rises else -float(second[column])
    return _Choice(column, rises, (1 + strength) / 2 if is_binary else strength)


def _auc_relations(ranks: Floats, values: Floats) -> Floats:
    """Return 2 AUC - 1 of each unit for a label of 0 and 1, (units,).

    The AUC follows from the sum of the ranks of the positions with the label (Mann and Whitney
    1947).
    """
    positives = values.sum()
    relations: Floats = 2 * (values @ ranks) / (positives * (len(values) - positives))
    return relations


def _correlations(ranks: Floats, values: Floats) -> Floats:
    """Return Spearman's rank correlation of each unit with a label, (units,)."""
    label = _rank(values[:, None])[:, 0]
    norms = np.linalg.norm(ranks, axis=0) * np.linalg.norm(label)
    correlations: Floats = label @ ranks / np.where(norms > 0, norms, np.inf)
    return correlations
