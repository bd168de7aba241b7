"""What saving costs beside training at default settings, and what it would cost if no save were ever put off.

Usage: python benchmarks/checkpoint.py [--minutes 1] [--folder .] [--models quickstart twenty-million]

Each model is trained for so many minutes, into a folder of the disk that is to be measured; saving is on top of them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from charlm.config.load import load_config
from charlm.runs import experiment as experiment_module
from charlm.runs import prepare, session

MODELS = {
    "quickstart": ("quickstart", []),
    # Little to validate on, for that is neither training nor saving.
    "twenty-million": (
        None,
        ["model.hidden_size=2048", "model.embedding_size=256", "corpus.valid_share=0.001"],
    ),
}
RULES = {"default": [], "never put off": ["checkpoint.save_share=null"]}


def timed(call: Callable[..., None], seconds: list[float]) -> Callable[..., None]:
    """Return a function that does the same, and adds to a list how long it took."""

    def measured(*arguments: Any) -> None:
        began = time.perf_counter()
        call(*arguments)
        seconds.append(time.perf_counter() - began)

    return measured


def measure(model: str, rule: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Train, and return what training and saving took."""
    config, overrides = MODELS[model]
    seconds: list[float] = []
    save = experiment_module.save_checkpoint
    experiment_module.save_checkpoint = timed(save, seconds)
    try:
        experiment = prepare.begin(
            load_config(config, [*overrides, *RULES[rule], f"training.minutes={minutes}"]), folder
        )
        for _ in session.run(experiment):
            pass
    finally:
        experiment_module.save_checkpoint = save
    return {
        "parameters": sum(tensor.numel() for tensor in experiment.model.parameters()),
        "steps": experiment.state.step,
        "seconds": experiment.state.seconds,
        "saves": len(seconds),
        "saving": sum(seconds),
        "longest": max(seconds),
    }


def main() -> None:
    """Print a line a model and rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    given = parser.parse_args()
    print(
        f"{'model':<16}{'saves':<16}{'parameters':>12}{'training':>10}{'files':>7}{'saving':>9}{'longest':>9}{'share':>8}"
    )
    for model in given.models:
        for rule in RULES:
            with tempfile.TemporaryDirectory(dir=given.folder) as place:
                told = measure(model, rule, given.minutes, Path(place) / "run")
            print(
                f"{model:<16}{rule:<16}{told['parameters']:>12,}{told['seconds']:>8.1f} s{told['saves']:>7}"
                f"{told['saving']:>7.2f} s{told['longest']:>7.2f} s{told['saving'] / told['seconds']:>8.2%}"
            )


if __name__ == "__main__":
    main()
