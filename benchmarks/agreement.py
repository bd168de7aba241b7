"""Accuracy of subject-verb agreement by distance, for recurrences of one size.

Each recurrence is trained with the configuration `agreement` for the same number of steps, and
tested on sentences that it has not seen. No word between subject and verb shows the number, so a
network that does not remember the subject is right half of the time.

    python benchmarks/agreement.py elman gru lstm --hidden 64 --steps 2000
"""

import argparse
import json
import tempfile
from pathlib import Path

from measuring import add_overrides, argument_parser, run_main

import charlm
from charlm.evaluation.probes.agreement import Agreement

SENTENCES = 4000
Result = tuple[charlm.Run, Agreement]


def main() -> None:
    """Train all recurrences; print a table, and the same as JSON."""
    options = arguments()
    overrides = [
        f"model.hidden_size={options.hidden}",
        f"training.steps={options.steps}",
        *options.overrides,
    ]
    results = {cell: measure(cell, overrides, options.longest) for cell in options.cells}
    print_table(results)
    print(json.dumps({cell: agreement.to_json() for cell, (_, agreement) in results.items()}))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "cells",
        nargs="*",
        default=["elman", "lstm"],
        help="values of model.cell, such as gru or '{kind: gru, reset: none}' [elman lstm]",
    )
    parser.add_argument("--hidden", type=int, default=64, help="hidden size [64]")
    parser.add_argument("--steps", type=int, default=2000, help="training steps [2000]")
    parser.add_argument(
        "--longest",
        type=int,
        default=4,
        help="maximum number of phrases between subject and verb in the test; 4 in training [4]",
    )
    add_overrides(parser)
    return parser.parse_args()


def measure(cell: str, overrides: list[str], longest: int) -> Result:
    """Train one recurrence and test its agreement."""
    config = charlm.load_config("agreement", [f"model.cell={cell}", *overrides])
    with tempfile.TemporaryDirectory() as folder:
        run = charlm.train(config, out=Path(folder) / "run")
        return run, run.agreement(sentences=SENTENCES, longest=longest)


def print_table(results: dict[str, Result]) -> None:
    """Print one line per recurrence: accuracy by distance and in total, and validation loss."""
    distances = {
        (row["distance_from"], row["distance_to"])
        for _, agreement in results.values()
        for row in agreement.by_distance
    }
    columns = [*(format_distance(*distance) for distance in sorted(distances)), "all", "nats"]
    print(f"{'words between':<24}" + "".join(f"{column:>8}" for column in columns))
    for cell, (run, agreement) in results.items():
        accuracies = [*(row["accuracy"] for row in agreement.by_distance), agreement.accuracy]
        numbers = "".join(f"{accuracy:>8.1%}" for accuracy in accuracies)
        print(f"{cell:<24}{numbers}{run.state['best_loss_nats']:>8.3f}")


def format_distance(first: int, last: int | None) -> str:
    """Return a range of distances, such as `4-6` or `21+`."""
    if last is None:
        return f"{first}+"
    return str(first) if first == last else f"{first}-{last}"


if __name__ == "__main__":
    run_main(main)
