"""Memory use of training, scoring and sampling with a text larger than memory, in gigabytes.

The text has random words, whose frequencies follow Zipf's law. The commands of charlm run one after
another. A file is read through a memory map. The system counts its pages as memory of the process
(as `ru_maxrss` does, the column "with file pages"), although it takes them back when it needs
memory. The memory of the process itself is `RssAnon` in /proc/PID/status, which is polled every
10 ms (the column "own"). Linux only. The folder for temporary files, which TMPDIR names, needs
space for twice the text.

    python benchmarks/memory.py --gigabytes 2 --level char byte
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measuring import (
    add_options,
    argument_parser,
    override_arguments,
    print_environment,
    print_results,
    process_bytes,
    resources_of,
    run_main,
)

GIGABYTE, MEGABYTE = 10**9, 10**6
DISTINCT_MEGABYTES = 16  # The text repeats after them.
SETTINGS = ["training.precision=fp32", "training.evaluations=1", "corpus.valid_share=0.0001"]


class Usage(NamedTuple):
    """Resources of a command: peak memory in bytes, without and with file pages, and seconds."""

    own_bytes: int
    bytes_with_file_pages: int
    seconds: float


def main() -> None:
    """Run all commands; print a table, and all as JSON."""
    options = arguments()
    print_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "text.txt", int(options.gigabytes * GIGABYTE))
        print(f"a text of {(folder / 'text.txt').stat().st_size / GIGABYTE:.1f} GB")
        print(f"{'level':<6}{'command':<18}{'own, GB':>16}{'with file pages':>17}{'seconds':>10}")
        rows = {level: measure_level(level, folder) for level in options.level}
    print_results(gigabytes=options.gigabytes, levels=rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, gigabytes=2.0, level=["char", "byte"])
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


def measure_level(level: str, folder: Path) -> dict[str, Usage]:
    """Run all commands on one level of tokens; print their lines, and return what they used."""
    usages = {}
    cache = folder / "cache"
    for title, command in commands(level, folder).items():
        usage = usages[title] = measure(command, cache)
        print(
            f"{level:<6}{title:<18}{usage.own_bytes / GIGABYTE:>16.2f}"
            f"{usage.bytes_with_file_pages / GIGABYTE:>17.2f}{usage.seconds:>10.1f}",
            flush=True,
        )
    for file in (cache / "tokens").iterdir():
        file.unlink()
    return usages


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
    """Run a command of charlm, and poll its memory until it ends."""
    start, sizes = time.perf_counter(), [0]

    def poll(process: int) -> None:
        sizes.append(process_bytes(process, "status", "RssAnon"))

    usage = resources_of(["-m", "charlm", *command], {"CHARLM_CACHE": str(cache)}, poll=poll)
    return Usage(max(sizes), usage.ru_maxrss * 1024, time.perf_counter() - start)


if __name__ == "__main__":
    run_main(main)
