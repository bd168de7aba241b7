"""The decay of the RG-LRU and its factor have the values and gradients of their definition."""

import torch

from charlm.model.fast.decay import decay_and_factor


def test_values_and_gradients_are_those_of_the_definition():
    log_decay = torch.linspace(-20, -1e-6, 500, dtype=torch.float64).requires_grad_()
    decay = log_decay.exp()
    expected = decay, (1 - decay.square()).sqrt()
    for number, name in enumerate(("decay", "factor")):
        actual = decay_and_factor(log_decay)[number]
        torch.testing.assert_close(actual, expected[number], rtol=1e-9, atol=1e-15, msg=name)
        (gradient,) = torch.autograd.grad(actual.sum(), log_decay)
        (wanted,) = torch.autograd.grad(expected[number].sum(), log_decay, retain_graph=True)
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-15, msg=name)


def test_the_gradient_of_both_together_is_the_sum():
    log_decay = torch.linspace(-3, -0.01, 50, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(decay_and_factor, (log_decay,))


def test_a_decay_of_one_and_one_of_zero_have_finite_gradients():
    for dtype in (torch.float32, torch.float64):
        log_decay = torch.tensor([0.0, -1e-30, -1e4], dtype=dtype).requires_grad_()
        decay, factor = decay_and_factor(log_decay)
        assert decay.tolist() == [1, 1, 0], dtype
        (gradient,) = torch.autograd.grad((decay + factor).sum(), log_decay)
        assert gradient.isfinite().all(), dtype
