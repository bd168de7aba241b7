"""A small cell of every kind and option, a window for it, and the reference's results for both."""

import re
from functools import cache

import numpy as np
import pytest
import reference_cells
import torch
from torch import Tensor

from charlm.config.cell import Cell as CellSection
from charlm.model.cells.base import Cell, State
from charlm.model.cells.registry import make_cell

CELLS: dict[str, dict] = {
    "bag": {"kind": "bag"},
    "elman_tanh": {"kind": "elman", "activation": "tanh"},
    "elman_relu": {"kind": "elman", "activation": "relu"},
    "elman_sigmoid": {"kind": "elman", "activation": "sigmoid"},
    "gru_reset_after": {"kind": "gru", "reset": "after"},
    "gru_reset_before": {"kind": "gru", "reset": "before"},
    "gru_reset_none": {"kind": "gru", "reset": "none"},
    "lstm": {"kind": "lstm"},
    "lstm_peephole_input": {"kind": "lstm", "peepholes": ["input"]},
    "lstm_peephole_forget": {"kind": "lstm", "peepholes": ["forget"]},
    "lstm_peephole_output": {"kind": "lstm", "peepholes": ["output"]},
    "lstm_peepholes_input_output": {"kind": "lstm", "peepholes": ["output", "input"]},
    "lstm_peepholes": {"kind": "lstm", "peepholes": ["input", "forget", "output"]},
    "lstm_full_peephole_output": {
        "kind": "lstm",
        "peepholes": ["output"],
        "peephole_weights": "full",
    },
    "lstm_full_peepholes_input_forget": {
        "kind": "lstm",
        "peepholes": ["input", "forget"],
        "peephole_weights": "full",
    },
    "lstm_full_peepholes": {
        "kind": "lstm",
        "peepholes": ["input", "forget", "output"],
        "peephole_weights": "full",
    },
    "lstm_without_input_gate": {"kind": "lstm", "without": ["input_gate"]},
    "lstm_without_forget_gate": {"kind": "lstm", "without": ["forget_gate"]},
    "lstm_without_output_gate": {"kind": "lstm", "without": ["output_gate"]},
    "lstm_without_input_activation": {"kind": "lstm", "without": ["input_activation"]},
    "lstm_without_output_activation": {"kind": "lstm", "without": ["output_activation"]},
    "lstm_without_any_gate": {
        "kind": "lstm",
        "without": ["input_gate", "forget_gate", "output_gate"],
    },
    "lstm_coupled": {"kind": "lstm", "coupled": True},
    "lstm_capped": {"kind": "lstm", "capped": True},
    "lstm_capped_peepholes": {
        "kind": "lstm",
        "capped": True,
        "peepholes": ["input", "forget", "output"],
    },
    "lstm_full_gate_recurrence": {"kind": "lstm", "full_gate_recurrence": True},
    "lstm_coupled_peepholes_gate_recurrence": {
        "kind": "lstm",
        "coupled": True,
        "peepholes": ["input", "output"],
        "full_gate_recurrence": True,
    },
    "lstm_coupled_full_peephole_without_output_activation": {
        "kind": "lstm",
        "coupled": True,
        "peepholes": ["input"],
        "peephole_weights": "full",
        "without": ["output_activation"],
    },
    "lstm_gate_recurrence_peepholes_without_forget_gate": {
        "kind": "lstm",
        "full_gate_recurrence": True,
        "peepholes": ["input", "output"],
        "without": ["forget_gate"],
    },
    "lstm_gate_recurrence_without_all_but_forget_gate": {
        "kind": "lstm",
        "full_gate_recurrence": True,
        "without": ["input_gate", "output_gate", "input_activation", "output_activation"],
    },
    "nested_lstm_depth_2": {"kind": "nested_lstm", "depth": 2},
    "nested_lstm_depth_3": {"kind": "nested_lstm", "depth": 3},
    "mogrifier_lstm_1_round": {"kind": "mogrifier_lstm", "rounds": 1, "rank": None},
    "mogrifier_lstm_2_rounds": {"kind": "mogrifier_lstm", "rounds": 2, "rank": None},
    "mogrifier_lstm_5_rounds": {"kind": "mogrifier_lstm", "rounds": 5, "rank": None},
    "mogrifier_lstm_1_round_rank_2": {"kind": "mogrifier_lstm", "rounds": 1, "rank": 2},
    "mogrifier_lstm_2_rounds_rank_2": {"kind": "mogrifier_lstm", "rounds": 2, "rank": 2},
    "mogrifier_lstm_5_rounds_rank_2": {"kind": "mogrifier_lstm", "rounds": 5, "rank": 2},
    "min_gru": {"kind": "min_gru"},
    "min_lstm": {"kind": "min_lstm"},
    "rg_lru": {"kind": "rg_lru"},
    "hgrn": {"kind": "hgrn"},
    "slstm": {"kind": "slstm"},
    "diagonal_gru": {"kind": "diagonal_gru"},
    "diagonal_lstm": {"kind": "diagonal_lstm"},
}
FUSED = ["elman_tanh", "elman_relu", "gru_reset_after", "lstm"]
SCANNED = ["bag", "min_gru", "min_lstm", "rg_lru", "hgrn"]
WRITTEN = ["slstm"]  # A loop with a backward pass of its own.
TRACED = [name for name in CELLS if name not in FUSED + SCANNED + WRITTEN]
# Together these use states, products and results in every way that the cells of TRACED do.
SOME_TRACED = [
    "elman_sigmoid",
    "lstm_full_peepholes",
    "lstm_coupled_peepholes_gate_recurrence",
    "nested_lstm_depth_3",
    "mogrifier_lstm_2_rounds_rank_2",
    "diagonal_gru",
]
# One cell per way to run a window, and all of SOME_TRACED.
SOME_CELLS = ["gru_reset_after", "lstm", "min_lstm", *WRITTEN, *SOME_TRACED]
INPUT, HIDDEN, TIME, BATCH = 3, 4, 4, 2
ENTRIES = 16  # Largest number of entries of a tensor whose gradient is measured; drawn by seed.
Gradients = dict[str, np.ndarray]

