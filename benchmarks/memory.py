"""How much memory a text takes that is larger than memory: training, encoding and scoring, as commands do them.

Usage: python benchmarks/memory.py [--gigabytes 2] [--levels char byte] [--folder DIR] [--limit 1.5]. Linux. The folder
needs room for twice the text, and is emptied at the end; a new one by default.

A text in a file is read through a memory map, whose pages the system counts as the process's (`ru_maxrss` does) though
it takes them back whenever it needs room. What a process itself holds is `RssAnon` of /proc/PID/status, read here every
10 ms; that is held against the limit. The exit status is 1 where it is exceeded.
"""

import sys

sys.path.pop(0)  # This folder: its tokenize.py would hide the standard library's.

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

GIGABYTE, MEGABYTE = 10**9, 10**6
_MADE_APART = 16  # Megabytes that differ; then they come again.
_SETTINGS = ["training.precision=fp32", "training.evaluations=1", "corpus.valid_share=0.0001"]


def write_text(path: Path, size: int) -> None:
    """Write lines of words whose frequencies follow Zipf's law, `size` bytes of them."""
    random = np.random.default_rng(1)
    lengths = random.integers(1, 12, size=20_000)
    words = [
        "".join(map(chr, random.integers(ord("a"), ord("z") + 1, size=length)))
        for length in lengths
    ]
    pieces = []
    for _ in range(_MADE_APART):
        drawn = (words[rank % len(words)] for rank in random.zipf(1.2, size=MEGABYTE // 4).tolist())
        pieces.append(
            "".join(word + (" " if number % 12 else ".\n") for number, word in enumerate(drawn, 1))
        )
    with path.open("w", encoding="ascii") as file:
        for number in range(size // MEGABYTE):
            file.write(pieces[number % _MADE_APART][:MEGABYTE])


def anonymous_bytes(process: int) -> int:
    """Return what memory a process holds that is no page of a file; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def measured(arguments: list[str], cache: Path) -> tuple[int, int, float]:
    """Run a command of charlm; return the most memory of its own, that with pages of files, and seconds."""
    began, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "charlm", *arguments],
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
        sys.exit(f"charlm {' '.join(arguments)}: ended with status {process.returncode}")
    return peak, usage.ru_maxrss * 1024, time.perf_counter() - began


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--levels", nargs="+", default=["char", "byte"])
    parser.add_argument(
        "--folder", type=Path, help="Where the text and its ids are kept meanwhile."
    )
    parser.add_argument("--limit", type=float, default=1.5, help="Gigabytes.")
    given = parser.parse_args()
    most = 0
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        write_text(folder / "text.txt", int(given.gigabytes * GIGABYTE))
        (folder / "defaults.yaml").write_text("", encoding="utf-8")
        print(f"a text of {(folder / 'text.txt').stat().st_size / GIGABYTE:.1f} GB")
        print(
            f"{'level':<6}{'command':<18}{'own memory, GB':>16}{'with file pages':>17}{'seconds':>10}"
        )
        for level in given.levels:
            run, cache = folder / f"run-{level}", folder / "cache"
            changes = [
                part
                for change in (*_SETTINGS, f"tokenizer.level={level}")
                for part in ("--set", change)
            ]
            commands = {
                "encode and train": [
                    "train",
                    f"{folder}/text.txt",
                    "--config",
                    f"{folder}/defaults.yaml",
                    *changes,
                    "--steps",
                    "20",
                    "--device",
                    "cpu",
                    "--out",
                    str(run),
                ],
                "score a part": [
                    "eval",
                    "perplexity",
                    str(run),
                    "--streams",
                    "16",
                    "--device",
                    "cpu",
                ],
                "sample": ["sample", str(run), "--device", "cpu"],
            }
            for title, arguments in commands.items():
                own, whole, seconds = measured(arguments, cache)
                most = max(most, own)
                row = f"{own / GIGABYTE:>16.2f}{whole / GIGABYTE:>17.2f}{seconds:>10.1f}"
                print(f"{level:<6}{title:<18}{row}", flush=True)
            for file in (cache / "tokens").iterdir():
                file.unlink()
    print(f"the most: {most / GIGABYTE:.2f} GB of at most {given.limit} GB")
    sys.exit(most > given.limit * GIGABYTE)


if __name__ == "__main__":
    main()
