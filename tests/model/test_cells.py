"""Every recurrence and every option of it: against equations written out a second time, and its initial weights."""

import pytest
import torch
from model.cells_table import (
    CELLS,
    FUSED,
    HIDDEN,
    INPUT,
    SCANNED,
    TRACED,
    assert_equal_gradients,
    cell_of,
    every_cell,
    gradients_of,
    loss_of,
    reference_answers,
    relative_error,
    window_of,
)

from charlm.config.schema import CELL_KINDS, CELL_OPTIONS
from charlm.config.schema import Cell as CellSection
from charlm.model.cells.base import Cell, FusedCell, LinearCell
from charlm.model.cells.registry import make_cell
from charlm.model.recurrence import run, run_stepwise

both_ways = pytest.mark.parametrize("runner", [run, run_stepwise], ids=["run", "stepwise"])
both_precisions = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32], ids=["float64", "float32"]
)
# Gradients in float64 are as near as central differences are exact.
OUTPUT_ERROR = {torch.float64: 1e-12, torch.float32: 1e-5}
GRADIENT_ERROR = {torch.float64: 1e-7, torch.float32: 1e-4}


@every_cell
@both_ways
@both_precisions
def test_outputs_and_states_are_those_of_the_reference(name, runner, dtype):
    cell = cell_of(name, dtype)
    x, state = window_of(cell, dtype=dtype)
    y, after = runner(cell, x, state)
    expected, expected_after, _ = reference_answers(name)
    assert all(part.dtype == dtype for part in (y, *after))
    assert relative_error(y, expected) < OUTPUT_ERROR[dtype]
    for part, wanted in zip(after, expected_after, strict=True):
        assert relative_error(part, wanted) < OUTPUT_ERROR[dtype]


@every_cell
@both_ways
@both_precisions
def test_gradients_of_input_state_and_weights_are_those_of_the_reference(name, runner, dtype):
    cell = cell_of(name, dtype)
    x, state = window_of(cell, dtype=dtype)
    gradients = gradients_of(cell, loss_of(*runner(cell, x, state)), x, state)
    assert_equal_gradients(gradients, reference_answers(name)[2], GRADIENT_ERROR[dtype])


def test_the_table_has_every_kind_and_every_value_of_every_option():
    sections = [CellSection(**section) for section in CELLS.values()]
    assert {section.kind for section in sections} == set(CELL_KINDS)
    seen = {
        (option, value)
        for section in sections
        for option in section.options
        for value in _alternatives(getattr(section, option))
    }
    assert {option for option, _ in seen} == {
        option for options in CELL_OPTIONS.values() for option in options
    }
    gates = ("input", "forget", "output")
    for option, values in {
        "activation": ("tanh", "relu", "sigmoid"),
        "reset": ("after", "before", "none"),
        "peepholes": gates,
        "peephole_weights": ("diagonal", "full"),
        "coupled": (False, True),
        "full_gate_recurrence": (False, True),
        "without": (*(f"{gate}_gate" for gate in gates), "input_activation", "output_activation"),
        "depth": (2, 3),
        "rounds": (1, 2, 5),
        "rank": (None, 2),
    }.items():
        assert {(option, value) for value in values} <= seen, option


