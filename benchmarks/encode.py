"""Speed and memory of encoding a text in many files with several processes.

The files are made from the corpus python-source, repeated, and the vocabulary is learned from the
first file. The encoding is timed after the corpus has been opened; the time to open and check the
files is printed as well. Words and subwords are compared with Hugging Face's tokenizers alone on as
many threads, which read the same files and keep nothing; the two are timed in turn.

    python benchmarks/encode.py --gigabytes 2 --files 100 --workers 2
    python benchmarks/encode.py --level bpe --gigabytes 0.2 --files 20 --workers 2
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

from charlm.config.load import load_config
from charlm.config.schema import Config, Corpus
from charlm.data.cards import build_corpus
from charlm.data.corpus import Text, open_corpus
from charlm.data.resolve import resolve
from charlm.data.tokenizer import Tokenizer, learn_tokenizer
from charlm.data.tokens import Counts, encode_text

POLL_SECONDS = 0.05
DOCUMENT_BYTES = 1 << 12  # The library is slower on longer and on shorter documents.


def main() -> None:
    """Make the files, encode them, and print a table and all numbers as JSON."""
    arguments = parse_arguments()
    # Set before the library's threads of this process start.
    os.environ["RAYON_NUM_THREADS"] = str(arguments.workers)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        file_bytes = round(arguments.gigabytes * 1e9 / arguments.files)
        files = make_files(folder / "texts", file_bytes, arguments.files)
        section = load_config(None, [f"tokenizer.level={arguments.level}"]).tokenizer
        tokenizer = learn_tokenizer([files[0].read_text(encoding="utf-8")], section)
        start = time.perf_counter()
        text = open_text(folder / "texts")
        opened_seconds = time.perf_counter() - start
        rows = []
        for _ in range(arguments.repeats):
            row, counts = measure(text, tokenizer, folder / "ids", arguments.workers)
            if arguments.level in ("bpe", "word"):
                library_seconds = encode_with_library(tokenizer, files)
                row["library_megabytes_per_second"] = text.size / library_seconds / 1e6
            rows.append(row)
            print(" ".join(f"{name} {value:,.1f}" for name, value in row.items()), flush=True)
    report(arguments, text.size, counts.tokens, opened_seconds, rows)


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--level", choices=["char", "byte", "word", "bpe"], default="char")
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--files", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="folder with room for twice the text")
    return parser.parse_args()


def make_files(folder: Path, size: int, count: int) -> list[Path]:
    """Write `count` distinct files of about `size` bytes."""
    source = build_corpus("python-source", to=folder.parent / "source.txt").read_bytes()
    repeated = source * (size // len(source) + 2)
    folder.mkdir()
    files = []
    for number in range(count):
        start = repeated.index(b"\n", number * len(source) // count) + 1
        stop = repeated.index(b"\n", start + size - 100) + 1
        files.append(folder / f"{number:04}.txt")
        files[-1].write_bytes(repeated[start:stop])
    return files


def open_text(folder: Path) -> Text:
    """Return the text of all files of a folder."""
    corpus = Corpus(text=(str(folder),), valid_share=0.0)
    return open_corpus(resolve(Config(corpus=corpus))).parts["train"]


def measure(
    text: Text, tokenizer: Tokenizer, cache: Path, workers: int
) -> tuple[dict[str, float], Counts]:
    """Encode a text once, and return seconds, speed and memory, and the text's counts."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        tokens = encode_text(text, tokenizer, mode="stream", cache=cache, workers=workers)
        seconds = time.perf_counter() - start
    for file in cache.iterdir():
        file.unlink()
    row = {
        "seconds": seconds,
        "megabytes_per_second": text.size / seconds / 1e6,
        "peak_bytes": memory.peak,
    }
    return row, tokens.counts


def encode_with_library(tokenizer: Tokenizer, files: list[Path]) -> float:
    """Return the seconds that the library alone takes for the files, split into documents."""
    start = time.perf_counter()
    for file in files:
        documents, size = [[]], 0
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if size >= DOCUMENT_BYTES:
                documents.append([])
                size = 0
            documents[-1].append(line)
            size += len(line)
        tokenizer.library.encode_batch_fast(list(map("".join, documents)), add_special_tokens=False)
    return time.perf_counter() - start


class PeakMemory:
    """The peak memory of this process and its child processes together, sampled regularly."""

    def __init__(self) -> None:
        """Begin with zero bytes."""
        self.peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> "PeakMemory":
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            self.peak = max(self.peak, sum(map(proportional_bytes, processes)))


def proportional_bytes(process: int | None) -> int:
    """Return the memory of a process in bytes, with its share of memory used by several."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0  # The process has ended.
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def report(
    arguments: argparse.Namespace,
    size: int,
    tokens: int,
    opened_seconds: float,
    rows: list[dict[str, float]],
) -> None:
    """Print the medians, and all rows as JSON."""
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    print(
        f"\n{arguments.level}, {arguments.files} files, {size / 1e9:.2f} GB, {tokens:,} tokens, "
        f"{arguments.workers} processes: {median['megabytes_per_second']:.0f} MB/s, at most "
        f"{median['peak_bytes'] / 1e9:.2f} GB of memory; opened and checked in "
        f"{opened_seconds:.1f} s"
    )
    if "library_megabytes_per_second" in median:
        library = median["library_megabytes_per_second"]
        ratio = median["megabytes_per_second"] / library
        print(f"the library alone: {library:.1f} MB/s; charlm has {ratio:.2f} of its speed")
    facts = {
        "level": arguments.level,
        "bytes": size,
        "files": arguments.files,
        "workers": arguments.workers,
        "tokens": tokens,
        "opened_seconds": opened_seconds,
        "runs": rows,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
