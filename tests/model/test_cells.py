"""Every cell with every option: its step against the reference, and its initial weights."""

import pytest
import torch
from model.cells_table import (
    CELLS,
    FUSED,
    HIDDEN,
    INPUT,
    SCANNED,
    SOME_TRACED,
    TRACED,
    WRITTEN,
    assert_equal_gradients,
    cell_of,
    every_cell,
    gradients_of,
    loss_of,
    reference_answers,
    relative_error,
    window_of,
)

from charlm.config.cell import CELL_KINDS, CELL_OPTIONS
from charlm.config.cell import Cell as CellSection
from charlm.model.cells.base import Cell, FusedCell, LinearCell
from charlm.model.cells.registry import make_cell
from charlm.model.cells.slstm import SLSTM
from charlm.model.recurrence import run, run_stepwise


def assert_agrees_with_reference(
    name: str, runner, dtype: torch.dtype, *, output_error: float, gradient_error: float
) -> None:
    cell = cell_of(name, dtype)
    x, state = window_of(cell, dtype=dtype)
    y, after = runner(cell, x, state)
    expected, expected_after, expected_gradients = reference_answers(name)
    for tensor, wanted in zip((y, *after), (expected, *expected_after), strict=True):
        assert tensor.dtype == dtype, name
        assert relative_error(tensor, wanted) < output_error, name
    gradients = gradients_of(cell, loss_of(y, after), x, state)
    assert_equal_gradients(gradients, expected_gradients, gradient_error)


@every_cell
def test_a_step_gives_the_outputs_states_and_gradients_of_the_reference(name):
    """Gradients of the reference are central differences, exact to seven digits.

    test_recurrence.py compares `run` with `run_stepwise`.
    """
    assert_agrees_with_reference(
        name, run_stepwise, torch.float64, output_error=1e-12, gradient_error=1e-7
    )


def test_every_cell_agrees_with_the_reference_in_fp32():
    for name in CELLS:
        # Tracing is slow, and its result depends on the step, not on the type of its tensors.
        runs_fast = name in (*FUSED, *SCANNED, *WRITTEN, *SOME_TRACED)
        for runner in (run_stepwise, run) if runs_fast else (run_stepwise,):
            assert_agrees_with_reference(
                name, runner, torch.float32, output_error=1e-5, gradient_error=1e-4
            )


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
        "capped": (False, True),
        "full_gate_recurrence": (False, True),
        "without": (*(f"{gate}_gate" for gate in gates), "input_activation", "output_activation"),
        "depth": (2, 3),
        "rounds": (1, 2, 5),
        "rank": (None, 2),
    }.items():
        assert {(option, value) for value in values} <= seen, option


