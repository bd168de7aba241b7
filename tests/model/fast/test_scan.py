"""The parallel scan: the plain recurrence, at every length, and no overflow at any."""

import pytest
import torch
from model.cells_table import relative_error, window_of

from charlm.config.schema import Cell as CellSection
from charlm.model.cells.registry import make_cell
from charlm.model.fast.scan import scan
from charlm.model.recurrence import run, run_stepwise

BATCH, HIDDEN = 2, 3


def plain(kept: torch.Tensor, added: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """h_t = a_t ⊙ h_{t−1} + b_t, one after another."""
    states = []
    for a, b in zip(kept, added, strict=True):
        hidden = a * hidden + b
        states.append(hidden)
    return torch.stack(states)


def coefficients(time: int, *, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a between 0 and 1, b and h of both signs; float64."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(time, BATCH, HIDDEN, generator=generator, dtype=torch.float64)
    added = torch.randn(time, BATCH, HIDDEN, generator=generator, dtype=torch.float64)
    hidden = torch.randn(BATCH, HIDDEN, generator=generator, dtype=torch.float64)
    return kept.requires_grad_(), added.requires_grad_(), hidden.requires_grad_()


@pytest.mark.parametrize("time", [*range(1, 21), 64, 65])
def test_a_scan_of_any_length_is_the_plain_recurrence_and_so_are_its_gradients(time):
    given = coefficients(time)
    weights = torch.randn(
        time, BATCH, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    scanned, expected = scan(*given), plain(*given)
    assert relative_error(scanned, expected) < 1e-14
    gradients = [
        torch.autograd.grad((states * weights).sum(), given) for states in (scanned, expected)
    ]
    for actual, wanted in zip(*gradients, strict=True):
        assert relative_error(actual, wanted) < 1e-14


@pytest.mark.parametrize("time", [1, 2, 5, 9])
def test_gradients_of_a_scan_are_those_of_small_differences(time):
    assert torch.autograd.gradcheck(scan, coefficients(time))


@pytest.mark.parametrize("number", [0, 1, 2], ids=["kept", "added", "hidden"])
def test_the_gradient_of_one_argument_alone_may_be_asked_for(number):
    given = [
        tensor.detach().requires_grad_(place == number)
        for place, tensor in enumerate(coefficients(7))
    ]
    (actual,), (wanted,) = (
        torch.autograd.grad(way(*given).square().sum(), given[number]) for way in (scan, plain)
    )
    assert relative_error(actual, wanted) < 1e-14


def test_a_second_derivative_is_refused_instead_of_wrong():
    kept, added, hidden = coefficients(4)
    (gradient,) = torch.autograd.grad(
        scan(kept, added, hidden).square().sum(), kept, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("time", [6, 17, 65])
def test_gates_that_are_fully_open_or_shut_keep_all_or_nothing(time):
    _, added, hidden = (tensor.detach() for tensor in coefficients(time))
    shut = scan(torch.zeros_like(added), added, hidden)
    assert shut.equal(added)
    held = scan(torch.ones_like(added), torch.zeros_like(added), hidden)
    assert held.equal(hidden.expand_as(held))
    summed = scan(torch.ones_like(added), added, hidden)
    torch.testing.assert_close(summed, hidden + added.cumsum(dim=0))
    mixed = (
        torch.rand(time, BATCH, HIDDEN, generator=torch.Generator().manual_seed(3)) < 0.5
    ).double()
    torch.testing.assert_close(
        scan(mixed, added, hidden), plain(mixed, added, hidden), rtol=1e-14, atol=1e-14
    )


def test_what_is_kept_may_be_negative_or_above_one():
    kept, added, hidden = coefficients(20)
    kept = 4 * kept.detach() - 2
    assert relative_error(scan(kept, added, hidden), plain(kept, added, hidden)) < 1e-13


@pytest.mark.parametrize("low", [0.0, 0.9, 1.0])
def test_a_window_of_two_thousand_tokens_stays_exact_in_fp32(low):
    """`low`: gates between it and 1. All at 1 the state grows as a sum does; near 0 products of gates underflow."""
    kept, added, hidden = coefficients(2000)
    kept = low + (1 - low) * kept
    expected = scan(kept, added, hidden)
    assert relative_error(expected, plain(kept, added, hidden)) < 1e-13
    given = [tensor.detach().float().requires_grad_() for tensor in (kept, added, hidden)]
    states = scan(*given)
    assert relative_error(states, expected) < 1e-5
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(states.sum(), given))


def test_coefficients_born_in_bf16_are_scanned_in_fp32_as_exactly_as_any():
    kept, added, hidden = (tensor.detach().bfloat16().float() for tensor in coefficients(500))
    states = scan(kept, added, hidden)
    assert states.dtype == torch.float32
    assert relative_error(states, plain(kept.double(), added.double(), hidden.double())) < 1e-6


def test_the_state_before_a_later_token_does_not_depend_on_it():
    kept, added, hidden = coefficients(13)
    for token in range(13):
        gradients = torch.autograd.grad(
            scan(kept, added, hidden)[:token].sum(), [kept, added], allow_unused=True
        )
        assert all(gradient is None or not gradient[token:].any() for gradient in gradients)


@pytest.mark.parametrize("kind", ["min_gru", "min_lstm"])
@pytest.mark.parametrize("runner", [run, run_stepwise], ids=["run", "stepwise"])
def test_gates_far_from_zero_are_finite_forward_and_backward(kind, runner):
    """Every combination of −200, 0 and 200 before the logistic function, whose fp32 ends at −104 and 17."""
    ends = torch.tensor([-200.0, 0.0, 200.0])
    gates = (
        torch.cartesian_prod(ends, ends).T
        if kind == "min_lstm"
        else ends.repeat_interleave(3)[None]
    )
    cell = make_cell(CellSection(kind=kind), 9, 9)  # A unit a combination.
    with torch.no_grad():
        cell.input.weight.zero_()
        cell.input.bias.copy_(torch.cat([gates.flatten(), torch.full((9,), 0.5)]))
    x, hidden = (
        torch.ones(70, 2, 9, requires_grad=True),
        torch.full((2, 9), 2.0, requires_grad=True),
    )
    y, _ = runner(cell, x, (hidden,))
    gradients = torch.autograd.grad(y.sum(), [x, hidden, *cell.parameters()])
    assert all(tensor.isfinite().all() for tensor in (y, *gradients))
    assert ((y >= 0.5) & (y <= 2.0)).all()  # Between what was there and what comes in.
    first = {
        "min_gru": [2.0] * 3 + [1.25] * 3 + [0.5] * 3,
        "min_lstm": [1.25, 0.5, 0.5, 2.0, 1.25, 1.0, 2.0, 1.5, 1.25],
    }[kind]
    torch.testing.assert_close(y[0], torch.tensor(first).expand(2, 9))


def test_a_bag_s_state_is_the_sum_of_all_that_it_read():
    cell = make_cell(CellSection(kind="bag"), 3, 3)
    x, (state,) = window_of(cell)
    y, (after,) = run(cell, x, (state,))
    torch.testing.assert_close(y, state + x.cumsum(dim=0))
    assert after.equal(y[-1])
