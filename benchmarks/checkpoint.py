"""Time spent on saving beside the time of training, at default settings.

Each model is trained twice for N minutes, into a folder on the disk to be measured: with the
default limit on the time spent on saving, and without a limit. The minutes are those of training
alone; saving comes on top.

    python benchmarks/checkpoint.py --minutes 1 --folder . --models quickstart twenty-million
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from measuring import argument_parser, count_parameters, run_main, seconds_of, train

import charlm
from charlm.runs import snapshot

MODELS = {
    "quickstart": ("quickstart", []),
    # The validation split is small, because validation is neither training nor saving.
    "twenty-million": (
        None,
        ["model.hidden_size=2048", "model.embedding_size=256", "corpus.valid_share=0.001"],
    ),
}
LIMITS = {"default": [], "unlimited": ["checkpoint.save_share=null"]}


def main() -> None:
    """Print one line per model and limit."""
    options = arguments()
    print(
        f"{'model':<16}{'limit':<12}{'parameters':>12}{'training':>11}{'saves':>7}"
        f"{'saving':>9}{'longest':>9}{'ratio':>8}"
    )
    for model in options.models:
        for limit in LIMITS:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                row = measure(model, limit, options.minutes, Path(folder) / "run")
            print(format_row(model, limit, row), flush=True)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="training time of a run [1]")
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="folder on the disk to be measured [.]"
    )
    parser.add_argument(
        "--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="models [all]"
    )
    return parser.parse_args()


def measure(model: str, limit: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Train one model; return the seconds of training and of saving."""
    name, overrides = MODELS[model]
    config = charlm.load_config(name, [*overrides, *LIMITS[limit], f"training.minutes={minutes}"])
    seconds: list[float] = []
    save = record_seconds(snapshot.save_checkpoint, seconds)
    with mock.patch.object(snapshot, "save_checkpoint", save):
        experiment = train(config, folder)
    return {
        "parameters": count_parameters(experiment.model),
        "training_seconds": experiment.state.seconds,
        "saves": len(seconds),
        "saving_seconds": sum(seconds),
        "longest_seconds": max(seconds),
    }


def record_seconds(function: Callable[..., None], seconds: list[float]) -> Callable[..., None]:
    """Return a function that does the same and appends its seconds to a list."""

    def call(*arguments: Any, **options: Any) -> None:
        seconds.append(seconds_of(partial(function, *arguments, **options)))

    return call


def format_row(model: str, limit: str, row: dict[str, Any]) -> str:
    """Return the table's line of one run."""
    ratio = row["saving_seconds"] / row["training_seconds"]
    return (
        f"{model:<16}{limit:<12}{row['parameters']:>12,}{row['training_seconds']:>9.1f} s"
        f"{row['saves']:>7}{row['saving_seconds']:>7.2f} s{row['longest_seconds']:>7.2f} s"
        f"{ratio:>8.2%}"
    )


if __name__ == "__main__":
    run_main(main)