every_cell = pytest.mark.parametrize("name", CELLS)
some_cells = pytest.mark.parametrize("name", SOME_CELLS)
written_and_traced_cells = pytest.mark.parametrize("name", [*WRITTEN, *SOME_TRACED])
some_traced_cells = pytest.mark.parametrize("name", SOME_TRACED)


def new_cell(name: str, dtype: torch.dtype = torch.float64) -> Cell:
    """Return a cell with random weights, biases and peepholes: zeros would hide a wrong one."""
    torch.manual_seed(1)
    cell = make_cell(CellSection(**CELLS[name]), INPUT, HIDDEN).double()
    for tensor in cell.parameters():
        torch.nn.init.normal_(tensor, std=0.7)
    return cell.to(dtype)


@cache
def cell_of(name: str, dtype: torch.dtype = torch.float64) -> Cell:
    """Return the cell that tests share which do not change it: its step is then traced once."""
    return new_cell(name, dtype)


def window_of(
    cell: Cell,
    *,
    time: int = TIME,
    batch: int = BATCH,
    dtype: torch.dtype = torch.float64,
    seed: int = 2,
) -> tuple[Tensor, State]:
    """Return random inputs and a state, all of which require gradients."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return (
            torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        )

    return random(time, batch, INPUT), tuple(
        random(batch, cell.hidden_size) for _ in range(cell.num_state_tensors)
    )


def loss_of(y: Tensor, after: State) -> Tensor:
    """Return a sum over outputs and last state in which each entry has its own weight."""
    parts = [
        (part * weights_for(part.shape, number).to(part.dtype)).sum()
        for number, part in enumerate((y, *after))
    ]
    return torch.stack(parts).sum()


@cache
def weights_for(shape: tuple[int, ...], part: int) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(10 + part), dtype=torch.float64
    )


def gradients_of(cell: Cell, loss: Tensor, x: Tensor, state: State, **how: bool) -> Gradients:
    """Return the gradients of inputs, state and weights by the names of the reference."""
    names = ["x", *(f"state.{part}" for part in range(cell.num_state_tensors)), *weights_of(cell)]
    tensors = [x, *state, *cell.parameters()]
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True, **how)
    return {
        name: gradient.double().numpy() for name, gradient in zip(names, gradients, strict=True)
    }


def relative_error(actual: np.ndarray | Tensor, expected: np.ndarray | Tensor) -> float:
    """Return the largest error divided by the largest value, over entries not expected to be NaN."""
    actual, expected = (
        np.asarray(value.detach().double() if isinstance(value, Tensor) else value)
        for value in (actual, expected)
    )
    assert actual.shape == expected.shape
    measured = ~np.isnan(expected)
    largest = abs(expected[measured]).max()
    return float(abs(actual - expected)[measured].max() / (largest or 1.0))


def assert_equal_gradients(actual: Gradients, expected: Gradients, tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    errors = {name: relative_error(actual[name], expected[name]) for name in expected}
    assert max(errors.values()) < tolerance, errors


# The reference.

RENAMED = [
    (r"^encoder\.", ""),
    (r"peepholes\.(\w+)\.weight$", r"peephole_\1"),
    (r"(^|\.\d\.)input\.(weight|bias)$", r"\1\2_ih"),
    (r"recurrent\.weight$", "weight_hh"),
    (r"diagonals\.weight$", "weight_hh"),
    (r"candidate\.weight$", "weight_ch"),
    (r"gate_recurrence\.weight$", "weight_gates"),
    (r"(mogrifier\.\d)\.0\.weight$", r"\1.right"),
    (r"(mogrifier\.\d)\.1\.weight$", r"\1.left"),
]


def reference_weights(module: torch.nn.Module, prefix: str = "") -> reference_cells.Weights:
    """Return a module's weights by the names of the reference, in the module's order."""
    weights = {}
    for name, tensor in module.named_parameters(prefix):
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        weights[name] = tensor.detach().double().numpy().copy()
    return weights


def weights_of(cell: Cell) -> reference_cells.Weights:
    """Return a cell's weights by the names that the reference's `step` uses."""
    return {
        name.removeprefix("kernel.").removesuffix("_l0"): weight
        for name, weight in reference_weights(cell).items()
    }


def reference_run(name: str, given: reference_cells.Weights) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return outputs, (time, batch, hidden), and last state for `x`, `state.0` ... and weights."""
    options = CellSection(**CELLS[name]).model_dump()
    # A sigmoid Elman network does not have torch's second bias.
    weights = {"bias_hh": np.zeros(HIDDEN)} | given
    outputs, after = [], []
    for row in range(given["x"].shape[1]):
        state = [given[key][row] for key in given if key.startswith("state.")]
        y, last = reference_cells.run(options["kind"], options, given["x"][:, row], state, weights)
        outputs.append(y)
        after.append(last)
    return np.stack(outputs, axis=1), [np.stack(parts) for parts in zip(*after, strict=True)]


