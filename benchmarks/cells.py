"""Training speed of every recurrence, relative to `torch.nn.LSTM` of the same size and precision.

Timed are the forward pass, the loss and the backward pass of one layer over a window, with inputs
of 64. Embedding, projection and optimizer are left out, because they are the same for all. Each
recurrence is timed in turn with nn.LSTM, round by round, and the median of the ratios is printed,
so that drift of the machine's speed does not matter. The columns:

    tokens/s    tokens per second of the recurrence
    ratio       tokens per second relative to nn.LSTM
    arithmetic  multiplications in matrix products per token, relative to an LSTM
    rate        multiplications per second relative to nn.LSTM: for recurrences with more of them
    bare        tokens per second relative to torch's own layer, for fused recurrences

    python benchmarks/cells.py --hidden 256 --hidden 512 --precision fp32 --precision bf16
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from measuring import (
    PRECISIONS,
    argument_parser,
    check_names,
    count_multiplications,
    measure_in_turn,
    median_ratio,
    print_environment,
    run_main,
    seconds_of,
)
from torch import Tensor, nn

from charlm.config.cell import Cell as CellSection
from charlm.model.cells.base import Cell, FusedCell, LinearCell
from charlm.model.cells.registry import make_cell
from charlm.model.log_probabilities import autocast
from charlm.model.recurrence import run
from charlm.training.devices import choose_device

INPUT_SIZE = 64
WARM_UP_ROUNDS = 3
PEEPHOLES = ["input", "forget", "output"]
CELLS: dict[str, dict[str, Any]] = {
    "bag": {"kind": "bag"},
    "elman": {"kind": "elman"},
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
    "nested lstm": {"kind": "nested_lstm"},
    "mogrifier lstm": {"kind": "mogrifier_lstm"},
    "min gru": {"kind": "min_gru"},
    "min lstm": {"kind": "min_lstm"},
    "rg-lru": {"kind": "rg_lru"},
    "hgrn": {"kind": "hgrn"},
    "slstm": {"kind": "slstm"},
    "diagonal gru": {"kind": "diagonal_gru"},
    "diagonal lstm": {"kind": "diagonal_lstm"},
}
BARE_LAYERS = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


@dataclass(frozen=True)
class Setting:
    """Sizes and precision of one table.

    Attributes:
        hidden: Hidden size.
        batch: Number of sequences.
        window: Number of tokens per sequence.
        rounds: Number of timed rounds.
        precision: Type of the matrix products.
        device: Device of the computation.
    """

    hidden: int
    batch: int
    window: int
    rounds: int
    precision: torch.dtype
    device: torch.device


def main() -> None:
    """Time all recurrences and print a table per hidden size and precision."""
    options = arguments()
    device = choose_device(options.device)
    torch.set_flush_denormal(True)
    print_environment(str(device), f"batch {options.batch}, window {options.window}")
    for precision in options.precision or ["fp32"]:
        for hidden in options.hidden or [256, 512]:
            setting = Setting(
                hidden=hidden,
                batch=options.batch,
                window=options.window,
                rounds=options.rounds,
                precision=PRECISIONS[precision],
                device=device,
            )
            print(f"\nhidden {hidden}, {precision}; nn.LSTM = 1")
            print(
                f"{'recurrence':<27} {'runs as':<8} {'tokens/s':>9} {'ratio':>6} "
                f"{'arithmetic':>10} {'rate':>6} {'bare':>6}"
            )
            for name in options.cells or CELLS:
                report(name, setting)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "cells", nargs="*", metavar="CELL", help=f"one of: {'; '.join(CELLS)} [all]"
    )
    parser.add_argument(
        "--hidden", type=int, action="append", help="hidden size; can be repeated [256 and 512]"
    )
    parser.add_argument(
        "--precision", action="append", choices=PRECISIONS, help="can be repeated [fp32]"
    )
    parser.add_argument("--batch", type=int, default=32, help="sequences [32]")
    parser.add_argument("--window", type=int, default=64, help="tokens per sequence [64]")
    parser.add_argument("--rounds", type=int, default=11, help="timed rounds [11]")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda [auto]")
    options = parser.parse_args()
    check_names(parser, "CELL", options.cells, CELLS)
    return options


def report(name: str, setting: Setting) -> None:
    """Time one recurrence beside nn.LSTM and, if it is fused, beside torch's own layer."""
    x = torch.randn(
        setting.window, setting.batch, INPUT_SIZE, device=setting.device, requires_grad=True
    )
    cell = make_cell(CellSection(**CELLS[name]), INPUT_SIZE, setting.hidden).to(setting.device)
    state = tuple(
        torch.zeros(setting.batch, cell.hidden_size, device=setting.device)
        for _ in range(cell.num_state_tensors)
    )
    step = training_step(lambda: run(cell, x, state)[0], cell, x, setting)
    lstm = torch_step(nn.LSTM, x, setting)
    ratio, seconds = compare(step, lstm, setting.rounds, setting.device)
    bare = ""
    if name in BARE_LAYERS:
        layer = torch_step(BARE_LAYERS[name], x, setting)
        bare = f"{compare(step, layer, 2 * setting.rounds, setting.device)[0]:.2f}"
    arithmetic = count_multiplications(cell) / lstm_multiplications(setting.hidden)
    print(
        f"{name:<27} {execution(cell):<8} {setting.window * setting.batch / seconds:>9,.0f} "
        f"{ratio:>6.2f} {arithmetic:>10.2f} {ratio * arithmetic:>6.2f} {bare:>6}",
        flush=True,
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
