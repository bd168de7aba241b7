"""Memory use of training, encoding and scoring on a text larger than memory, command by command.

A file is read through a memory map. The system counts its pages as memory of the process (as
`ru_maxrss` does), although it takes them back when it needs memory. The memory of the process
itself is `RssAnon` in /proc/PID/status, which is polled every 10 ms. The exit status is 1 if it
exceeds --limit. Linux only.

    python benchmarks/memory.py --gigabytes 2 --levels char byte --limit 1.5
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
from measuring import argument_parser, override_arguments, process_bytes

GIGABYTE, MEGABYTE = 10**9, 10**6
DISTINCT_MEGABYTES = 16  # The text repeats after them.
POLL_SECONDS = 0.01
SETTINGS = ["training.precision=fp32", "training.evaluations=1", "corpus.valid_share=0.0001"]


class Usage(NamedTuple):
    """Resources of a command: peak memory in bytes, without and with file pages, and seconds."""

    own_bytes: int
    bytes_with_file_pages: int
    seconds: float


def main() -> None:
    """Run all commands and print a table."""
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_text(folder / "text.txt", int(options.gigabytes * GIGABYTE))
        print(f"a text of {(folder / 'text.txt').stat().st_size / GIGABYTE:.1f} GB")
        print(f"{'level':<6}{'command':<18}{'own, GB':>16}{'with file pages':>17}{'seconds':>10}")
        peak = max(measure_level(level, folder) for level in options.levels)
    print(f"highest: {peak / GIGABYTE:.2f} GB, limit {options.limit} GB")
    sys.exit(peak > options.limit * GIGABYTE)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the text [2]")
    parser.add_argument(
        "--levels",
        nargs="+",
        choices=["char", "byte", "word", "bpe"],
        default=["char", "byte"],
        help="levels of tokens [char byte]",
    )
    parser.add_argument(
        "--folder", type=Path, help="folder with space for twice the text [the system's]"
    )
    parser.add_argument(
        "--limit", type=float, default=1.5, help="highest memory use, gigabytes [1.5]"
    )
    return parser.parse_args()


def write_text(path: Path, size: int) -> None:
    """Write about `size` bytes of lines of words whose frequencies follow Zipf's law."""
    random = np.random.default_rng(1)
    lengths = random.integers(1, 12, size=20_000)
    words = [
        "".join(map(chr, random.integers(ord("a"), ord("z") + 1, size=length)))
        for length in lengths
    ]
    pieces = []
    for _ in range(DISTINCT_MEGABYTES):
        ranks = random.zipf(1.2, size=MEGABYTE // 4).tolist()
        pieces.append(
            "".join(
                words[rank % len(words)] + (" " if number % 12 else ".\n")
                for number, rank in enumerate(ranks, 1)
            )
        )
    with path.open("w", encoding="ascii") as file:
        for index in range(size // MEGABYTE):
            file.write(pieces[index % DISTINCT_MEGABYTES][:MEGABYTE])


def measure_level(level: str, folder: Path) -> int:
    """Run all commands on one level of tokens, print their lines, return the highest own memory."""
    peak = 0
    cache = folder / "cache"
    for title, command in commands(level, folder).items():
        usage = measure(command, cache)
        peak = max(peak, usage.own_bytes)
        print(
            f"{level:<6}{title:<18}{usage.own_bytes / GIGABYTE:>16.2f}"
            f"{usage.bytes_with_file_pages / GIGABYTE:>17.2f}{usage.seconds:>10.1f}",
            flush=True,
        )
    for file in (cache / "tokens").iterdir():
        file.unlink()
    return peak


def commands(level: str, folder: Path) -> dict[str, list[str]]:
    """Return the commands of charlm to be measured."""
    defaults = folder / "defaults.yaml"  # An empty configuration: without one, charlm chooses.
    defaults.write_text("", encoding="utf-8")
    run = str(folder / f"run-{level}")
    train = ["train", str(folder / "text.txt"), "--config", str(defaults)]
    settings = override_arguments([*SETTINGS, f"tokenizer.level={level}"])
    device = ["--device", "cpu"]
    return {
        "encode and train": [*train, *settings, "--steps", "20", *device, "--out", run],
        "score a part": ["eval", "perplexity", run, "--streams", "16", *device],
        "sample": ["sample", run, *device],
    }


def measure(command: list[str], cache: Path) -> Usage:
    """Run a command of charlm and poll its memory until it ends."""
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
        peak = max(peak, process_bytes(process.pid, "status", "RssAnon"))
        time.sleep(POLL_SECONDS)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"charlm {' '.join(command)}: exit status {process.returncode}")
    return Usage(peak, usage.ru_maxrss * 1024, time.perf_counter() - start)


if __name__ == "__main__":
    main()
