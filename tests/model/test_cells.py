"""Every recurrence against equations written out a second time, fused and step by step."""

import pytest
import reference_cells
import torch

from charlm.config import Cell as CellSection
from charlm.model.cells import Cell, make_cell
from charlm.model.recurrence import run, run_stepwise

CELLS = [
    CellSection(kind="elman", activation="tanh"), CellSection(kind="elman", activation="relu"),
    CellSection(kind="elman", activation="sigmoid"), CellSection(kind="gru"), CellSection(kind="lstm"),
]  # fmt: skip
INPUT, HIDDEN, TIME, BATCH = 3, 4, 6, 2
every_cell = pytest.mark.parametrize("section", CELLS, ids=lambda section: f"{section.kind}-{section.activation}")


def float64_cell(section: CellSection) -> Cell:
    torch.manual_seed(1)
    cell = make_cell(section, INPUT, HIDDEN).double()
    for tensor in cell.parameters():  # Biases too: at zero a wrong one would not show.
        torch.nn.init.normal_(tensor, std=0.7)
    return cell


def random_state(cell: Cell) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randn(BATCH, HIDDEN, dtype=torch.float64) for _ in range(cell.parts))


@every_cell
@pytest.mark.parametrize("runner", [run, run_stepwise])
def test_a_window_equals_the_equations_of_the_reference(section, runner):
    cell = float64_cell(section)
    x, state = torch.randn(TIME, BATCH, INPUT, dtype=torch.float64), random_state(cell)
    y, after = runner(cell, x, state)
    weights = {name: getattr(cell, name).tolist() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    for row in range(BATCH):
        expected = [part[row].tolist() for part in state]
        for time in range(TIME):
            expected = reference_cells.STEPS[section.kind](x[time, row].tolist(), expected, weights, section.activation)
            torch.testing.assert_close(y[time, row].tolist(), expected[0], rtol=1e-9, atol=1e-12)
        for part, wanted in zip(after, expected, strict=True):
            torch.testing.assert_close(part[row].tolist(), wanted, rtol=1e-9, atol=1e-12)


@every_cell
def test_fused_and_stepwise_have_the_same_gradients(section):
    cell = float64_cell(section)
    x, state = torch.randn(TIME, BATCH, INPUT, dtype=torch.float64), random_state(cell)
    gradients = []
    for runner in (run, run_stepwise):
        cell.zero_grad()
        runner(cell, x, state)[0].square().sum().backward()
        gradients.append([tensor.grad.clone() for tensor in cell.parameters()])
    for fused, stepwise in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, stepwise, rtol=1e-9, atol=1e-12)


@every_cell
def test_two_windows_with_carried_state_equal_one_long_window(section):
    cell = float64_cell(section)
    x, state = torch.randn(TIME, BATCH, INPUT, dtype=torch.float64), random_state(cell)
    whole, end = run(cell, x, state)
    first, middle = run(cell, x[:2], state)
    rest, after = run(cell, x[2:], middle)
    torch.testing.assert_close(torch.cat([first, rest]), whole)
    torch.testing.assert_close(after, end)


@every_cell
def test_recurrent_weights_begin_orthogonal_gate_by_gate(section):
    cell = make_cell(section, INPUT, HIDDEN)
    for weights in cell.weight_hh.split(HIDDEN):
        torch.testing.assert_close(weights @ weights.T, torch.eye(HIDDEN), atol=1e-5, rtol=0)


def test_the_forget_gate_of_an_lstm_begins_open():
    cell = make_cell(CellSection(kind="lstm"), INPUT, HIDDEN)
    assert (cell.bias_ih + cell.bias_hh).tolist() == [0] * HIDDEN + [1] * HIDDEN + [0] * 2 * HIDDEN
