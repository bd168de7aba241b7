"""A cell over a window, run fast and step by step, and the layers around the cells."""

import pytest
import torch
from model.cells_table import (
    CELLS,
    SOME_CELLS,
    SOME_TRACED,
    TIME,
    assert_equal_gradients,
    cell_of,
    every_cell,
    gradients_of,
    loss_of,
    new_cell,
    relative_error,
    some_cells,
    window_of,
)

from charlm.model.cells.base import Cell, State
from charlm.model.dropout import Dropout
from charlm.model.fast import backpropagation, kernels
from charlm.model.recurrence import Recurrence, run, run_stepwise

ERROR = 1e-12


@every_cell
def test_run_and_run_stepwise_agree_over_windows_of_any_length(name):
    """In outputs, states and gradients; test_cells.py compares `run_stepwise` with the reference."""
    cell = cell_of(name)
    for time in (1, TIME, 9):
        x, state = window_of(cell, time=time)
        fast, plain = run(cell, x, state), run_stepwise(cell, x, state)
        for tensor, expected in zip((fast[0], *fast[1]), (plain[0], *plain[1]), strict=True):
            assert relative_error(tensor, expected) < ERROR, time
        gradients = [gradients_of(cell, loss_of(*result), x, state) for result in (fast, plain)]
        assert_equal_gradients(*gradients, ERROR)


def test_a_kernel_prepares_a_backward_pass_in_evaluation_mode_too(monkeypatch):
    """As cuDNN requires; the window of a measurement of gradients is one of evaluation."""
    cell = cell_of("lstm")
    prepared = []

    def run_lstm(*arguments):
        prepared.append(arguments[6])
        return torch.lstm(*arguments)

    monkeypatch.setitem(kernels._KERNELS, "LSTM", run_lstm)
    window = window_of(cell)
    was_training = cell.training
    cell.eval()
    run(cell, *window)
    with torch.inference_mode():
        run(cell, *window)
    cell.train(was_training)
    assert prepared == [True, False]


def test_a_kernel_reads_contiguous_states(monkeypatch):
    """As cuDNN requires; a learned state is one row for the whole batch."""
    cell = cell_of("lstm")
    network = Recurrence([cell], dropout=Dropout(0.0), skip="none", learn_initial=True).double()
    received = []

    def run_lstm(x, states, *arguments):
        received.extend(states)
        return torch.lstm(x, states, *arguments)

    monkeypatch.setitem(kernels._KERNELS, "LSTM", run_lstm)
    x, _ = window_of(cell)
    network(x, network.initial_states(x.shape[1]))
    assert [state.is_contiguous() for state in received] == [True, True]


@some_cells
def test_windows_with_carried_state_equal_one_long_window(name):
    """In gradients too, if the carried state is not detached."""
    cell = cell_of(name)
    x, state = window_of(cell)
    whole = run(cell, x, state)
    outputs, carried = [], state
    for piece in x.split([1, 2, 1]):
        y, carried = run(cell, piece, carried)
        outputs.append(y)
    pieces = torch.cat(outputs), carried
    for tensor, expected in zip((pieces[0], *pieces[1]), (whole[0], *whole[1]), strict=True):
        assert relative_error(tensor, expected) < ERROR
    gradients = [gradients_of(cell, loss_of(*result), x, state) for result in (pieces, whole)]
    assert_equal_gradients(*gradients, ERROR)


@some_cells
def test_earlier_outputs_do_not_depend_on_later_inputs(name):
    cell = cell_of(name)
    x, state = window_of(cell)
    changed = x.detach().clone()
    changed[2:] += 1
    for runner in (run, run_stepwise):
        y, _ = runner(cell, x, state)
        z, _ = runner(cell, changed, state)
        assert z[:2].equal(y[:2]) and (z[2:] != y[2:]).any()
        (gradient,) = torch.autograd.grad(y[:2].sum(), x)
        assert gradient[:2].any() and not gradient[2:].any()


@some_cells
def test_the_sequences_of_a_batch_do_not_depend_on_each_other(name):
    cell = cell_of(name)
    x, state = window_of(cell)
    y, after = run(cell, x, state)
    for row in range(x.shape[1]):
        z, last = run(cell, x[:, row : row + 1], tuple(part[row : row + 1] for part in state))
        for tensor, expected in zip(
            (z[:, 0], *(part[0] for part in last)),
            (y[:, row], *(part[row] for part in after)),
            strict=True,
        ):
            assert relative_error(tensor, expected) < ERROR
        (gradient,) = torch.autograd.grad(y[:, row].sum(), x, retain_graph=True)
        assert gradient[:, row].any() and not gradient[:, 1 - row].any()


@some_cells
def test_outputs_without_gradients_are_those_with_gradients(name):
    cell = cell_of(name)
    x, state = window_of(cell)
    y, after = run(cell, x, state)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            z, last = run(cell, x, state)
        for tensor, expected in zip((z, *last), (y, *after), strict=True):
            assert not tensor.requires_grad
            assert relative_error(tensor, expected) < ERROR, mode


def test_a_window_without_gradients_is_not_traced():
    for name in SOME_TRACED:
        cell = new_cell(name)
        with torch.no_grad():
            run(cell, *window_of(cell))
        assert cell not in backpropagation._programs, name
        run(cell, *window_of(cell))
        assert cell in backpropagation._programs, name


