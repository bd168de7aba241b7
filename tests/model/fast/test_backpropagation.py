"""The traced window has the gradients of the plain loop at every size, and leaves nothing behind."""

import copy
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
from model.cells_table import (
    HIDDEN,
    INPUT,
    assert_equal_gradients,
    cell_of,
    gradients_of,
    loss_of,
    new_cell,
    relative_error,
    some_traced_cells,
    window_of,
    written_and_traced_cells,
)

from charlm.model.cells.base import Cell, State
from charlm.model.fast import backpropagation
from charlm.model.fast.products import Diagonal, Matrix
from charlm.model.recurrence import run, run_stepwise

ERROR = 1e-12


def assert_same(
    cell: Cell, *, time: int = 4, batch: int = 2, dtype: torch.dtype = torch.float64
) -> None:
    """Check that `run` and `run_stepwise` agree in outputs, states and gradients."""
    x, state = window_of(cell, time=time, batch=batch, dtype=dtype)
    tolerance = ERROR if dtype == torch.float64 else 1e-4
    traced, stepwise = run(cell, x, state), run_stepwise(cell, x, state)
    for part, expected in zip((traced[0], *traced[1]), (stepwise[0], *stepwise[1]), strict=True):
        assert relative_error(part, expected) < tolerance
    gradients = [gradients_of(cell, loss_of(*result), x, state) for result in (traced, stepwise)]
    assert_equal_gradients(*gradients, tolerance)


@pytest.fixture
def changeable(name: str) -> Iterator[Cell]:
    """A shared cell that the test may change; it is restored, as tracing a new one is slow."""
    cell = cell_of(name)
    weights = copy.deepcopy(cell.state_dict())
    yield cell
    cell.double().load_state_dict(weights)
    cell.requires_grad_(True).zero_grad()


@some_traced_cells
def test_each_batch_size_has_its_own_traced_step(name):
    for batch in (2, 1, 2):
        assert_same(cell_of(name), batch=batch)


@some_traced_cells
def test_a_second_window_is_not_traced_again(name, monkeypatch):
    assert_same(cell_of(name))
    monkeypatch.setattr(backpropagation, "_trace", None)
    assert_same(cell_of(name), time=7)


# Uses of autograd.


@written_and_traced_cells
def test_the_gradient_of_one_state_tensor_alone_can_be_computed(name):
    cell = cell_of(name)
    x, state = window_of(cell)
    for part in range(cell.num_state_tensors):
        expected, actual = (
            torch.autograd.grad(loss_of(*runner(cell, x.detach(), state)), state[part])[0]
            for runner in (run_stepwise, run)
        )
        assert relative_error(actual, expected) < ERROR


@written_and_traced_cells
def test_a_loss_on_one_result_alone_has_the_gradients_of_the_plain_loop(name):
    """A loss on the outputs, or on one tensor of the last state: other gradients are zero."""
    cell = cell_of(name)
    x, state = window_of(cell)
    for number in range(1 + cell.num_state_tensors):
        results = [
            (y, *after)[number] for y, after in (run(cell, x, state), run_stepwise(cell, x, state))
        ]
        gradients = [gradients_of(cell, loss_of(result, ()), x, state) for result in results]
        assert_equal_gradients(*gradients, ERROR)


@written_and_traced_cells
def test_a_frozen_weight_gets_no_gradient_and_does_not_change_the_others(changeable):
    cell = changeable
    window = window_of(cell)
    run_stepwise(cell, *window)[0].sum().backward()
    expected = {parameter: weight.grad for parameter, weight in cell.named_parameters()}
    for parameter, frozen in cell.named_parameters():
        cell.zero_grad()
        frozen.requires_grad_(False)
        run(cell, *window)[0].sum().backward()
        frozen.requires_grad_(True)
        assert frozen.grad is None
        for other, weight in cell.named_parameters():
            if other != parameter:
                assert relative_error(weight.grad, expected[other]) < ERROR, other


@written_and_traced_cells
def test_input_and_state_have_gradients_if_all_weights_are_frozen(changeable):
    cell = changeable.requires_grad_(False)
    x, state = window_of(cell)
    expected, actual = (
        torch.autograd.grad(loss_of(*runner(cell, x, state)), [x, *state])
        for runner in (run_stepwise, run)
    )
    for mine, wanted in zip(actual, expected, strict=True):
        assert relative_error(mine, wanted) < ERROR


@pytest.mark.parametrize("name", ["elman_sigmoid", "lstm_peephole_input"])
def test_a_step_traced_without_gradients_serves_a_window_with_gradients(name):
    """The trace must not depend on the gradient mode at its time."""
    cell = new_cell(name).requires_grad_(False)
    x, state = window_of(cell)
    with torch.no_grad():
        backpropagation.run_window(cell, cell.project(x), state, torch.float64)
    assert_same(cell.requires_grad_(True))


