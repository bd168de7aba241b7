"""What `charlm --help` costs beside `python -c pass`: medians of ten, run in turn.

Usage: python benchmarks/startup.py
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {"python -c pass": ["-c", "pass"], "charlm --help": ["-m", "charlm", "--help"]}


def seconds(arguments: list[str]) -> float:
    """Return how long a Python takes with these arguments."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Print both medians and their difference."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(11):  # The first of each only fills the disk's cache.
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:<16} {median:.3f} s")
    print(f"{'difference':<16} {medians['charlm --help'] - medians['python -c pass']:.3f} s")


if __name__ == "__main__":
    main()
