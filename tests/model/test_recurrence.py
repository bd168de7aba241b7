"""A cell over a window, in the fastest way and step by step, and what stands around layers of cells."""

import pytest
import torch
from model.cells_table import (
    CELLS,
    FUSED,
    SCANNED,
    SOME_TRACED,
    TIME,
    assert_equal_gradients,
    cell_of,
    every_cell,
    gradients_of,
    loss_of,
    relative_error,
    window_of,
)

from charlm.model import recurrence
from charlm.model.cells.base import Cell, State
from charlm.model.recurrence import Recurrence, run, run_stepwise

ERROR = 1e-12
both_ways = pytest.mark.parametrize("runner", [run, run_stepwise], ids=["run", "stepwise"])


@every_cell
def test_gradients_are_those_of_small_differences(name):
    cell = cell_of(name)
    x, state = window_of(cell)

    def window(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, after = run(cell, x, rest[: cell.num_state_tensors])
        return y, *after  # The weights among `rest` are the cell's own, moved in place.

    assert torch.autograd.gradcheck(window, (x, *state, *cell.parameters()), fast_mode=True)


@every_cell
@pytest.mark.parametrize("time", [1, TIME, 9])
def test_the_fastest_way_and_step_by_step_agree(name, time):
    cell = cell_of(name)
    x, state = window_of(cell, time=time)
    fast, plain = run(cell, x, state), run_stepwise(cell, x, state)
    for part, expected in zip((fast[0], *fast[1]), (plain[0], *plain[1]), strict=True):
        assert relative_error(part, expected) < ERROR
    gradients = [gradients_of(cell, loss_of(*result), x, state) for result in (fast, plain)]
    assert_equal_gradients(*gradients, ERROR)


@every_cell
@both_ways
def test_window_by_window_with_carried_state_equals_one_long_window(name, runner):
    """In gradients too, where the carried state is not cut from them."""
    cell = cell_of(name)
    x, state = window_of(cell)
    whole = runner(cell, x, state)
    outputs, carried = [], state
    for piece in x.split([1, 2, 1]):
        y, carried = runner(cell, piece, carried)
        outputs.append(y)
    pieces = torch.cat(outputs), carried
    for part, expected in zip((pieces[0], *pieces[1]), (whole[0], *whole[1]), strict=True):
        assert relative_error(part, expected) < ERROR
    gradients = [gradients_of(cell, loss_of(*result), x, state) for result in (pieces, whole)]
    assert_equal_gradients(*gradients, ERROR)


@every_cell
@both_ways
def test_earlier_outputs_do_not_depend_on_later_inputs(name, runner):
    cell = cell_of(name)
    x, state = window_of(cell)
    y, _ = runner(cell, x, state)
    changed = x.detach().clone()
    changed[2:] += 1
    z, _ = runner(cell, changed, state)
    assert z[:2].equal(y[:2]) and (z[2:] != y[2:]).any()
    (gradient,) = torch.autograd.grad(y[:2].sum(), x)
    assert gradient[:2].any() and not gradient[2:].any()


@every_cell
def test_each_sequence_of_a_batch_is_read_as_if_it_were_alone(name):
    cell = cell_of(name)
    x, state = window_of(cell)
    y, after = run(cell, x, state)
    # A batch of one is traced as a step of its own, which takes long: for some cells, and step by step for the others.
    alone = run if name in [*FUSED, *SCANNED, *SOME_TRACED] else run_stepwise
    for row in range(x.shape[1]):
        z, last = alone(cell, x[:, row : row + 1], tuple(part[row : row + 1] for part in state))
        for part, expected in zip(
            (z[:, 0], *(part[0] for part in last)),
            (y[:, row], *(part[row] for part in after)),
            strict=True,
        ):
            assert relative_error(part, expected) < ERROR
        (gradient,) = torch.autograd.grad(y[:, row].sum(), x, retain_graph=True)
        assert gradient[:, row].any() and not gradient[:, 1 - row].any()


@every_cell
@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"]
)
def test_outputs_are_the_same_where_no_gradient_is_wanted(name, mode):
    cell = cell_of(name)
    x, state = window_of(cell)
    y, after = run(cell, x, state)
    with mode():
        z, last = run(cell, x, state)
    for part, expected in zip((z, *last), (y, *after), strict=True):
        assert not part.requires_grad
        assert relative_error(part, expected) < ERROR


