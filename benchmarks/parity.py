"""Which recurrences learn the parity of bit strings: accuracy by length, up to four times as long.

Every recurrence is trained on the corpus parity, strings of at most 16 bits, for an equal number of
steps at several learning rates and with several seeds. A line of the table is the run with the best
accuracy on the lengths of the training text: the percentage of 400 strings of each length whose
parity it predicts, where chance is 50 %. A recurrence that is linear in its state with positive
factors cannot compute parity at every length; an LSTM can (Grazzi et al. 2024, arXiv:2411.12537).

    python benchmarks/parity.py --seeds 1,2,3
    python benchmarks/parity.py --cells lstm rg_lru --rates 8e-3
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from cells import add_cells, cell_override
from measuring import (
    add_options,
    add_overrides,
    argument_parser,
    print_environment,
    print_results,
    run_main,
)

import charlm

CELLS = ("elman", "gru", "lstm", "slstm", "min_gru", "min_lstm", "rg_lru", "hgrn")
LONGEST_SEEN = 16


def main() -> None:
    """Train and measure all recurrences; print one line for each, and everything as JSON."""
    options = arguments()
    print_environment(f"{options.steps} steps, seeds {options.seeds}, rates {options.rates}")
    results = {cell: best_of(cell, options) for cell in options.cells}
    lengths = [row["bits"] for row in next(iter(results.values()))["by_length"]]
    print(f"{'bits':<10} " + " ".join(f"{bits:>7}" for bits in lengths))
    for cell, result in results.items():
        accuracies = " ".join(f"{row['accuracy']:>7.1%}" for row in result["by_length"])
        print(f"{cell:<10} {accuracies}")
    print_results(steps=options.steps, seeds=options.seeds, rates=options.rates, best=results)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_cells(parser, CELLS)
    add_options(parser, steps=1000, rates=[2e-3, 8e-3], seeds=[1])
    add_overrides(parser)
    return parser.parse_args()


def best_of(cell: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the result of the best rate and seed, with both."""
    runs = [measure(cell, rate, seed, options) for rate in options.rates for seed in options.seeds]
    return max(runs, key=accuracy_on_seen)


def accuracy_on_seen(result: dict[str, Any]) -> float:
    """Return the mean accuracy over the lengths of the training text."""
    seen = [row["accuracy"] for row in result["by_length"] if row["bits"] <= LONGEST_SEEN]
    return sum(seen) / len(seen)


def measure(cell: str, rate: float, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a network and return its accuracy by length."""
    config = charlm.load_config(
        "parity",
        [
            cell_override(cell),
            f"training.steps={options.steps}",
            f"training.learning_rate={rate}",
            f"training.seed={seed}",
            *options.overrides,
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        run = charlm.train(config, out=Path(folder) / "run", progress=False)
        by_length = run.parity(strings=400, longest=4 * LONGEST_SEEN).by_length
    accuracies = [row["accuracy"] for row in by_length]
    print(f"{cell}, rate {rate:g}, seed {seed}: {accuracies}", flush=True)
    return {"learning_rate": rate, "seed": seed, "by_length": by_length}


if __name__ == "__main__":
    run_main(main)
