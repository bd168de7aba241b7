"""Code that the benchmarks share: command lines, timing, training, and reading memory sizes."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from charlm.config.schema import Config
from charlm.runs import prepare, session
from charlm.runs.experiment import Experiment

Name = TypeVar("Name")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with the docstring of the benchmark, unchanged."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_overrides(
    parser: argparse.ArgumentParser, purpose: str = "override a setting; can be repeated"
) -> None:
    """Add the option `--set`; its values are the list `overrides` of the parsed arguments."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help=purpose,
    )


def override_arguments(overrides: Iterable[str]) -> list[str]:
    """Return overrides as the arguments of a command line."""
    return [argument for override in overrides for argument in ("--set", override)]


def text_override(path: Path | str, key: str = "corpus.text") -> str:
    """Return the override that makes a file the text of a run."""
    return f"{key}={json.dumps([str(path)])}"


def environment() -> dict[str, Any]:
    """Return the version of torch and its number of threads, for the JSON output."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def print_environment(*facts: str) -> None:
    """Print the version of torch, its number of threads and further facts in one line."""
    print(", ".join((f"torch {torch.__version__}", f"{torch.get_num_threads()} threads", *facts)))


def run_python(*arguments: str | Path) -> str:
    """Run a fresh Python to its end; return its standard output."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def synchronize(device: torch.device | None) -> None:
    """Wait until a GPU has finished its work; do nothing for a CPU or None."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device | None = None) -> float:
    """Return the seconds that a call takes, including its work on the device."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def measure_in_turn(
    measurements: Mapping[Name, Callable[[], float]], rounds: int
) -> dict[Name, list[float]]:
    """Take every measurement once per round, so that drift of the machine's speed affects all."""
    values: dict[Name, list[float]] = {name: [] for name in measurements}
    for _ in range(rounds):
        for name, measure in measurements.items():
            values[name].append(measure())
    return values


def medians(values: Mapping[Name, list[float]]) -> dict[Name, float]:
    """Return the median over the rounds of every measurement."""
    return {name: statistics.median(series) for name, series in values.items()}


def train(config: Config, folder: Path) -> Experiment:
    """Train to the end of the budget; return the experiment in its last state."""
    experiment = prepare.begin(config, folder)
    for _ in session.run(experiment):
        pass
    return experiment


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def process_bytes(process: int, file: str, field: str) -> int:
    """Return a size from /proc/PROCESS/FILE in bytes; 0 if the process has ended. Linux only."""
    try:
        lines = Path(f"/proc/{process}/{file}").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    sizes = (int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    return next(sizes, 0)