@cache
def reference_answers(name: str) -> tuple[np.ndarray, list[np.ndarray], Gradients]:
    """Return outputs, last state and gradients of `cell_of(name)` over its `window_of`."""
    cell = new_cell(name)
    x, state = window_of(cell)
    given = {"x": x, **{f"state.{number}": part for number, part in enumerate(state)}}
    given = {key: tensor.detach().numpy() for key, tensor in given.items()} | weights_of(cell)

    def loss(changed: reference_cells.Weights) -> float:
        y, after = reference_run(name, changed)
        return float(
            sum(
                (part * weights_for(part.shape, n).numpy()).sum()
                for n, part in enumerate((y, *after))
            )
        )

    entries = [(key, index) for key, value in given.items() for index in entries_of(value)]
    numbers = reference_cells.numerical_gradients(loss, given, entries)
    gradients = {key: np.full_like(value, np.nan) for key, value in given.items()}
    for (key, index), number in zip(entries, numbers, strict=True):
        gradients[key][index] = number
    y, after = reference_run(name, given)
    return y, after, gradients


def entries_of(value: np.ndarray) -> list[tuple[int, ...]]:
    """Return indices of an array: all of a small one, a sample of a larger one."""
    flat = np.random.default_rng(4).permutation(value.size)[:ENTRIES]
    return list(zip(*np.unravel_index(flat, value.shape), strict=True))
