"""Measure the time of `charlm --help` and of `python -c pass`: medians of ten alternate runs.

Usage: python benchmarks/startup.py
"""

import sys

sys.path.pop(0)  # This folder: its tokenize.py would hide that of the standard library.

import statistics
import subprocess
import time

COMMANDS = {"python -c pass": ["-c", "pass"], "charlm --help": ["-m", "charlm", "--help"]}


def seconds(arguments: list[str]) -> float:
    """Return the time that Python takes with these arguments, in seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print both medians and their difference."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(11):  # The first run only fills the disk cache.
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<16} {median:.3f} s")
    print(f"{'difference':<16} {medians['charlm --help'] - medians['python -c pass']:.3f} s")


if __name__ == "__main__":
    main()
