"""Tokens per second of every recurrence while it trains, as a ratio to `torch.nn.LSTM` at the same size and precision.

One layer, inputs of 64: forward, loss, backward over a window, as in training, without embedding, projection and
optimizer, which are the same for all. Each recurrence is timed in turn with nn.LSTM, round by round, and the median of
the ratios is given: a machine whose speed drifts slows both. The rate is that of the arithmetic in matrix products: a
recurrence with more of it than an LSTM is compared by that.

    python benchmarks/cells.py --hidden 256 --hidden 512 --precision fp32 --precision bf16
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from charlm.config.schema import Cell as CellSection
from charlm.model.cells.base import Cell, FusedCell, LinearCell
from charlm.model.cells.registry import make_cell
from charlm.model.recurrence import run
from charlm.training.devices import autocast, choose_device

INPUT = 64
CELLS = {
    "bag": {"kind": "bag"},
    "elman": {"kind": "elman"},
    "elman, sigmoid": {"kind": "elman", "activation": "sigmoid"},
    "gru": {"kind": "gru"},
    "gru, reset before": {"kind": "gru", "reset": "before"},
    "gru, reset none": {"kind": "gru", "reset": "none"},
    "lstm": {"kind": "lstm"},
    "lstm, peepholes": {"kind": "lstm", "peepholes": ["input", "forget", "output"]},
    "lstm, full peepholes": {
        "kind": "lstm",
        "peepholes": ["input", "forget", "output"],
        "peephole_weights": "full",
    },
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
}
BARE = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def main() -> None:
    """Time all and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cells", nargs="*", help="names from the table, such as 'nested lstm' [all]"
    )
    parser.add_argument("--hidden", type=int, action="append", help="[256 and 512]")
    parser.add_argument("--precision", action="append", choices=["fp32", "bf16"], help="[fp32]")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    device = choose_device(given.device)
    torch.set_flush_denormal(True)
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, "
        f"batch {given.batch}, window {given.window}"
    )
    for precision in given.precision or ["fp32"]:
        for hidden in given.hidden or [256, 512]:
            print(f"\nhidden {hidden}, {precision}; nn.LSTM = 1")
            print(
                f"{'recurrence':<27} {'runs as':<8} {'tokens/s':>9} {'ratio':>6} "
                f"{'arithmetic':>10} {'rate':>6} {'bare':>6}"
            )
            for name in given.cells or CELLS:
                report(name, hidden, precision, device, given)


def report(
    name: str, hidden: int, precision: str, device: torch.device, given: argparse.Namespace
) -> None:
    """Time one recurrence beside nn.LSTM and, if it is fused, beside torch's bare layer."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.randn(given.window, given.batch, INPUT, device=device, requires_grad=True)
    cell = make_cell(CellSection(**CELLS[name]), INPUT, hidden).to(device)
    lstm = nn.LSTM(INPUT, hidden).to(device)
    state = tuple(
        torch.zeros(given.batch, cell.hidden_size, device=device)
        for _ in range(cell.num_state_tensors)
    )
    ours = step_of(lambda: run(cell, x, state)[0], cell, x, device, dtype)
    theirs = step_of(lambda: lstm(x)[0], lstm, x, device, dtype)
    ratio, seconds = compare(ours, theirs, given.rounds)
    arithmetic = products(cell) / products_of_lstm(hidden)
    bare = ""
    if name in BARE:
        layer = BARE[name](INPUT, hidden).to(device)
        bare = f"{compare(ours, step_of(lambda: layer(x)[0], layer, x, device, dtype), 2 * given.rounds)[0]:.2f}"
    way = (
        "fused"
        if isinstance(cell, FusedCell)
        else "scan"
        if isinstance(cell, LinearCell)
        else "steps"
    )
    tokens = given.window * given.batch / seconds
    print(
        f"{name:<27} {way:<8} {tokens:>9,.0f} {ratio:>6.2f} {arithmetic:>10.2f} {ratio * arithmetic:>6.2f} {bare:>6}",
        flush=True,
    )


def step_of(
    forward: Callable[[], Tensor],
    module: nn.Module,
    x: Tensor,
    device: torch.device,
    precision: torch.dtype,
) -> Callable[[], None]:
    """Return a function that takes one training step, without the optimizer's part."""

    def step() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        with autocast(device, precision):
            y = forward()
        y.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def compare(
    ours: Callable[[], None], theirs: Callable[[], None], rounds: int
) -> tuple[float, float]:
    """Return the median of their seconds / our seconds over rounds of one step each, and our median seconds."""
    for _ in range(3):
        ours()
        theirs()
    times = [(seconds_of(ours), seconds_of(theirs)) for _ in range(rounds)]
    return statistics.median(b / a for a, b in times), statistics.median(a for a, _ in times)


def seconds_of(step: Callable[[], None]) -> float:
    """Time a step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def products(cell: Cell) -> int:
    """Count the multiplications of a token's matrix products."""
    return sum(weight.numel() for weight in cell.parameters() if weight.ndim == 2)


def products_of_lstm(hidden: int) -> int:
    """Count an LSTM's."""
    return 4 * hidden * (INPUT + hidden)


if __name__ == "__main__":
    main()
