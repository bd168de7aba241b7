"""What the shipped configurations reach: trains each, scores its validation split exactly, prints a table and JSON.

Usage: python benchmarks/configs.py quickstart words shakespeare=PATH names=PATH [--set SECTION.KEY=VALUE]...

PATH is a text to read instead of the corpus that the configuration names (which may have to be fetched first). Seconds
are those of training steps alone; what else a run takes stands beside them.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import torch

import charlm


def measure(name: str, text: str, overrides: list[str]) -> dict[str, object]:
    """Train and score one configuration."""
    config = charlm.load_config(
        name, [*([f"corpus.text={json.dumps([text])}"] if text else []), *overrides]
    )
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = charlm.train(config, out=Path(folder) / name)
        seconds = time.perf_counter() - began
        score = run.perplexity()
    state, trained = run.state, run.state["seconds"]
    return {
        "config": name,
        "steps": state["step"],
        "epochs": round(state["epochs"], 2),
        "training_seconds": round(trained, 1),
        "other_seconds": round(seconds - trained, 1),
        "tokens_per_second": round(state["tokens"] / trained),
        **score.to_json(),
    }


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="NAME[=PATH]")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE"
    )
    arguments = parser.parse_args()
    rows = [measure(*pair.partition("=")[::2], arguments.overrides) for pair in arguments.configs]
    columns = [
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
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, Python {platform.python_version()}"
    )
    print("  ".join(f"{column:>18}" for column in columns))
    for row in rows:
        shown = (
            f"{row[column]:.4f}" if isinstance(row[column], float) else str(row[column])
            for column in columns
        )
        print("  ".join(f"{text:>18}" for text in shown))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
