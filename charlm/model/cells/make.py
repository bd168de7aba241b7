"""From the configuration's `cell` to a layer."""

from collections.abc import Callable

from charlm.config.schema import Cell as CellSection
from charlm.model.cells.base import Cell
from charlm.model.cells.gru import GRU, ResetBeforeGRU, ResetFreeGRU
from charlm.model.cells.lstm import LSTM, LSTMVariant
from charlm.model.cells.minimal import MinGRU, MinLSTM
from charlm.model.cells.mogrifier import MogrifierLSTM
from charlm.model.cells.nested import NestedLSTM
from charlm.model.cells.simple import Bag, Elman, SigmoidElman


def make_cell(
    section: CellSection, input_size: int, hidden_size: int, *, gain: float = 1.0
) -> Cell:
    """Return one layer of the recurrence that `section` names, with its initial weights.

    Args:
        section: Kind and options.
        input_size: Width of what goes in.
        hidden_size: Width of what comes out; a bag's is that of its input.
        gain: What the initial recurrent matrices are multiplied by.
    """
    cell = _MAKERS[section.kind](section, input_size, hidden_size)
    cell.initialize(gain)
    return cell


def _lstm(section: CellSection, input_size: int, hidden_size: int) -> Cell:
    if not (
        section.peepholes
        or section.without
        or section.coupled
        or section.capped
        or section.full_gate_recurrence
    ):
        return LSTM(input_size, hidden_size)
    return LSTMVariant(
        input_size,
        hidden_size,
        peepholes=section.peepholes,
        full_peepholes=section.peephole_weights == "full",
        without=section.without,
        coupled=section.coupled,
        capped=section.capped,
        full_gate_recurrence=section.full_gate_recurrence,
    )


def _elman(section: CellSection, input_size: int, hidden_size: int) -> Cell:
    if section.activation == "sigmoid":
        return SigmoidElman(input_size, hidden_size)
    return Elman(input_size, hidden_size, section.activation)


_GRUS: dict[str, Callable[[int, int], Cell]] = {
    "after": GRU,
    "before": ResetBeforeGRU,
    "none": ResetFreeGRU,
}
_MAKERS: dict[str, Callable[[CellSection, int, int], Cell]] = {
    "bag": lambda section, size, hidden: Bag(size),
    "elman": _elman,
    "gru": lambda section, size, hidden: _GRUS[section.reset](size, hidden),
    "lstm": _lstm,
    "nested_lstm": lambda section, size, hidden: NestedLSTM(size, hidden, section.depth),
    "mogrifier_lstm": lambda section, size, hidden: MogrifierLSTM(
        size, hidden, rounds=section.rounds, rank=section.rank
    ),
    "min_gru": lambda section, size, hidden: MinGRU(size, hidden),
    "min_lstm": lambda section, size, hidden: MinLSTM(size, hidden),
}
