"""Training speed of every recurrence, relative to `torch.nn.LSTM` of the same size and precision.

Timed are the forward pass, the loss and the backward pass of one layer over a window of random
inputs of 64. Embedding, projection and optimizer are left out, because they are the same for all.
Each recurrence is timed in turn with nn.LSTM, round by round, and the median of the ratios is
printed, so that drift of the machine's speed does not matter. The columns:

    tokens/s    tokens per second of the recurrence
    ratio       tokens per second relative to nn.LSTM
    arithmetic  multiplications in matrix products per token, relative to an LSTM
    rate        multiplications per second relative to nn.LSTM: for recurrences with more of them
    bare        tokens per second relative to torch's own layer, for fused recurrences

    python benchmarks/cells.py --hidden 256 512 --precision fp32 bf16
    python benchmarks/cells.py --cells lstm min_gru rg_lru
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from measuring import (
    PRECISIONS,
    add_options,
    add_series,
    argument_parser,
    measure_in_turn,
    median_ratio,
    print_environment,
    print_results,
    run_main,
    seconds_of,
)
from runs import count_multiplications
from torch import Tensor, nn

from charlm.config.cell import Cell as CellSection
from charlm.model.cells.base import Cell, FusedCell, LinearCell
from charlm.model.cells.registry import make_cell
from charlm.model.log_probabilities import autocast
from charlm.model.recurrence import run
from charlm.training.devices import choose_device, fast_math

INPUT_SIZE = 64
WARM_UP_ROUNDS = 3
PEEPHOLES = ["input", "forget", "output"]
CELLS: dict[str, dict[str, Any]] = {
    "bag": {"kind": "bag"},
    "elman": {"kind": "elman"},
    "elman, relu": {"kind": "elman", "activation": "relu"},
    "elman, sigmoid": {"kind": "elman", "activation": "sigmoid"},
    "gru": {"kind": "gru"},
    "gru, reset before": {"kind": "gru", "reset": "before"},
    "gru, reset none": {"kind": "gru", "reset": "none"},
    "lstm": {"kind": "lstm"},
    "lstm, peepholes": {"kind": "lstm", "peepholes": PEEPHOLES},
    "lstm, full peepholes": {"kind": "lstm", "peepholes": PEEPHOLES, "peephole_weights": "full"},
    "lstm, no input gate": {"kind": "lstm", "without": ["input_gate"]},
    "lstm, no forget gate": {"kind": "lstm", "without": ["forget_gate"]},
    "lstm, no output gate": {"kind": "lstm", "without": ["output_gate"]},
    "lstm, no input activation": {"kind": "lstm", "without": ["input_activation"]},
    "lstm, no output activation": {"kind": "lstm", "without": ["output_activation"]},
    "lstm, coupled": {"kind": "lstm", "coupled": True},
    "lstm, full gate recurrence": {"kind": "lstm", "full_gate_recurrence": True},
    "nested_lstm": {"kind": "nested_lstm"},
    "mogrifier_lstm": {"kind": "mogrifier_lstm"},
    "min_gru": {"kind": "min_gru"},
    "min_lstm": {"kind": "min_lstm"},
    "rg_lru": {"kind": "rg_lru"},
    "hgrn": {"kind": "hgrn"},
    "slstm": {"kind": "slstm"},
    "diagonal_gru": {"kind": "diagonal_gru"},
    "diagonal_lstm": {"kind": "diagonal_lstm"},
}
BARE_LAYERS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Setting(NamedTuple):
    """Sizes of the inputs, and precision and device of the computation, of one table."""

    hidden: int
    batch: int
    window: int
    precision: torch.dtype
    device: torch.device


def main() -> None:
    """Time all recurrences; print a table per hidden size and precision, and all as JSON."""
    options = arguments()
    device = choose_device(options.device)
    print_environment(str(device), f"batch {options.batch}, window {options.window}")
    with fast_math(device):  # As in a training.
        rows = measure_all(options, device)
    print_results(device=str(device), batch=options.batch, window=options.window, rows=rows)


def measure_all(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Time all recurrences with all sizes and precisions; print a table for each pair of them."""
    rows = []
    for precision, hidden in itertools.product(options.precision, options.hidden):
        setting = Setting(hidden, options.batch, options.window, PRECISIONS[precision], device)
        print(f"\nhidden {hidden}, {precision}; nn.LSTM = 1")
        print(
            f"{'recurrence':<27} {'runs as':<8} {'tokens/s':>9} {'ratio':>6} "
            f"{'arithmetic':>10} {'rate':>6} {'bare':>6}"
        )
        for name in options.cells:
            row = measure(name, setting, options.rounds)
            rows.append({"hidden": hidden, "precision": precision, **row})
            print(format_row(row), flush=True)
    return rows


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_cells(parser)
    add_options(parser, hidden=[256, 512], precision=["fp32"], batch=32, window=64, rounds=11)
    add_options(parser, device="auto")
    return parser.parse_args()