@written_and_traced_cells
def test_backward_can_run_twice_over_a_window(name):
    cell = cell_of(name)
    x, state = window_of(cell)
    loss = loss_of(*run(cell, x, state))
    first = gradients_of(cell, loss, x, state, retain_graph=True)
    second = gradients_of(cell, loss, x, state)
    assert all((first[key] == second[key]).all() for key in first)


@written_and_traced_cells
def test_two_windows_can_run_forward_before_either_runs_backward(name):
    cell = cell_of(name)
    windows = [window_of(cell, seed=seed) for seed in (6, 7)]
    expected = [
        gradients_of(cell, loss_of(*run_stepwise(cell, *window)), *window) for window in windows
    ]
    losses = [loss_of(*run(cell, *window)) for window in windows]
    for window, loss, wanted in reversed(list(zip(windows, losses, expected, strict=True))):
        assert_equal_gradients(gradients_of(cell, loss, *window), wanted, ERROR)


@written_and_traced_cells
def test_a_window_uses_the_weights_after_the_last_training_step(changeable):
    before = copy.deepcopy(changeable.state_dict())
    run(changeable, *window_of(changeable))[0].sum().backward()
    torch.optim.SGD(changeable.parameters(), lr=0.1).step()
    assert not changeable.input.weight.equal(before["input.weight"])
    assert_same(changeable)


@pytest.mark.parametrize("name", ["elman_sigmoid", "gru_reset_before"])
def test_a_copied_cell_and_a_cast_cell_use_their_own_weights(name, changeable):
    twin = copy.deepcopy(changeable)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.mul_(0.5)
    assert_same(twin)
    assert_same(changeable)
    assert_same(changeable.float(), dtype=torch.float32)
    assert_same(changeable.double())


