"""Time for reading texts in many files: at first, and again from the cache.

The files have about 500 bytes each. Reading is linear in the number of files if four times as many
files take four times as long. Timed are: opening and checking the files, encoding them at level
char, and both again with the ids in the cache, as `charlm train --resume` does. A line has the
medians of the seconds and of the seconds of the processor, and the ratio of the latter to those of
the smallest number of files: other work on the machine hardly changes them. The files are in the
folder for temporary files, which TMPDIR names.

    TMPDIR=/dev/shm python benchmarks/reading.py --files 1000 4000 16000
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from measuring import (
    add_options,
    argument_parser,
    columns_of,
    medians,
    print_environment,
    print_results,
    run_main,
    seconds_of,
    text_override,
)

import charlm
from charlm.config.schema import ResolvedConfig
from charlm.data.resolve import resolve
from charlm.runs.encoding import encode

TEXT = "This sentence is in file number {number}, again and again.\n" * 9


def main() -> None:
    """Measure each number of files several times, and print a table and all as JSON."""
    options = arguments()
    print_environment(f"{options.rounds} rounds")
    rows: list[dict[str, Any]] = []
    for count in sorted(options.files):
        runs = [measure(count) for _ in range(options.rounds)]
        rows.append({"files": count, **medians(columns_of(runs)), "runs": runs})
        print(format_row(rows[0], rows[-1]), flush=True)
    print_results(rows=rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, files=[1000, 4000, 16000], rounds=3)
    return parser.parse_args()


def measure(count: int) -> dict[str, float]:
    """Return the seconds of reading N new files at first and again."""
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.dict(os.environ, CHARLM_CACHE=f"{name}/cache"),
    ):
        texts = Path(name) / "texts"
        texts.mkdir()
        for number in range(count):
            (texts / f"{number:06}.txt").write_text(TEXT.format(number=number), encoding="utf-8")
        config = resolve(charlm.load_config(None, [text_override(texts)]))
        return {**read("first", config), **read("again", config)}


def read(name: str, config: ResolvedConfig) -> dict[str, float]:
    """Return the seconds and the processor seconds of reading and encoding a text once."""
    start = time.process_time()
    seconds = seconds_of(lambda: encode(config))
    return {f"{name}_seconds": seconds, f"{name}_processor": time.process_time() - start}


def format_row(smallest: dict[str, Any], row: dict[str, Any]) -> str:
    """Return a line with the seconds, and their ratios to those of the smallest number of files."""
    times = (
        f"{name} {row[f'{name}_seconds']:.2f} s, of the processor {row[f'{name}_processor']:.2f} s "
        f"({row[f'{name}_processor'] / smallest[f'{name}_processor']:.1f} times)"
        for name in ("first", "again")
    )
    ratio = row["files"] / smallest["files"]
    return f"{row['files']:,} files ({ratio:.1f} times): {'; '.join(times)}"


if __name__ == "__main__":
    run_main(main)