def _alternatives(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def test_a_cell_goes_over_a_window_by_kernel_or_scan_where_its_equations_allow():
    assert [name for name in CELLS if isinstance(cell_of(name), FusedCell)] == FUSED
    assert [name for name in CELLS if isinstance(cell_of(name), LinearCell)] == SCANNED
    assert len(TRACED) + len(FUSED) + len(SCANNED) == len(CELLS)


# Initial weights.

# How many matrices the hidden state is multiplied with, where any: of the gates, the candidate, and inside.
GATES = {
    "elman_tanh": 1,
    "elman_relu": 1,
    "elman_sigmoid": 1,
    "gru_reset_after": 3,
    "gru_reset_before": 3,
    "gru_reset_none": 2,
    "nested_lstm_depth_2": 8,
    "nested_lstm_depth_3": 12,
    **{name: 4 for name in CELLS if name.startswith(("lstm", "mogrifier"))},
    **{name: 3 for name in CELLS if "without" in name and "gate" in name},
    **{name: 3 for name in CELLS if "coupled" in name},
    "lstm_without_any_gate": 1,
    "lstm_gate_recurrence_without_all_but_forget_gate": 2,
}


def initial(name: str, gain: float = 1.0) -> Cell:
    torch.manual_seed(5)
    return make_cell(CellSection(**CELLS[name]), INPUT, HIDDEN, gain=gain)


def recurrent_matrices(cell: Cell) -> list[torch.Tensor]:
    """The matrices of the hidden state, of an inner LSTM's too, gate by gate."""
    names = ("recurrent.weight", "candidate.weight", "kernel.weight_hh_l0")
    matrices = [weight for name, weight in cell.named_parameters() if name in names]
    matrices += [
        weight[:, HIDDEN:]
        for name, weight in cell.named_parameters()
        if name.startswith("inner") and weight.dim() == 2
    ]
    return [block for weight in matrices for block in weight.detach().split(HIDDEN)]


@every_cell
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_recurrent_matrices_begin_orthogonal_times_the_gain_gate_by_gate(name, gain):
    blocks = recurrent_matrices(initial(name, gain))
    assert len(blocks) == GATES.get(name, 0)
    for block in blocks:
        torch.testing.assert_close(block @ block.T, gain**2 * torch.eye(HIDDEN), atol=1e-5, rtol=0)


@every_cell
def test_input_matrices_begin_uniform_between_glorot_s_bounds_gate_by_gate(name):
    """Glorot and Bengio 2010: ±√(6 / (in + out)), so the variance is 2 / (in + out)."""
    torch.manual_seed(5)
    input_size, hidden_size = (60, 60) if CELLS[name].get("depth") else (40, 60)
    cell = make_cell(CellSection(**CELLS[name]), input_size, hidden_size)
    for name, weight in cell.named_parameters():
        if name in ("input.weight", "kernel.weight_ih_l0") or (
            name.startswith("inner") and weight.dim() == 2
        ):
            for block in weight.detach()[:, :input_size].split(hidden_size):
                bound = (6 / (input_size + hidden_size)) ** 0.5
                assert 0.97 * bound < block.abs().max() <= bound
                assert block.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
        elif name == "gate_recurrence.weight":
            assert_glorot(weight, rows=hidden_size)
        elif name.startswith("mogrifier"):
            assert_glorot(weight, rows=len(weight))


def assert_glorot(weight: torch.Tensor, *, rows: int) -> None:
    """Each block of so many rows is drawn as a matrix of its own."""
    bound = (6 / (rows + weight.shape[1])) ** 0.5
    for block in weight.detach().split(rows):
        assert 0.8 * bound < block.abs().max() <= bound


@every_cell
def test_biases_begin_at_zero_but_for_the_gate_that_keeps_the_memory(name):
    """Gers et al. 2000 and Jozefowicz et al. 2015: an LSTM's forget gate is open, its bias 1."""
    section = CellSection(**CELLS[name])
    sums: dict[str, torch.Tensor] = {}  # torch's LSTM has two biases that are added up.
    for parameter, bias in initial(name).named_parameters():
        if "bias" in parameter:
            place = "input" if parameter.startswith(("kernel", "input")) else parameter
            sums[place] = sums.get(place, 0) + bias.detach()
    for place, bias in sums.items():
        expected = torch.zeros_like(bias)
        if section.coupled:
            expected[
                :HIDDEN
            ] = -1  # f = 1 − i: the input gate is shut where the forget gate is open.
        elif (
            "lstm" in section.kind
            and section.kind != "min_lstm"
            and "forget_gate" not in section.without
        ):
            block = 0 if "input_gate" in section.without and place == "input" else 1
            expected[block * HIDDEN : (block + 1) * HIDDEN] = 1
        torch.testing.assert_close(bias, expected, rtol=0, atol=0)


@every_cell
def test_peepholes_begin_at_zero(name):
    cell = initial(name)
    peepholes = {
        parameter: weight
        for parameter, weight in cell.named_parameters()
        if "peephole" in parameter
    }
    assert list(peepholes) == [
        f"peepholes.{gate}.weight"
        for gate in ("input", "forget", "output")
        if gate in CELLS[name].get("peepholes", [])
    ]
    assert not any(weight.any() for weight in peepholes.values())


@every_cell
def test_a_cell_has_the_parameters_that_its_equations_count(name):
    size = sum(weight.numel() for weight in initial(name).parameters())
    assert size == count_weights(name)


def count_weights(name: str) -> int:
    """Weights of the input, of the state and a bias for every gate, and what an option adds."""
    section, units, matrix = CellSection(**CELLS[name]), HIDDEN, HIDDEN * HIDDEN
    if section.kind == "bag":
        return 0
    if section.kind in ("min_gru", "min_lstm"):
        return {"min_gru": 2, "min_lstm": 3}[section.kind] * (INPUT + 1) * HIDDEN
    blocks = GATES[name] if section.kind != "nested_lstm" else 4
    size = blocks * (INPUT * HIDDEN + matrix + units) + (blocks * units if name in FUSED else 0)
    size += len(section.peepholes) * (matrix if section.peephole_weights == "full" else units)
    size += ((blocks - 1) * units) ** 2 if section.full_gate_recurrence else 0
    if section.kind == "nested_lstm":
        size += (section.depth - 1) * (4 * 2 * matrix + 4 * units)
    if section.kind == "mogrifier_lstm":
        full, low = INPUT * HIDDEN, (INPUT + HIDDEN) * (section.rank or 0)
        size += section.rounds * (full if section.rank is None else low)
    return size


@every_cell
def test_a_cell_of_one_unit_and_one_input_can_be_made(name):
    cell = make_cell(CellSection(**CELLS[name]), 1, 1)
    y, after = run_stepwise(
        cell, torch.ones(2, 1, 1), tuple(torch.zeros(1, 1) for _ in range(cell.num_state_tensors))
    )
    assert y.shape == (2, 1, 1) and all(part.shape == (1, 1) for part in after)


def test_a_bag_is_as_wide_as_its_input():
    assert make_cell(CellSection(kind="bag"), 3, 4).hidden_size == 3


def test_one_seed_gives_one_cell_and_another_seed_another():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(make_cell(CellSection(kind="nested_lstm"), 3, 4).inner[0].weight)
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
