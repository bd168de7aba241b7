"""Speed and memory of encoding a text in many files to ids on disk, with several processes.

The files are made from the corpus python-source, repeated. The vocabulary is learned from the first
file. Timed is the encoding of the opened corpus; the time for opening and checking the files is
printed separately. Words and subwords are compared in turn with the Hugging Face tokenizers library
alone, which reads the same files with as many threads and keeps nothing.

    python benchmarks/encode.py --gigabytes 2 --files 100 --workers 2
    python benchmarks/encode.py --level bpe --gigabytes 0.2 --files 20 --workers 2
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from measuring import argument_parser, columns_of, medians, process_bytes, run_main, seconds_of

import charlm
from charlm.config.corpus import Corpus
from charlm.config.schema import Config
from charlm.data.cards import build_corpus
from charlm.data.corpus import Text, open_corpus
from charlm.data.resolve import resolve
from charlm.data.tokenizer import Tokenizer, learn_tokenizer
from charlm.data.tokens import encode_text

POLL_SECONDS = 0.05
# Size of the documents that the library alone encodes: it is slower on shorter and longer ones.
DOCUMENT_BYTES = 1 << 12
LIBRARY_LEVELS = ("bpe", "word")


def main() -> None:
    """Write the files, encode them, and print a table and all as JSON."""
    options = arguments()
    # The threads of the library in this process; it reads the variable when it first encodes.
    os.environ["RAYON_NUM_THREADS"] = str(options.workers)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = round(options.gigabytes * 1e9 / options.files)
        files = write_files(folder / "texts", size, options.files)
        section = charlm.load_config(None, [f"tokenizer.level={options.level}"]).tokenizer
        tokenizer = learn_tokenizer([files[0].read_text(encoding="utf-8")], section)
        start = time.perf_counter()
        text = open_text(folder / "texts")
        open_seconds = time.perf_counter() - start
        rows = []
        for _ in range(options.repeats):
            row = measure(text, tokenizer, folder / "ids", options.workers)
            if options.level in LIBRARY_LEVELS:
                seconds = seconds_of(lambda: encode_with_library(tokenizer, files))
                row["library_megabytes_per_second"] = text.size / seconds / 1e6
            rows.append(row)
            print(" ".join(f"{name} {value:,.1f}" for name, value in row.items()), flush=True)
        report(options, text.size, open_seconds, rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--level", choices=["char", "byte", "word", "bpe"], default="char", help="tokens [char]"
    )
    parser.add_argument("--gigabytes", type=float, default=2, help="size of the text [2]")
    parser.add_argument("--files", type=int, default=100, help="number of files [100]")
    parser.add_argument("--workers", type=int, default=2, help="number of processes [2]")
    parser.add_argument("--repeats", type=int, default=1, help="number of measurements [1]")
    parser.add_argument(
        "--folder", type=Path, help="folder with space for twice the text [the system's]"
    )
    return parser.parse_args()


def write_files(folder: Path, size: int, count: int) -> list[Path]:
    """Write N different files of about `size` bytes."""
    source = build_corpus("python-source", to=folder.parent / "source.txt").read_bytes()
    data = source * (size // len(source) + 2)
    folder.mkdir()
    files = []
    for index in range(count):
        start = data.index(b"\n", index * len(source) // count) + 1
        files.append(folder / f"{index:04}.txt")
        files[-1].write_bytes(data[start : data.index(b"\n", start + size - 100) + 1])
    return files


def open_text(folder: Path) -> Text:
    """Open and check all files of a folder as one training text."""
    config = Config(corpus=Corpus(text=(str(folder),), valid_share=0.0))
    return open_corpus(resolve(config)).parts["train"]


def measure(text: Text, tokenizer: Tokenizer, cache: Path, workers: int) -> dict[str, float]:
    """Encode the text once; return tokens, seconds, rate and the highest memory use."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        encoded = encode_text(text, tokenizer, mode="stream", cache=cache, workers=workers)
        seconds = time.perf_counter() - start
    tokens = encoded.counts.tokens
    del encoded  # The ids are a memory map of a file that is removed.
    shutil.rmtree(cache)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "megabytes_per_second": text.size / seconds / 1e6,
        "peak_bytes": memory.peak,
    }


def encode_with_library(tokenizer: Tokenizer, files: list[Path]) -> None:
    """Encode the files with the Hugging Face library alone, in documents of a good size for it."""
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        documents = list(map("".join, split_documents(lines)))
        tokenizer.library.encode_batch_fast(documents, add_special_tokens=False)


def split_documents(lines: list[str]) -> list[list[str]]:
    """Divide lines into documents of at least `DOCUMENT_BYTES` characters."""
    documents: list[list[str]] = [[]]
    size = 0
    for line in lines:
        if size >= DOCUMENT_BYTES:
            documents.append([])
            size = 0
        documents[-1].append(line)
        size += len(line)
    return documents


class PeakMemory:
    """Highest memory use of this process and its children together, polled every 50 ms.

    Attributes:
        peak: Highest sum so far, in bytes.
    """

    def __init__(self) -> None:
        """Start at zero; polling begins with the `with` block."""
        self.peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll)

    def __enter__(self) -> "PeakMemory":
        """Start polling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop polling."""
        self._stopped.set()
        self._thread.join()

    def _poll(self) -> None:
        is_running = True
        while is_running:
            children = [child.pid for child in multiprocessing.active_children() if child.pid]
            # Pss: a page that several processes share is counted once, divided among them.
            sizes = [
                process_bytes(process, "smaps_rollup", "Pss")
                for process in (os.getpid(), *children)
            ]
            self.peak = max(self.peak, sum(sizes))
            is_running = not self._stopped.wait(POLL_SECONDS)


def report(
    options: argparse.Namespace, size: int, open_seconds: float, rows: list[dict[str, float]]
) -> None:
    """Print the medians, and all as JSON."""
    median = medians(columns_of(rows))
    rate = median["megabytes_per_second"]
    print(
        f"\n{options.level}, {options.files} files, {size / 1e9:.2f} GB, {median['tokens']:,.0f} "
        f"tokens, {options.workers} processes: {rate:.0f} MB/s, at most "
        f"{median['peak_bytes'] / 1e9:.2f} GB of memory; opened and checked in {open_seconds:.1f} s"
    )
    if "library_megabytes_per_second" in median:
        library_rate = median["library_megabytes_per_second"]
        print(f"library alone: {library_rate:.1f} MB/s; ratio: {rate / library_rate:.2f}")
    results = {
        "level": options.level,
        "bytes": size,
        "files": options.files,
        "workers": options.workers,
        "open_seconds": open_seconds,
        "runs": rows,
    }
    print(json.dumps(results))


if __name__ == "__main__":
    run_main(main)