def _alternatives(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def test_a_window_runs_by_kernel_or_scan_where_the_equations_allow():
    assert [name for name in CELLS if isinstance(cell_of(name), FusedCell)] == FUSED
    assert [name for name in CELLS if isinstance(cell_of(name), LinearCell)] == SCANNED
    assert [name for name in CELLS if isinstance(cell_of(name), SLSTM)] == WRITTEN
    assert len(TRACED) + len(FUSED) + len(SCANNED) + len(WRITTEN) == len(CELLS)


# Initial weights.

# Number of (hidden, hidden) blocks of recurrent weights: of gates, candidate and inner LSTMs.
RECURRENT_BLOCKS = {
    "elman_tanh": 1,
    "elman_relu": 1,
    "elman_sigmoid": 1,
    "gru_reset_after": 3,
    "gru_reset_before": 3,
    "gru_reset_none": 2,
    "nested_lstm_depth_2": 8,
    "nested_lstm_depth_3": 12,
    **{name: 4 for name in CELLS if name.startswith(("lstm", "mogrifier"))},
    "slstm": 4,
    **{name: 3 for name in CELLS if "without" in name and "gate" in name},
    **{name: 3 for name in CELLS if "coupled" in name},
    "lstm_without_any_gate": 1,
    "lstm_gate_recurrence_without_all_but_forget_gate": 2,
}


def initial(name: str, gain: float = 1.0) -> Cell:
    torch.manual_seed(5)
    return make_cell(CellSection(**CELLS[name]), INPUT, HIDDEN, gain=gain)


def recurrent_blocks(cell: Cell) -> list[torch.Tensor]:
    """Return the recurrent weights of each gate, (hidden, hidden), those of inner LSTMs included."""
    names = ("recurrent.weight", "candidate.weight", "kernel.weight_hh_l0")
    matrices = [weight for name, weight in cell.named_parameters() if name in names]
    matrices += [
        weight[:, HIDDEN:]
        for name, weight in cell.named_parameters()
        if name.startswith("inner") and weight.dim() == 2
    ]
    return [block for weight in matrices for block in weight.detach().split(HIDDEN)]


def test_recurrent_matrices_start_orthogonal_times_the_gain_gate_by_gate():
    for name in CELLS:
        for gain in (1.0, 1.7):
            blocks = recurrent_blocks(initial(name, gain))
            assert len(blocks) == RECURRENT_BLOCKS.get(name, 0), name
            for block in blocks:
                torch.testing.assert_close(
                    block @ block.T, gain**2 * torch.eye(HIDDEN), atol=1e-5, rtol=0, msg=name
                )


def test_input_matrices_start_uniform_within_the_bounds_of_glorot_gate_by_gate():
    """Glorot and Bengio 2010: ±√(6 / (in + out)), so the variance is 2 / (in + out)."""
    for name in CELLS:
        torch.manual_seed(5)
        input_size, hidden_size = (60, 60) if CELLS[name].get("depth") else (40, 60)
        cell = make_cell(CellSection(**CELLS[name]), input_size, hidden_size)
        for parameter, weight in cell.named_parameters():
            if parameter in ("input.weight", "kernel.weight_ih_l0") or (
                parameter.startswith("inner") and weight.dim() == 2
            ):
                for block in weight.detach()[:, :input_size].split(hidden_size):
                    bound = (6 / (input_size + hidden_size)) ** 0.5
                    assert 0.97 * bound < block.abs().max() <= bound, name
                    assert block.std().item() == pytest.approx(bound / 3**0.5, rel=0.05), name
            elif parameter == "gate_recurrence.weight":
                assert_glorot(weight, rows=hidden_size, name=name)
            elif parameter.startswith("mogrifier"):
                assert_glorot(weight, rows=len(weight), name=name)


def assert_glorot(weight: torch.Tensor, *, rows: int, name: str) -> None:
    """Check that each block of `rows` rows is drawn as a matrix of its own."""
    bound = (6 / (rows + weight.shape[1])) ** 0.5
    for block in weight.detach().split(rows):
        assert 0.8 * bound < block.abs().max() <= bound, name


def test_biases_start_at_zero_except_that_of_the_gate_that_keeps_the_memory():
    """Gers et al. 2000 and Jozefowicz et al. 2015: an LSTM's forget gate is open, its bias 1."""
    for name in CELLS:
        section = CellSection(**CELLS[name])
        sums: dict[str, torch.Tensor] = {}  # torch's LSTM adds two biases.
        for parameter, bias in initial(name).named_parameters():
            if "bias" in parameter:
                place = "input" if parameter.startswith(("kernel", "input")) else parameter
                sums[place] = sums.get(place, 0) + bias.detach()
        for place, bias in sums.items():
            expected = expected_bias(section, place, torch.zeros_like(bias))
            torch.testing.assert_close(bias, expected, rtol=0, atol=0, msg=f"{name}: {place}")


def expected_bias(section: CellSection, place: str, bias: torch.Tensor) -> torch.Tensor:
    """Set the entries of the gate that keeps the memory in a bias of zeros."""
    has_forget_gate = "lstm" in section.kind and section.kind != "min_lstm"
    if section.coupled:  # f = 1 − i: the input gate is closed where the forget gate is open.
        bias[:HIDDEN] = -1
    elif has_forget_gate and "forget_gate" not in section.without:
        block = 0 if "input_gate" in section.without and place == "input" else 1
        bias[block * HIDDEN : (block + 1) * HIDDEN] = 1
    return bias


def test_peepholes_start_at_zero():
    for name in CELLS:
        peepholes = {
            parameter: weight
            for parameter, weight in initial(name).named_parameters()
            if "peephole" in parameter
        }
        assert list(peepholes) == [
            f"peepholes.{gate}.weight"
            for gate in ("input", "forget", "output")
            if gate in CELLS[name].get("peepholes", [])
        ], name
        assert not any(weight.any() for weight in peepholes.values()), name


def test_an_rg_lru_with_open_gates_starts_with_decays_spread_over_0_9_to_0_999():
    """De et al. 2024, section 2.4: a^c is uniform in this range."""
    torch.manual_seed(5)
    cell = make_cell(CellSection(kind="rg_lru"), 1, 4000)
    with torch.no_grad():
        cell.input.bias.fill_(50.0)  # σ is 1.
        decay, _ = cell.coefficients(cell.project(torch.zeros(1)))
    assert 0.9 <= decay.min() < 0.901 and 0.998 < decay.max() <= 0.999
    assert decay.mean().item() == pytest.approx(0.9495, abs=0.002)


def test_the_lower_bound_of_an_hgrn_is_zero_in_the_first_layer_and_rises_from_layer_to_layer():
    """Qin et al. 2023, section 3.2: with equal parameters, layer k of n has (k − 1) / n."""
    cells = [make_cell(CellSection(kind="hgrn"), 2, 3) for _ in range(4)]
    for number, cell in enumerate(cells):
        cell.join_layers(cells, number)
    for number, cell in enumerate(cells):
        torch.testing.assert_close(cell.lower_bound(), torch.full((3,), number / 4))
        with torch.no_grad():
            cell.input.bias.fill_(-50.0)  # σ is 0: the forget gate is at its bound.
            decay, _ = cell.coefficients(cell.project(torch.zeros(2)))
        torch.testing.assert_close(decay, cell.lower_bound().detach())
    with torch.no_grad():
        cells[3].bound.copy_(torch.tensor([-9.0, 0.0, 9.0]))
    bounds = torch.stack([cell.lower_bound() for cell in cells])
    assert not bounds[0].any() and (bounds.diff(dim=0) > 0).all() and (bounds < 1).all()


def test_a_cell_has_the_number_of_parameters_of_its_equations():
    for name in CELLS:
        size = sum(weight.numel() for weight in initial(name).parameters())
        assert size == count_weights(name), name


def count_weights(name: str) -> int:
    """Return the number of input weights, recurrent weights, biases, and weights of options."""
    section, units, matrix = CellSection(**CELLS[name]), HIDDEN, HIDDEN * HIDDEN
    if section.kind == "bag":
        return 0
    if section.kind in ("min_gru", "min_lstm"):
        return {"min_gru": 2, "min_lstm": 3}[section.kind] * (INPUT + 1) * HIDDEN
    if section.kind in ("rg_lru", "hgrn"):
        return {"rg_lru": 3, "hgrn": 2}[section.kind] * (INPUT + 1) * HIDDEN + HIDDEN
    if section.kind in ("diagonal_gru", "diagonal_lstm"):
        return {"diagonal_gru": 3, "diagonal_lstm": 4}[section.kind] * (INPUT + 2) * HIDDEN
    blocks = RECURRENT_BLOCKS[name] if section.kind != "nested_lstm" else 4
    size = blocks * (INPUT * HIDDEN + matrix + units) + (blocks * units if name in FUSED else 0)
    size += len(section.peepholes) * (matrix if section.peephole_weights == "full" else units)
    size += ((blocks - 1) * units) ** 2 if section.full_gate_recurrence else 0
    if section.kind == "nested_lstm":
        size += (section.depth - 1) * (4 * 2 * matrix + 4 * units)
    if section.kind == "mogrifier_lstm":
        full, low = INPUT * HIDDEN, (INPUT + HIDDEN) * (section.rank or 0)
        size += section.rounds * (full if section.rank is None else low)
    return size


def test_a_cell_may_have_one_unit_and_one_input():
    for name in CELLS:
        cell = make_cell(CellSection(**CELLS[name]), 1, 1)
        state = tuple(torch.zeros(1, 1) for _ in range(cell.num_state_tensors))
        y, after = run_stepwise(cell, torch.ones(2, 1, 1), state)
        assert y.shape == (2, 1, 1) and all(tensor.shape == (1, 1) for tensor in after), name


def test_a_bag_is_as_wide_as_its_input():
    assert make_cell(CellSection(kind="bag"), 3, 4).hidden_size == 3


def test_one_seed_gives_one_cell_and_another_seed_another():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(make_cell(CellSection(kind="nested_lstm"), 3, 4).inner[0].weight)
    assert weights[0].equal(weights[1]) and not weights[0].equal(weights[2])