@every_cell
def test_states_stay_in_their_type_and_shape_under_autocast(name):
    """So that window after window can be read; bf16 holds three digits."""
    cell = cell_of(name, torch.float32)
    x, state = window_of(cell, dtype=torch.float32)
    exact, _ = run_stepwise(cell, x, state)
    for runner in (run, run_stepwise):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            first, carried = runner(cell, x[:2], state)
            second, after = runner(cell, x[2:], carried)
        assert [part.shape for part in after] == [part.shape for part in state]
        assert relative_error(torch.cat([first, second]), exact) < 0.03


@pytest.mark.parametrize("name", [name for name in CELLS if name not in FUSED + SCANNED])
def test_where_no_gradient_is_wanted_nothing_is_traced(name, monkeypatch):
    monkeypatch.setattr(recurrence, "run_window", None)
    with torch.no_grad():
        run(cell_of(name), *window_of(cell_of(name), batch=7))


# Around the layers.


class Sum(Cell):
    """h ← h + x: whatever goes in can be read off what comes out."""

    def step(self, projected: torch.Tensor, state: State) -> State:
        return (state[0] + projected,)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return x


def layers(number: int, **options) -> Recurrence:
    return Recurrence(
        [Sum(3) for _ in range(number)], **{"dropout": 0.0, "skip": "none", **options}
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


def test_a_layer_reads_normalized_what_the_layer_before_gave_and_so_does_the_projection():
    network = layers(2, layer_norm=True)
    (y, after), norm = (
        network(X, network.initial_states(1), run=run_stepwise),
        torch.nn.LayerNorm(3),
    )
    first = X.cumsum(dim=0)
    second = norm(first).cumsum(dim=0)
    torch.testing.assert_close(y, norm(second))
    torch.testing.assert_close([state[0] for state in after], [first[-1], second[-1]])


def test_what_a_residual_connection_adds_is_not_normalized():
    network, norm = layers(2, layer_norm=True, skip="residual"), torch.nn.LayerNorm(3)
    y, _ = network(X, network.initial_states(1), run=run_stepwise)
    first = X.cumsum(dim=0)
    torch.testing.assert_close(y, norm(first + norm(first).cumsum(dim=0)))


def test_what_is_summed_up_is_normalized_once():
    network, norm = layers(2, layer_norm=True, skip="sum"), torch.nn.LayerNorm(3)
    y, _ = network(X, network.initial_states(1), run=run_stepwise)
    first = X.cumsum(dim=0)
    torch.testing.assert_close(y, norm(first + norm(first).cumsum(dim=0)))


def test_every_layer_has_a_normalization_of_its_own():
    network = layers(2, layer_norm=True)
    with torch.no_grad():
        network.norms[0].weight.fill_(0.0)
        network.norms[0].bias.fill_(2.0)
        network.norms[1].bias.fill_(5.0)
    y, _ = network(X, network.initial_states(1), run=run_stepwise)
    torch.testing.assert_close(
        y, torch.full_like(y, 5.0)
    )  # Equal units have no spread: the bias is left.


def test_the_initial_state_is_zero_or_learned_and_one_for_the_whole_batch():
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


@every_cell
def test_every_part_of_a_cell_s_state_can_be_learned(name):
    cell = cell_of(name)
    network = Recurrence([cell], dropout=0.0, skip="none", learn_initial=True).double()
    assert len(network.initial[0]) == cell.num_state_tensors
    x, _ = window_of(cell)
    network(x, network.initial_states(2))[0].sum().backward()
    cell.zero_grad()
    assert all(part.grad.any() for part in network.initial[0])


def test_initial_states_have_the_type_of_the_network():
    network = layers(1).double()
    assert network.initial_states(2)[0][0].dtype == torch.float64
    assert "zero" not in network.state_dict()


def test_dropout_acts_between_layers_alone():
    torch.manual_seed(1)
    ones = torch.ones(50, 4, 3)
    for number in (1, 2):
        network = layers(number, dropout=0.5).train()
        y, after = network(ones, network.initial_states(4), run=run_stepwise)
        assert after[0][0].equal(
            torch.full((4, 3), 50.0)
        )  # What goes into the first layer is whole.
    read = (
        y.diff(dim=0) / ones.cumsum(dim=0)[1:]
    )  # What the second layer saw, as a share of what the first gave.
    assert read.round(decimals=4).unique().tolist() == [
        0.0,
        2.0,
    ]  # What comes out of the last layer is whole.
