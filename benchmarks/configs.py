"""Scores that the shipped configurations reach.

Each configuration is trained, and its whole validation split is scored. PATH is a text that
replaces the corpus of the configuration (which may have to be fetched first). The training seconds
are those of the training steps alone; all other time of the run is in the column beside them.

    python benchmarks/configs.py quickstart words shakespeare=PATH names=PATH
"""

import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import add_overrides, argument_parser, print_environment, text_override

import charlm

COLUMNS = [
    "config",
    "steps",
    "training_seconds",
    "other_seconds",
    "tokens_per_second",
    "loss_nats",
    "perplexity",
    "bits_per_character",
    "unigram_perplexity",
]


def main() -> None:
    """Train all configurations; print a table, and the same as JSON."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "configs", nargs="+", metavar="NAME[=PATH]", help="configuration, with a text of your own"
    )
    add_overrides(parser)
    options = parser.parse_args()
    rows = [measure(*pair.partition("=")[::2], options.overrides) for pair in options.configs]
    print_environment(f"Python {platform.python_version()}")
    print("  ".join(f"{column:>18}" for column in COLUMNS))
    for row in rows:
        print("  ".join(f"{format_value(row[column]):>18}" for column in COLUMNS))
    print(json.dumps(rows))


def measure(name: str, text: str, overrides: list[str]) -> dict[str, Any]:
    """Train and score one configuration."""
    texts = [text_override(text)] if text else []
    config = charlm.load_config(name, [*texts, *overrides])
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run = charlm.train(config, out=Path(folder) / "run")
        seconds = time.perf_counter() - start
        score = run.perplexity()
    state = run.state
    return {
        "config": name,
        "steps": state["step"],
        "epochs": round(state["epochs"], 2),
        "training_seconds": round(state["seconds"], 1),
        "other_seconds": round(seconds - state["seconds"], 1),
        "tokens_per_second": round(state["tokens"] / state["seconds"]),
        **score.to_json(),
    }


def format_value(value: object) -> str:
    """Return a table's entry."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
