"""The window of the sLSTM at its limits: closed and wide open gates, and the state before a text."""

import pytest
import torch
from model.cells_table import (
    assert_equal_gradients,
    cell_of,
    gradients_of,
    loss_of,
    new_cell,
    relative_error,
    window_of,
)

from charlm.config.cell import Cell as CellSection
from charlm.model.cells.registry import make_cell
from charlm.model.recurrence import run, run_stepwise


def zero_state(cell, *, batch: int = 2, dtype: torch.dtype = torch.float64):
    return tuple(
        torch.zeros(batch, cell.hidden_size, dtype=dtype) for _ in range(cell.num_state_tensors)
    )


def test_the_first_output_is_the_candidate_behind_the_output_gate():
    """With n = 0 before it, whatever input and forget gate are: c / n = tanh(z)."""
    cell = cell_of("slstm")
    x, _ = window_of(cell, time=1)
    sums = cell.project(x)[0]
    *_, candidate, output = sums.chunk(4, dim=-1)
    for runner in (run, run_stepwise):
        y, _ = runner(cell, x, zero_state(cell))
        torch.testing.assert_close(y[0], torch.sigmoid(output) * torch.tanh(candidate))


def test_from_the_initial_state_run_has_the_outputs_and_gradients_of_the_plain_loop():
    cell = cell_of("slstm")
    x, _ = window_of(cell, time=5)
    results = []
    for runner in (run, run_stepwise):
        state = tuple(tensor.requires_grad_() for tensor in zero_state(cell))
        y, after = runner(cell, x, state)
        gradients = gradients_of(cell, loss_of(y, after), x, state)
        # The stabilizer scales a memory and a normalizer that are zero: its gradient is rounding.
        assert abs(gradients.pop("state.3")).max() < 1e-12
        results.append((y, gradients))
    assert relative_error(results[0][0], results[1][0]) < 1e-12
    assert_equal_gradients(results[0][1], results[1][1], 1e-10)


@pytest.mark.parametrize("scale", [20.0, 1000.0])
def test_extreme_gates_give_finite_outputs_and_gradients(scale):
    """Of a mean of candidates, no output is beyond 1; exp(1000) alone would be infinite."""
    cell = new_cell("slstm", torch.float32)
    with torch.no_grad():
        cell.input.weight.mul_(scale)
    x, _ = window_of(cell, time=40, dtype=torch.float32)
    state = zero_state(cell, dtype=torch.float32)
    for runner in (run, run_stepwise):
        y, after = runner(cell, x, state)
        assert y.abs().max() <= 1 + 1e-6
        assert all(tensor.isfinite().all() for tensor in after)
        gradients = torch.autograd.grad(y.sum(), [x, *cell.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)


def test_with_extreme_gates_run_has_the_outputs_and_the_state_of_the_plain_loop():
    """In fp32 the sigmoid of a sum below -104 is zero, and its logarithm would be infinite."""
    cell = new_cell("slstm", torch.float32)
    with torch.no_grad():
        cell.input.weight.mul_(1000)
    x, state = window_of(cell, time=40, dtype=torch.float32)
    (y, after), (expected, expected_after) = (
        runner(cell, x, state) for runner in (run, run_stepwise)
    )
    assert relative_error(y, expected) < 1e-4
    for actual, wanted in zip(after, expected_after, strict=True):
        assert relative_error(actual, wanted) < 1e-4


def test_sizes_of_a_real_layer_agree_in_fp32_and_roughly_in_bf16():
    """Here the products are packed; the small cells of other tests are in float64."""
    torch.manual_seed(1)
    cell = make_cell(CellSection(kind="slstm"), 24, 96)
    x = torch.randn(20, 7, 24, requires_grad=True)
    state = zero_state(cell, batch=7, dtype=torch.float32)
    plain = run_stepwise(cell, x, state)
    wanted = torch.autograd.grad(loss_of(plain[0], ()), [x, *cell.parameters()])
    for precision, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            result = run(cell, x, state)
        assert relative_error(result[0], plain[0]) < tolerance
        actual = torch.autograd.grad(loss_of(result[0], ()), [x, *cell.parameters()])
        for gradient, expected in zip(actual, wanted, strict=True):
            assert relative_error(gradient, expected) < tolerance