def test_states_keep_their_type_and_shape_under_autocast():
    """Only then can they be carried from window to window. bf16 has three digits."""
    for name in CELLS:
        cell = cell_of(name, torch.float32)
        x, state = window_of(cell, dtype=torch.float32)
        exact, _ = run_stepwise(cell, x, state)
        for runner in (run, run_stepwise):
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                first, carried = runner(cell, x[:2], state)
                second, after = runner(cell, x[2:], carried)
            assert [part.shape for part in after] == [part.shape for part in state], name
            assert relative_error(torch.cat([first, second]), exact) < 0.03, name


# Layers.


class Sum(Cell):
    """h ← h + x: outputs are running sums of the inputs."""

    def step(self, projected: torch.Tensor, state: State) -> State:
        return (state[0] + projected,)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return x


def layers(number: int, **options) -> Recurrence:
    return Recurrence(
        [Sum(3) for _ in range(number)], **{"dropout": Dropout(0.0), "skip": "none", **options}
    ).eval()


X = torch.tensor([[[1.0, 2.0, 6.0]], [[-4.0, 0.0, 1.0]]])  # (time 2, batch 1, 3).


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        ("none", lambda once, twice, thrice: thrice),
        ("residual", lambda once, twice, thrice: once + 2 * twice + thrice),
        ("sum", lambda once, twice, thrice: once + twice + thrice),
    ],
)
def test_three_layers_of_running_sums_by_hand(skip, expected):
    """Residual: y₂ = y₁ + S y₁ and y₃ = y₂ + S y₂ = y₁ + 2 S y₁ + S S y₁, with S the running sum and y₁ = S x."""
    once = X.cumsum(dim=0)
    twice = once.cumsum(dim=0)
    network = layers(3, skip=skip)
    y, after = network(X, network.initial_states(1), run=run_stepwise)
    torch.testing.assert_close(y, expected(once, twice, twice.cumsum(dim=0)))
    assert len(after) == 3 and after[0][0].equal(once[-1])


def test_the_output_of_a_layer_is_normalized_before_the_next_layer_and_the_projection():
    network, norm = layers(2, layer_norm=True), torch.nn.LayerNorm(3)
    y, after = network(X, network.initial_states(1), run=run_stepwise)
    first = X.cumsum(dim=0)
    second = norm(first).cumsum(dim=0)
    torch.testing.assert_close(y, norm(second))
    torch.testing.assert_close([state[0] for state in after], [first[-1], second[-1]])


def test_a_residual_connection_adds_the_input_without_normalization():
    network, norm = layers(2, layer_norm=True, skip="residual"), torch.nn.LayerNorm(3)
    y, _ = network(X, network.initial_states(1), run=run_stepwise)
    first = X.cumsum(dim=0)
    torch.testing.assert_close(y, norm(first + norm(first).cumsum(dim=0)))


def test_the_sum_of_all_layers_is_normalized_once():
    network, norm = layers(2, layer_norm=True, skip="sum"), torch.nn.LayerNorm(3)
    y, _ = network(X, network.initial_states(1), run=run_stepwise)
    first = X.cumsum(dim=0)
    torch.testing.assert_close(y, norm(first + norm(first).cumsum(dim=0)))


def test_each_layer_has_its_own_normalization():
    network = layers(2, layer_norm=True)
    with torch.no_grad():
        network.norms[0].weight.fill_(0.0)
        network.norms[0].bias.fill_(2.0)
        network.norms[1].bias.fill_(5.0)
    y, _ = network(X, network.initial_states(1), run=run_stepwise)
    # Equal units have variance zero, so only the bias remains.
    torch.testing.assert_close(y, torch.full_like(y, 5.0))


def test_the_initial_state_is_zero_or_learned_and_the_same_for_the_whole_batch():
    assert [[part.tolist() for part in state] for state in layers(2).initial_states(2)] == [
        [[[0, 0, 0]] * 2]
    ] * 2
    network = layers(2, learn_initial=True)
    assert [tuple(parameter.shape) for parameter in network.parameters()] == [(3,), (3,)]
    assert not any(parameter.any() for parameter in network.parameters())  # Learned from zero on.
    with torch.no_grad():
        network.initial[1][0].copy_(torch.tensor([1.0, 2.0, 3.0]))
    states = network.initial_states(2)
    assert states[1][0].tolist() == [[1, 2, 3], [1, 2, 3]] and not states[0][0].any()
    states[1][0].sum().backward()
    assert network.initial[1][0].grad.tolist() == [2, 2, 2]


def test_every_tensor_of_the_initial_state_is_learned():
    for name in SOME_CELLS:
        cell = cell_of(name)
        network = Recurrence([cell], dropout=Dropout(0.0), skip="none", learn_initial=True).double()
        assert len(network.initial[0]) == cell.num_state_tensors, name
        x, _ = window_of(cell)
        network(x, network.initial_states(2))[0].sum().backward()
        cell.zero_grad()
        assert all(tensor.grad.any() for tensor in network.initial[0]), name


def test_initial_states_have_the_type_of_the_network():
    network = layers(1).double()
    assert network.initial_states(2)[0][0].dtype == torch.float64
    assert "zero" not in network.state_dict()


def test_dropout_acts_only_between_layers():
    torch.manual_seed(1)
    ones = torch.ones(50, 4, 3)
    for number in (1, 2):
        network = layers(number, dropout=Dropout(0.5)).train()
        y, after = network(ones, network.initial_states(4), run=run_stepwise)
        # The input of the first layer is not dropped.
        assert after[0][0].equal(torch.full((4, 3), 50.0))
    # Input of the second layer divided by the output of the first. The output is not dropped.
    scale = y.diff(dim=0) / ones.cumsum(dim=0)[1:]
    assert scale.round(decimals=4).unique().tolist() == [0.0, 2.0]
