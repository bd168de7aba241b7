"""Memory of training, encoding, scoring and sampling with a text that is larger than memory.

Linux only. A text in a file is read through a memory map. The system counts its pages as memory of
the process (`ru_maxrss` does), but takes them back whenever it needs room. The process's own memory
is `RssAnon` of /proc/PID/status, sampled every 10 ms; the exit status is 1 if it exceeds the limit.
The folder needs room for twice the text; by default it is a temporary one, removed at the end.

    python benchmarks/memory.py [--gigabytes 2] [--levels char byte] [--folder DIR] [--limit 1.5]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

GIGABYTE = 10**9
MEGABYTE = 10**6
_DISTINCT_MEGABYTES = 16  # The text repeats after this size.
_SETTINGS = ["training.precision=fp32", "training.evaluations=1", "corpus.valid_share=0.0001"]


class Measurement(NamedTuple):
    """Peak memory of a command without and with pages of files, in bytes, and its seconds."""

    own_bytes: int
    total_bytes: int
    seconds: float


def main() -> None:
    """Print a table."""
    arguments = parse_arguments()
    peak = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        text = folder / "text.txt"
        write_text(text, int(arguments.gigabytes * GIGABYTE))
        (folder / "defaults.yaml").write_text("", encoding="utf-8")
        print(f"a text of {text.stat().st_size / GIGABYTE:.1f} GB")
        columns = f"{'own memory, GB':>16}{'with file pages':>17}{'seconds':>10}"
        print(f"{'level':<6}{'command':<18}{columns}")
        for level in arguments.levels:
            for title, command in commands_of(folder, text, level).items():
                result = measure(command, folder / "cache")
                peak = max(peak, result.own_bytes)
                print(f"{level:<6}{title:<18}{format_row(result)}", flush=True)
            for file in (folder / "cache" / "tokens").iterdir():
                file.unlink()
    print(f"the peak is {peak / GIGABYTE:.2f} GB; the limit is {arguments.limit} GB")
    sys.exit(peak > arguments.limit * GIGABYTE)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--levels", nargs="+", default=["char", "byte"])
    parser.add_argument("--folder", type=Path, help="folder for the text and its ids")
    parser.add_argument("--limit", type=float, default=1.5, help="gigabytes")
    return parser.parse_args()


def write_text(path: Path, size: int) -> None:
    """Write `size` bytes of lines of words whose frequencies follow Zipf's law."""
    random = np.random.default_rng(1)
    lengths = random.integers(1, 12, size=20_000)
    words = [
        "".join(map(chr, random.integers(ord("a"), ord("z") + 1, size=length)))
        for length in lengths
    ]
    pieces = []
    for _ in range(_DISTINCT_MEGABYTES):
        ranks = random.zipf(1.2, size=MEGABYTE // 4).tolist()
        drawn = (words[rank % len(words)] for rank in ranks)
        pieces.append(
            "".join(word + (" " if number % 12 else ".\n") for number, word in enumerate(drawn, 1))
        )
    with path.open("w", encoding="ascii") as file:
        for number in range(size // MEGABYTE):
            file.write(pieces[number % _DISTINCT_MEGABYTES][:MEGABYTE])


def commands_of(folder: Path, text: Path, level: str) -> dict[str, list[str]]:
    """Return the commands to measure, with their titles."""
    run = str(folder / f"run-{level}")
    cpu = ["--device", "cpu"]
    settings = []
    for change in (*_SETTINGS, f"tokenizer.level={level}"):
        settings += ["--set", change]
    train = ["train", str(text), "--config", str(folder / "defaults.yaml"), *settings]
    return {
        "encode and train": [*train, "--steps", "20", "--out", run, *cpu],
        "score a part": ["eval", "perplexity", run, "--streams", "16", *cpu],
        "sample": ["sample", run, *cpu],
    }


def measure(command: list[str], cache: Path) -> Measurement:
    """Run a command of charlm and return its peak memory and its seconds."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "charlm", *command],
        env=os.environ | {"CHARLM_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
    )
    while True:
        ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.01)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"charlm {' '.join(command)}: exit status {process.returncode}")
    return Measurement(peak, usage.ru_maxrss * 1024, time.perf_counter() - start)


def anonymous_bytes(process: int) -> int:
    """Return the memory of a process that is not a page of a file; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def format_row(result: Measurement) -> str:
    """Return the numbers of a row of the table."""
    own, total = result.own_bytes / GIGABYTE, result.total_bytes / GIGABYTE
    return f"{own:>16.2f}{total:>17.2f}{result.seconds:>10.1f}"


if __name__ == "__main__":
    main()
