"""Random masks of dropout: their rate, scale, independence and state."""

import pytest
import torch

from charlm.model.dropout import drop, dropout_scale

RATES = (0.1, 0.3, 0.5, 0.9, 2**-10)
DRAWS = 400_000  # Enough to tell a rate from one that bytes can express.


def is_dropped(p: float, shape: tuple[int, ...] = (DRAWS,), seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return (dropout_scale(torch.Size(shape), p, like=torch.empty(0)) == 0).double()


def deviations(mean: torch.Tensor, p: float, draws: int) -> torch.Tensor:
    """Return how many standard deviations the means of N draws are away from p."""
    return (mean - p).abs() * (draws / (p * (1 - p))) ** 0.5


@pytest.mark.parametrize("p", RATES)
def test_the_rate_is_exact_at_each_of_the_positions_in_a_random_number(p):
    dropped = is_dropped(p)
    assert deviations(dropped.mean(), p, DRAWS) < 4
    assert (deviations(dropped.view(-1, 8).mean(dim=0), p, DRAWS // 8) < 4.5).all()


@pytest.mark.parametrize("p", RATES)
def test_the_mean_is_kept_and_the_factors_are_zero_or_the_scale(p):
    scale = dropout_scale(torch.Size([1000, 40]), p, like=torch.empty(0, dtype=torch.float64))
    zero, kept = scale.unique().tolist()
    rounded = round(p * 2**16) / 2**16
    assert (zero, kept) == (0, 1 / (1 - rounded))
    assert abs(rounded - p) <= 2**-17
    assert deviations(scale.mean() / kept, 1 - rounded, scale.numel()) < 4


def test_factors_at_different_positions_and_in_different_draws_are_independent():
    p = 0.4
    series = (is_dropped(p) - p) / (p * (1 - p)) ** 0.5
    for distance in (*range(1, 18), 32, 64, 384, 512, 4096):
        correlation = (series[:-distance] * series[distance:]).mean()
        assert correlation.abs() * DRAWS**0.5 < 4.5, distance
    patterns = is_dropped(0.5, seed=2).view(-1, 8) @ 2.0 ** torch.arange(8).double()
    counts = torch.bincount(patterns.long(), minlength=256).double()
    expected = DRAWS / 8 / 256
    # 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert 255 - 4.5 * 22.6 < ((counts - expected) ** 2 / expected).sum() < 255 + 4.5 * 22.6


def test_the_rate_is_exact_at_every_power_of_two_down_to_one_word():
    for bit in range(16):
        p = 2.0 ** -(bit + 1)  # The bits above this one are zero, and so is it.
        dropped = is_dropped(p, (4 * DRAWS,), seed=bit)
        assert deviations(dropped.mean(), p, 4 * DRAWS) < 4, bit


def test_masks_follow_from_the_state_of_the_random_generator():
    first = is_dropped(0.3)
    state = torch.get_rng_state()
    second, third = (drop(torch.ones(77), 0.3) for _ in range(2))
    assert not second.equal(third)
    torch.set_rng_state(state)
    assert drop(torch.ones(77), 0.3).equal(second)
    assert is_dropped(0.3).equal(first)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7, 3), (1, 1, 2), (4, 0, 3)])
def test_any_shape_and_type_is_possible(shape):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        x = torch.ones(shape, dtype=dtype)
        dropped = drop(x, 0.5)
        assert (dropped.shape, dropped.dtype) == (x.shape, dtype)
        assert set(dropped.flatten().tolist()) <= {0, 2}


def test_a_rate_of_zero_draws_nothing_and_a_rate_close_to_one_keeps_the_mean_finite():
    x = torch.randn(9)
    state = torch.get_rng_state()
    assert drop(x, 0.0) is x
    assert torch.get_rng_state().equal(state)
    nearly_all = dropout_scale(torch.Size([2**20]), 1 - 1e-9, like=x)
    assert set(nearly_all.unique().tolist()) == {0.0, 2.0**16}


def test_the_gradient_is_that_of_the_mask_also_of_a_transposed_tensor():
    x = torch.randn(6, 5, 4, dtype=torch.float64).transpose(0, 1).requires_grad_()
    y = drop(x, 0.25)
    y.sum().backward()
    assert ((x.grad == 0) == (y == 0)).all()
    torch.testing.assert_close(x.grad * x, y)