def add_cells(parser: argparse.ArgumentParser, default: Sequence[str] = tuple(CELLS)) -> None:
    """Add the option `--cells`, names of `CELLS`."""
    add_series(parser, "--cells", list(default), choices=CELLS, help="recurrences")


def cell_override(name: str) -> str:
    """Return the override that makes a recurrence of `CELLS` that of a run."""
    return f"model.cell={json.dumps(CELLS[name])}"


def measure(name: str, setting: Setting, rounds: int) -> dict[str, Any]:
    """Time one recurrence beside nn.LSTM and, if it is fused, beside torch's own layer."""
    device = setting.device
    x = torch.randn(setting.window, setting.batch, INPUT_SIZE, device=device, requires_grad=True)
    cell = make_cell(CellSection(**CELLS[name]), INPUT_SIZE, setting.hidden).to(device)
    state = tuple(
        torch.zeros(setting.batch, cell.hidden_size, device=device)
        for _ in range(cell.num_state_tensors)
    )
    step = training_step(lambda: run(cell, x, state)[0], cell, x, setting)
    ratio, seconds = compare(step, torch_step(nn.LSTM, x, setting), rounds, device)
    arithmetic = count_multiplications(cell) / lstm_multiplications(setting.hidden)
    row = {
        "recurrence": name,
        "runs_as": execution(cell),
        "tokens_per_second": setting.window * setting.batch / seconds,
        "ratio": ratio,
        "arithmetic": arithmetic,
        "rate": ratio * arithmetic,
    }
    if name in BARE_LAYERS:
        layer = torch_step(BARE_LAYERS[name], x, setting)
        row["bare"] = compare(step, layer, 2 * rounds, device)[0]
    return row


def format_row(row: dict[str, Any]) -> str:
    """Return the line of one recurrence."""
    bare = f"{row['bare']:.2f}" if "bare" in row else ""
    return (
        f"{row['recurrence']:<27} {row['runs_as']:<8} {row['tokens_per_second']:>9,.0f} "
        f"{row['ratio']:>6.2f} {row['arithmetic']:>10.2f} {row['rate']:>6.2f} {bare:>6}"
    )


def training_step(
    forward: Callable[[], Tensor], module: nn.Module, x: Tensor, setting: Setting
) -> Callable[[], None]:
    """Return a function that takes one training step without the optimizer."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        with autocast(setting.device, setting.precision):
            y = forward()
        y.float().square().mean().backward()

    return step


def torch_step(kind: type[nn.RNNBase], x: Tensor, setting: Setting) -> Callable[[], None]:
    """Return a training step of a layer of torch."""
    layer = kind(INPUT_SIZE, setting.hidden).to(setting.device)
    return training_step(lambda: layer(x)[0], layer, x, setting)


def compare(
    ours: Callable[[], None], theirs: Callable[[], None], rounds: int, device: torch.device
) -> tuple[float, float]:
    """Return the median over the rounds of their seconds / our seconds, and our median seconds."""
    steps = {
        "ours": partial(seconds_of, ours, device),
        "theirs": partial(seconds_of, theirs, device),
    }
    measure_in_turn(steps, WARM_UP_ROUNDS)
    seconds = measure_in_turn(steps, rounds)
    ratio = median_ratio(seconds["theirs"], seconds["ours"])
    return ratio, statistics.median(seconds["ours"])


def execution(cell: Cell) -> str:
    """Return how a recurrence is computed over a window."""
    if isinstance(cell, FusedCell):
        return "fused"
    return "scan" if isinstance(cell, LinearCell) else "steps"


def lstm_multiplications(hidden: int) -> int:
    """Return the multiplications per token by the matrices of an LSTM."""
    return 4 * hidden * (INPUT_SIZE + hidden)


if __name__ == "__main__":
    run_main(main)
