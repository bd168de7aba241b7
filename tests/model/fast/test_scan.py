"""The parallel scan equals the plain recurrence at every length, and never overflows."""

import pytest
import torch
from model.cells_table import SCANNED, new_cell, relative_error, window_of

from charlm.config.cell import Cell as CellSection
from charlm.model.cells.registry import make_cell
from charlm.model.fast.scan import scan
from charlm.model.recurrence import run, run_stepwise

BATCH, HIDDEN = 2, 3


def plain(decay: torch.Tensor, increment: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """h_t = a_t ⊙ h_{t−1} + b_t, one after another."""
    states = []
    for a, b in zip(decay, increment, strict=True):
        hidden = a * hidden + b
        states.append(hidden)
    return torch.stack(states)


def coefficients(time: int, *, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a between 0 and 1, b and h of both signs; float64."""
    generator = torch.Generator().manual_seed(seed)
    decay = torch.rand(time, BATCH, HIDDEN, generator=generator, dtype=torch.float64)
    increment = torch.randn(time, BATCH, HIDDEN, generator=generator, dtype=torch.float64)
    hidden = torch.randn(BATCH, HIDDEN, generator=generator, dtype=torch.float64)
    return decay.requires_grad_(), increment.requires_grad_(), hidden.requires_grad_()


def test_a_scan_of_any_length_has_the_states_and_gradients_of_the_plain_recurrence():
    for time in (*range(1, 21), 64, 65):
        given = coefficients(time)
        weights = torch.randn(
            time, BATCH, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        )
        scanned, expected = scan(*given), plain(*given)
        assert relative_error(scanned, expected) < 1e-14, time
        gradients = [
            torch.autograd.grad((states * weights).sum(), given) for states in (scanned, expected)
        ]
        for actual, wanted in zip(*gradients, strict=True):
            assert relative_error(actual, wanted) < 1e-14, time


def test_the_gradient_of_one_argument_alone_can_be_computed():
    for number, name in enumerate(("decay", "increment", "hidden")):
        given = [
            tensor.detach().requires_grad_(place == number)
            for place, tensor in enumerate(coefficients(7))
        ]
        (actual,), (wanted,) = (
            torch.autograd.grad(way(*given).square().sum(), given[number]) for way in (scan, plain)
        )
        assert relative_error(actual, wanted) < 1e-14, name


def test_a_second_derivative_raises_an_error():
    decay, increment, hidden = coefficients(4)
    (gradient,) = torch.autograd.grad(
        scan(decay, increment, hidden).square().sum(), decay, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("time", [6, 65])
def test_a_decay_of_one_keeps_the_state_and_a_decay_of_zero_drops_it(time):
    _, increment, hidden = (tensor.detach() for tensor in coefficients(time))
    shut = scan(torch.zeros_like(increment), increment, hidden)
    assert shut.equal(increment)
    held = scan(torch.ones_like(increment), torch.zeros_like(increment), hidden)
    assert held.equal(hidden.expand_as(held))
    summed = scan(torch.ones_like(increment), increment, hidden)
    torch.testing.assert_close(summed, hidden + increment.cumsum(dim=0))
    mixed = (
        torch.rand(time, BATCH, HIDDEN, generator=torch.Generator().manual_seed(3)) < 0.5
    ).double()
    torch.testing.assert_close(
        scan(mixed, increment, hidden), plain(mixed, increment, hidden), rtol=1e-14, atol=1e-14
    )


def test_the_decay_may_be_negative_or_above_one():
    decay, increment, hidden = coefficients(20)
    decay = 4 * decay.detach() - 2
    assert relative_error(scan(decay, increment, hidden), plain(decay, increment, hidden)) < 1e-13


@pytest.mark.parametrize("low", [0.0, 0.9, 1.0])
def test_a_window_of_two_thousand_tokens_stays_exact_in_fp32(low):
    """Decays lie between `low` and 1. At 1 the state grows as a sum; near 0 products underflow."""
    decay, increment, hidden = coefficients(2000)
    decay = low + (1 - low) * decay
    expected = scan(decay, increment, hidden)
    assert relative_error(expected, plain(decay, increment, hidden)) < 1e-13
    given = [tensor.detach().float().requires_grad_() for tensor in (decay, increment, hidden)]
    states = scan(*given)
    assert relative_error(states, expected) < 1e-5
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(states.sum(), given))


def test_coefficients_rounded_to_bf16_are_scanned_exactly_in_fp32():
    decay, increment, hidden = (tensor.detach().bfloat16().float() for tensor in coefficients(500))
    states = scan(decay, increment, hidden)
    assert states.dtype == torch.float32
    assert relative_error(states, plain(decay.double(), increment.double(), hidden.double())) < 1e-6


def test_the_state_before_a_later_token_does_not_depend_on_it():
    decay, increment, hidden = coefficients(13)
    for token in range(13):
        gradients = torch.autograd.grad(
            scan(decay, increment, hidden)[:token].sum(), [decay, increment], allow_unused=True
        )
        assert all(gradient is None or not gradient[token:].any() for gradient in gradients)


@pytest.mark.parametrize("kind", ["min_gru", "min_lstm"])
def test_saturated_gates_have_finite_states_and_gradients(kind):
    """All combinations of gate inputs −200, 0 and 200; in fp32 σ(−104) is 0 and σ(17) is 1."""
    ends = torch.tensor([-200.0, 0.0, 200.0])
    gates = (
        torch.cartesian_prod(ends, ends).T
        if kind == "min_lstm"
        else ends.repeat_interleave(3)[None]
    )
    cell = make_cell(CellSection(kind=kind), 9, 9)  # One unit per combination.
    with torch.no_grad():
        cell.input.weight.zero_()
        cell.input.bias.copy_(torch.cat([gates.flatten(), torch.full((9,), 0.5)]))
    x, hidden = torch.ones(70, 2, 9, requires_grad=True), torch.full((2, 9), 2.0)
    hidden.requires_grad_()
    first = {
        "min_gru": [2.0] * 3 + [1.25] * 3 + [0.5] * 3,
        "min_lstm": [1.25, 0.5, 0.5, 2.0, 1.25, 1.0, 2.0, 1.5, 1.25],
    }[kind]
    for runner in (run, run_stepwise):
        y, _ = runner(cell, x, (hidden,))
        gradients = torch.autograd.grad(y.sum(), [x, hidden, *cell.parameters()])
        assert all(tensor.isfinite().all() for tensor in (y, *gradients))
        assert ((y >= 0.5) & (y <= 2.0)).all()  # Between the candidate and the first state.
        torch.testing.assert_close(y[0], torch.tensor(first).expand(2, 9))


def test_an_rg_lru_stays_exact_and_finite_where_its_decay_is_nearly_or_exactly_one():
    """1 − a² would be 0 in fp32 below a gate of about 1e-8; below σ(−104) the gate itself is 0."""
    gates = torch.tensor([-200.0, -100.0, -60.0, -30.0, -17.0, 0.0, 17.0, 200.0])
    increments = []
    for dtype in (torch.float32, torch.float64):
        cell = make_cell(CellSection(kind="rg_lru"), 1, len(gates)).to(dtype)
        with torch.no_grad():
            cell.decay.fill_(-4.0)
            cell.input.weight.zero_()
            cell.input.bias.copy_(torch.cat([gates, torch.full_like(gates, 9.0), gates * 0 + 1]))
        x = torch.ones(70, 2, 1, dtype=dtype)
        hidden = torch.full((2, len(gates)), 2.0, dtype=dtype, requires_grad=True)
        increments.append(cell.coefficients(cell.project(x))[1])
        for runner in (run, run_stepwise):
            y, _ = runner(cell, x, (hidden,))
            gradients = torch.autograd.grad(y.sum(), [hidden, *cell.parameters()])
            assert all(tensor.isfinite().all() for tensor in (y, *gradients))
    # In fp32 the increments of the first two units are below the square root of the least number.
    assert increments[0][..., :2].max() < 1e-18
    actual, expected = (tensor[..., 2:].double() for tensor in increments)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", SCANNED)
def test_a_scanned_cell_neither_sees_later_tokens_nor_loses_its_state_between_windows(name):
    cell = new_cell(name)
    x, (hidden,) = window_of(cell, time=9)
    with torch.no_grad():
        whole, (after,) = run(cell, x, (hidden,))
        for token in range(1, 9):
            changed = x.clone()
            changed[token] += 1.0
            difference = (run(cell, changed, (hidden,))[0] - whole).abs().amax(dim=(1, 2))
            assert not difference[:token].any() and difference[token] > 0, token
            _, between = run(cell, x[:token], (hidden,))
            rest, (last,) = run(cell, x[token:], between)
            torch.testing.assert_close(rest, whole[token:], rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(last, after, rtol=1e-12, atol=1e-13)


def test_the_state_of_a_bag_is_the_sum_of_its_inputs():
    cell = make_cell(CellSection(kind="bag"), 3, 3)
    x, (state,) = window_of(cell)
    y, (after,) = run(cell, x, (state,))
    torch.testing.assert_close(y, state + x.cumsum(dim=0))
    assert after.equal(y[-1])
