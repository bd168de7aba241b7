"""The registry of cells: from the configuration's `model.cell` to a layer."""

from collections.abc import Callable

from charlm.config.cell import Cell as CellSection
from charlm.config.cell import register_cell_kind
from charlm.model.cells.base import Cell
from charlm.model.cells.check import check_cell
from charlm.model.cells.diagonal import DiagonalGRU, DiagonalLSTM
from charlm.model.cells.gru import GRU, ResetBeforeGRU, ResetFreeGRU
from charlm.model.cells.hgrn import HGRN
from charlm.model.cells.lstm import LSTM, LSTMVariant
from charlm.model.cells.minimal import MinGRU, MinLSTM
from charlm.model.cells.mogrifier import MogrifierLSTM
from charlm.model.cells.nested import NestedLSTM
from charlm.model.cells.rg_lru import RGLRU
from charlm.model.cells.simple import Bag, Elman, SigmoidElman
from charlm.model.cells.slstm import SLSTM

CellFactory = Callable[[int, int], Cell]  # (input_size, hidden_size) → a layer.


def make_cell(
    section: CellSection, input_size: int, hidden_size: int, *, gain: float = 1.0
) -> Cell:
    """Create one layer of the recurrence that `section` describes, with its initial weights.

    Args:
        section: Kind and options.
        input_size: Width of the input.
        hidden_size: Number of units; a bag has as many as its input is wide.
        gain: Factor of the initial recurrent matrices.
    """
    cell = _MAKERS[section.kind](section, input_size, hidden_size)
    cell.initialize(gain)
    return cell


def register_cell(name: str, factory: CellFactory) -> None:
    """Make a cell of your own available as `model.cell.kind=NAME` in this process.

    The command line does not load code from files, so the cell can be trained, loaded and sampled
    only by a program that registers it. A program that loads a run folder of the cell must register
    it first, under the same name and with the same equations.

        class Decay(Cell): ...  # See charlm/model/cells/base.py and docs/recurrences.md.

        charlm.register_cell("decay", Decay)
        run = charlm.train(charlm.load_config("configs/quickstart.yaml", ["model.cell=decay"]))

    Args:
        name: Name of the cell in configurations, a Python identifier. Registering a name again
            replaces its factory; the names of charlm's own cells cannot be replaced.
        factory: Function (input_size, hidden_size) → Cell, such as the class itself. `initialize`
            is called on its result. The configuration has no options for it: put them into the
            factory, as in `functools.partial(MyCell, depth=2)`.

    Raises:
        OptionError: The name is not an identifier, or is that of a cell of charlm.
        TypeError: The factory cannot be called. When a model is created: it does not return a
            Cell, or the cell does not keep the contract of `Cell`.
    """
    if not callable(factory) or isinstance(factory, Cell):
        raise TypeError(
            f"register_cell({name!r}): the factory must be a function (input_size, hidden_size) or "
            f"a class, got {type(factory).__name__}"
        )
    register_cell_kind(name)

    def make(section: CellSection, input_size: int, hidden_size: int) -> Cell:
        cell = factory(input_size, hidden_size)
        if not isinstance(cell, Cell):
            raise TypeError(
                f"register_cell({name!r}): the factory must return a charlm.model.cells.base.Cell, "
                f"got {type(cell).__name__}"
            )
        try:
            check_cell(cell, input_size)
        except TypeError as error:
            raise TypeError(f"register_cell({name!r}): {error}") from error
        return cell

    _MAKERS[name] = make


def _lstm(section: CellSection, input_size: int, hidden_size: int) -> Cell:
    if section.is_plain:  # torch's LSTM.
        return LSTM(input_size, hidden_size)
    return LSTMVariant(input_size, hidden_size, section)


def _elman(section: CellSection, input_size: int, hidden_size: int) -> Cell:
    if section.activation == "sigmoid":
        return SigmoidElman(input_size, hidden_size)
    return Elman(input_size, hidden_size, section.activation)


_GRUS: dict[str, CellFactory] = {
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
    "rg_lru": lambda section, size, hidden: RGLRU(size, hidden),
    "hgrn": lambda section, size, hidden: HGRN(size, hidden),
    "slstm": lambda section, size, hidden: SLSTM(size, hidden),
    "diagonal_gru": lambda section, size, hidden: DiagonalGRU(size, hidden),
    "diagonal_lstm": lambda section, size, hidden: DiagonalLSTM(size, hidden),
}
