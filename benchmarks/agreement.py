"""Accuracy of subject-verb agreement by distance, for recurrences of one size.

Each recurrence is trained with the configuration `agreement` for the same number of steps, and
tested on 4,000 sentences that it has not seen. No word between subject and verb shows the number,
so a network that does not remember the subject is right half of the time. The table has the
percentage of verbs that agree, by the number of words between subject and verb and in all, and the
validation loss in nats per token: medians over the seeds, with the range.

    python benchmarks/agreement.py --cells bag elman gru lstm min_gru --steps 2500
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
    columns_of,
    format_spread,
    markdown_table,
    print_environment,
    print_results,
    run_main,
    spread,
)

import charlm

SENTENCES = 4000


def main() -> None:
    """Train all recurrences; print a table, and the same as JSON."""
    options = arguments()
    print_environment(f"{options.steps} steps, seeds {options.seeds}")
    results = {
        cell: [measure(cell, seed, options) for seed in options.seeds] for cell in options.cells
    }
    print_table(results)
    print_results(steps=options.steps, seeds=options.seeds, cells=results)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_cells(parser, ["elman", "lstm"])
    add_options(parser, hidden=64, steps=2000, seeds=[1])
    parser.add_argument(
        "--longest",
        type=int,
        default=4,
        help="maximum number of phrases between subject and verb in the test; 4 in training [4]",
    )
    add_overrides(parser)
    return parser.parse_args()


def measure(cell: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train one recurrence; return its accuracies by distance, and its validation loss."""
    overrides = run_overrides(cell, options.hidden, seed, options)
    with tempfile.TemporaryDirectory() as folder:
        run = train(overrides, Path(folder) / "run")
        return accuracies(run, longest=options.longest) | {"nats": run.state["best_loss_nats"]}


def run_overrides(cell: str, hidden: int, seed: int, options: argparse.Namespace) -> list[str]:
    """Return the overrides of one run."""
    return [
        cell_override(cell),
        f"model.hidden_size={hidden}",
        f"training.steps={options.steps}",
        f"training.seed={seed}",
        *options.overrides,
    ]


def train(overrides: list[str], folder: Path) -> charlm.Run:
    """Train one run on the corpus agreement."""
    config = charlm.load_config("agreement", overrides)
    return charlm.train(config, out=folder, progress=False)


def accuracies(run: charlm.Run, **options: Any) -> dict[str, float]:
    """Return the accuracy of the agreement by number of words between subject and verb."""
    agreement = run.agreement(sentences=SENTENCES, **options)
    by_distance = {
        format_distance(row["distance_from"], row["distance_to"]): row["accuracy"]
        for row in agreement.by_distance
    }
    return by_distance | {"all": agreement.accuracy}


def format_distance(first: int, last: int | None) -> str:
    """Return a range of distances, such as `4-6` or `21+`."""
    if last is None:
        return f"{first}+"
    return str(first) if first == last else f"{first}-{last}"


def print_table(results: dict[str, list[dict[str, float]]]) -> None:
    """Print one line per recurrence: accuracy by distance and in all, and validation loss."""
    rows = []
    for cell, runs in results.items():
        series = columns_of(runs)
        nats = format_spread(spread(series.pop("nats")), 3)
        shares = (spread([100 * share for share in shares]) for shares in series.values())
        rows.append([cell, *(format_spread(share, 1) for share in shares), nats])
    columns = list(next(iter(results.values()))[0])
    print(markdown_table(["recurrence", *columns], rows))


if __name__ == "__main__":
    run_main(main)