@pytest.mark.parametrize(
    "name", ["elman_sigmoid", "lstm_peepholes", "mogrifier_lstm_1_round", "slstm"]
)
def test_under_autocast_products_are_rounded_and_gradients_have_the_type_of_the_weights(name):
    cell = cell_of(name, torch.float32)
    x, state = window_of(cell, dtype=torch.float32)
    exact = run_stepwise(cell, x, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, after = run(cell, x, state)
    assert all(part.dtype == torch.float32 for part in (y, *after))
    gradients = torch.autograd.grad(loss_of(y, after), list(cell.parameters()))
    for gradient, wanted in zip(
        gradients, torch.autograd.grad(loss_of(*exact), list(cell.parameters())), strict=True
    ):
        assert gradient.dtype == torch.float32
        assert 1e-4 < relative_error(gradient, wanted) < 0.1


@written_and_traced_cells
def test_a_second_derivative_raises_an_error(name):
    cell = cell_of(name)
    x, state = window_of(cell)
    (gradient,) = torch.autograd.grad(run(cell, x, state)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@written_and_traced_cells
def test_a_change_in_place_after_a_window_raises_an_error_or_has_no_effect(name, changeable):
    """As everywhere in torch, it never leads to a wrong gradient."""
    cell = changeable
    x, state = window_of(cell)
    expected = gradients_of(cell, run_stepwise(cell, x, state)[0].sum(), x, state)
    num_tensors = 1 + 2 * cell.num_state_tensors + len(list(cell.parameters()))
    for number in range(num_tensors):
        inputs, state_before = x.clone(), tuple(tensor.clone() for tensor in state)
        y, state_after = run(cell, inputs, state_before)
        tensor = [inputs, *state_before, *state_after, *cell.parameters()][number]
        old = tensor.detach().clone()
        with torch.no_grad():
            tensor.mul_(3.0)
        actual = gradients_or_none(cell, y.sum(), x, state)
        with torch.no_grad():
            tensor.copy_(old)
        assert (
            actual is None
            or max(relative_error(actual[key], expected[key]) for key in expected) < ERROR
        ), f"tensor {number} of {num_tensors}"


def gradients_or_none(cell: Cell, loss: torch.Tensor, x: torch.Tensor, state: State) -> dict | None:
    """Return the gradients, or None if autograd reports a change in place."""
    try:
        return gradients_of(cell, loss, x, state)
    except RuntimeError as error:
        assert "inplace operation" in str(error)
        return None


# Memory.


@written_and_traced_cells
def test_a_window_is_freed_with_its_results_without_the_garbage_collector(name):
    """Otherwise memory would grow by a window per step of training."""
    cell = cell_of(name)
    window = window_of(cell)
    run(cell, *window)  # The first trace of a process leaves cycles of references to its window.
    gc.disable()
    try:
        for runs_backward in (False, True):
            y, after = run(cell, *window)
            if runs_backward:
                gradients_of(cell, loss_of(y, after), *window)
            node = weakref.ref(y.grad_fn)
            assert node() is not None
            del y, after
            assert node() is None, runs_backward
    finally:
        gc.enable()


def test_a_cell_is_freed_with_its_traced_steps():
    cell = new_cell("gru_reset_none")
    run(cell, *window_of(cell))
    gone, steps = weakref.ref(cell), len(backpropagation._programs)
    del cell
    gc.collect()
    assert gone() is None
    assert len(backpropagation._programs) == steps - 1


@some_traced_cells
def test_a_cell_keeps_no_recorder_even_if_its_step_fails(name, monkeypatch):
    cell = cell_of(name)
    run(cell, *window_of(cell))
    assert all(product.recorder is None for product in cell.products())

    def fail(projected, state):
        assert all(product.recorder is not None for product in cell.products())
        raise ValueError("here")

    monkeypatch.setattr(cell, "step", fail)
    with pytest.raises(ValueError, match="here"):
        run(cell, *window_of(cell, batch=5))
    assert all(product.recorder is None for product in cell.products())


# Artificial cells, for uses of products and states that no cell of charlm has.


class Toy(Cell):
    """A cell with two recurrent products and the given equation as its step."""

    def __init__(self, equation, *, num_state_tensors: int = 1, output: int = 0) -> None:
        super().__init__(HIDDEN)
        self.num_state_tensors, self.output_index = num_state_tensors, output
        self.input, self.recurrent = (
            Matrix.zeros(HIDDEN, width, bias=True) for width in (INPUT, HIDDEN)
        )
        self.diagonal = Diagonal(HIDDEN)
        self.equation = equation
        torch.manual_seed(8)
        for weight in self.parameters():
            torch.nn.init.normal_(weight, std=0.7)
        self.double()

    def step(self, projected: torch.Tensor, state: State) -> State:
        return self.equation(self, projected, *state)

    def output(self, state: State) -> torch.Tensor:
        return state[self.output_index]


TOYS = {
    "a_product_used_twice": Toy(
        lambda cell, x, h: (torch.tanh(cell.recurrent(torch.tanh(cell.recurrent(h) + x))),)
    ),
    "two_products_used_in_turn": Toy(
        lambda cell, x, h: (cell.diagonal(torch.tanh(cell.recurrent(cell.diagonal(h)) + x)),)
    ),
    "a_product_of_the_input": Toy(
        lambda cell, x, h: (torch.sin(cell.recurrent(x)) + cell.diagonal(h),)
    ),
    "a_product_whose_result_is_the_state": Toy(lambda cell, x, h: (cell.recurrent(h + x),)),
    "a_product_that_is_not_used": Toy(
        lambda cell, x, h: (torch.sin(cell.recurrent(h)), cell.diagonal(x))[:1]
    ),
    "a_state_that_is_handed_on": Toy(
        lambda cell, x, h, c: (torch.tanh(cell.recurrent(c) + x), h), num_state_tensors=2
    ),
    "a_state_that_stays": Toy(
        lambda cell, x, h, c: (torch.tanh(cell.recurrent(h) * c + x), c), num_state_tensors=2
    ),
    "a_state_that_nothing_reads": Toy(
        lambda cell, x, h, c: (torch.tanh(cell.recurrent(h) + x), x), num_state_tensors=2
    ),
    "two_states_that_are_one": Toy(
        lambda cell, x, h, c: (torch.tanh(cell.recurrent(h + 2 * c) + x),) * 2, num_state_tensors=2
    ),
    "an_output_that_is_not_the_first_state_tensor": Toy(
        lambda cell, x, h, c: (torch.tanh(cell.recurrent(c) + x), torch.tanh(h + cell.diagonal(c))),
        num_state_tensors=2,
        output=1,
    ),
    "an_input_that_is_not_read": Toy(lambda cell, x, h: (torch.tanh(cell.recurrent(h)),)),
    "no_product_at_all": Toy(lambda cell, x, h: (torch.tanh(x + h),)),
    "a_constant": Toy(
        lambda cell, x, h: (torch.tanh(cell.recurrent(h) + x) + torch.ones_like(h).cumsum(dim=-1),)
    ),
}


@pytest.mark.parametrize("name", TOYS)
def test_a_cell_of_any_equations_has_the_gradients_of_the_plain_loop(name):
    assert_same(TOYS[name])


def test_a_tensor_shared_by_several_products_is_stored_once():
    """A product added to the projected input has its gradient; two peepholes share a vector."""
    assert program_of(cell_of("gru_reset_none")).gradients == (
        0,
    )  # The first is the projected input's.
    assert program_of(TOYS["a_product_of_the_input"]).gradients == (1, 2)
    assert program_of(cell_of("lstm_peepholes")).vectors == (
        0,
        1,
        1,
        2,
    )  # h; the old memory, twice; the new one.


def program_of(cell: Cell) -> backpropagation.Program:
    run(cell, *window_of(cell))
    (program, *_) = backpropagation._programs[cell].values()
    return program
