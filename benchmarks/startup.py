"""Processor time of short commands beside that of `import torch`, in seconds.

Each run is a fresh Python with one thread; the commands take turns. A small model, trained for two
steps, samples 20 characters, scores 1,000 characters, and is inspected. A line has the median of a
command, and what it takes more than `import torch`.

    python benchmarks/startup.py
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

from measuring import (
    add_options,
    argument_parser,
    measure_in_turn,
    medians,
    print_environment,
    print_results,
    resources_of,
    run_main,
    text_override,
)
from runs import train

import charlm

TEXT = "The ships sail to the island, and the sailors sing. " * 400
BASELINE = "import torch"


def main() -> None:
    """Print the median of every command, and what it takes more than `import torch`."""
    rounds = arguments().rounds
    print_environment(f"{rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        commands = make_commands(Path(folder))
        measurements = {
            name: partial(processor_seconds, command) for name, command in commands.items()
        }
        measure_in_turn(measurements, 1)  # Reads the files into the page cache of the system.
        seconds = medians(measure_in_turn(measurements, rounds))
    for name, median in seconds.items():
        print(f"{name:<16} {median:.3f} s  {median - seconds[BASELINE]:+.3f} s")
    print_results(rounds=rounds, seconds=seconds)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, rounds=10)
    return parser.parse_args()


def make_commands(folder: Path) -> dict[str, list[str]]:
    """Train a small model in a folder; return the arguments of Python for each command."""
    text = folder / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    config = charlm.load_config(None, [text_override(text), "training.steps=2"])
    train(config, folder / "run")
    run = str(folder / "run")
    extract = folder / "extract.txt"
    extract.write_text(TEXT[:1000], encoding="utf-8")
    charlm_commands = {
        "charlm --help": ["--help"],
        "charlm sample": ["sample", run, "--length", "20"],
        "charlm eval": ["eval", "perplexity", run, str(extract)],
        "charlm inspect": ["inspect", run],
    }
    commands = {"pass": ["-c", "pass"], BASELINE: ["-c", BASELINE]}
    return commands | {
        name: ["-m", "charlm", *command] for name, command in charlm_commands.items()
    }


def processor_seconds(command: list[str]) -> float:
    """Return the user and system time of a fresh Python on one thread, from its arguments."""
    usage = resources_of(command, {"OMP_NUM_THREADS": "1"})
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    run_main(main)
