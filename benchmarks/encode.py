"""Speed and memory of encoding a text in many files, beside the Hugging Face tokenizers library.

The files are made from TEXT, by default the corpus python-source, repeated; the vocabulary is
learned from the first file. Three measurements are taken in turn, in megabytes of text per second:

    to disk    charlm encodes all files to ids on disk, with several processes
    in memory  charlm encodes the first 64 megabytes, in this process on one core
    library    the library alone encodes the first files in documents of four kilobytes, and keeps
               nothing, with as many threads as there are processes: at the levels char and byte
               two megabytes, at word and bpe all

The ids of both are compared first. The table has the medians, the ratio of the first rate to the
last, the number of tokens, the highest memory of all processes together, polled every 50 ms, and
the seconds for opening and checking the files, which are not part of a rate. The folder for
temporary files, which TMPDIR names, needs space for twice the text.

    python benchmarks/encode.py --gigabytes 2 --files 100 --workers 2
    python benchmarks/encode.py --level bpe --gigabytes 0.2 --files 20 --rounds 3
    python benchmarks/encode.py python-docs --level char byte --gigabytes 0.1 --files 1 --workers 1
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import (
    add_options,
    add_text,
    argument_parser,
    count,
    markdown_table,
    measure_in_turn,
    median_ratio,
    medians,
    print_environment,
    print_results,
    process_bytes,
    read_text,
    run_main,
    seconds_of,
)

import charlm
from charlm.config.corpus import Corpus
from charlm.config.schema import Config
from charlm.data.corpus import Text, open_corpus
from charlm.data.resolve import resolve
from charlm.data.tokenizer import Tokenizer
from charlm.data.tokens import encode_text
from charlm.data.vocabulary import learn_tokenizer
from charlm.errors import CorpusError, TokenizerError

POLL_SECONDS = 0.05
MEGABYTE = 10**6
IN_MEMORY_BYTES = 64 * MEGABYTE
# Size of the documents that the library alone encodes: it is slower on shorter and longer ones.
DOCUMENT_BYTES = 1 << 12
# The library encodes characters and bytes hundreds of times as slowly as charlm.
LIBRARY_BYTES = {"char": 2 * MEGABYTE, "byte": 2 * MEGABYTE}
COLUMNS = ("level", "tokens", "to disk", "in memory", "library", "ratio", "memory, GB", "opened, s")
Encode = Callable[[list[bytes]], object]


class Usage(NamedTuple):
    """Number of ids on disk, and the highest memory of all processes that made them."""

    tokens: int
    peak_bytes: int


def main() -> None:
    """Write the files and encode them at each level; print a table and all as JSON."""
    options = arguments()
    # The threads of the library in this process; it reads the variable when it first encodes.
    os.environ["RAYON_NUM_THREADS"] = str(options.workers)
    print_environment(f"{options.workers} processes, {options.rounds} rounds")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = round(options.gigabytes * 1e9 / options.files)
        source = read_text(options.text).encode()
        files = write_files(folder / "texts", source, size, options.files)
        rows = [measure(level, files, folder, options) for level in options.level]
    print(markdown_table(COLUMNS, map(cells_of, rows)))
    print_results(files=options.files, workers=options.workers, rows=rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_text(parser, nargs="?", default="python-source")
    add_options(parser, level=["char"], gigabytes=2.0, files=100, rounds=1)
    parser.add_argument("--workers", type=count, default=2, help="number of processes [2]")
    return parser.parse_args()


def write_files(folder: Path, source: bytes, size: int, count: int) -> list[Path]:
    """Write N different files of about `size` bytes, made of a text.

    Raises:
        CorpusError: The text has no line end.
    """
    if b"\n" not in source:
        raise CorpusError("the text has no line end, but files and documents consist of lines")
    data = source * (size // len(source) + 2)
    folder.mkdir()
    files = []
    for index in range(count):
        start = data.index(b"\n", index * len(source) // count) + 1
        files.append(folder / f"{index:04}.txt")
        files[-1].write_bytes(data[start : data.index(b"\n", start + max(0, size - 100)) + 1])
    return files


def measure(
    level: str, files: list[Path], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Encode the files at one level, with charlm and with the library."""
    section = charlm.load_config(None, [f"tokenizer.level={level}"]).tokenizer
    tokenizer = learn_tokenizer([files[0].read_text(encoding="utf-8")], section)
    compare_ids(tokenizer, next(read_documents(files, 1))[0].decode())
    start = time.perf_counter()
    text = open_text(files[0].parent)
    open_seconds = time.perf_counter() - start
    usages: list[Usage] = []
    most = LIBRARY_BYTES.get(level, text.size)
    measurements = {
        "to_disk": partial(to_disk, text, tokenizer, folder / "ids", options.workers, usages),
        "in_memory": partial(rate, in_memory(tokenizer), files, IN_MEMORY_BYTES),
        "library": partial(rate, library(tokenizer), files, most),
    }
    rates = measure_in_turn(measurements, options.rounds)
    return {
        "level": level,
        "bytes": text.size,
        "tokens": usages[0].tokens,
        "peak_bytes": max(usage.peak_bytes for usage in usages),
        "open_seconds": open_seconds,
        "megabytes_per_second": medians(rates),
        "ratio": median_ratio(rates["to_disk"], rates["library"]),
        "rounds": rates,
    }


def compare_ids(tokenizer: Tokenizer, document: str) -> None:
    """Check that charlm and the library encode a document alike.

    Raises:
        TokenizerError: The ids differ.
    """
    ids = tokenizer.library.encode(document, add_special_tokens=False).ids
    if not np.array_equal(tokenizer.encode(document), ids):
        raise TokenizerError(
            f"level {tokenizer.section.level}: the ids of charlm and of tokenizers differ"
        )


def open_text(folder: Path) -> Text:
    """Open and check all files of a folder as one training text."""
    config = Config(corpus=Corpus(text=(str(folder),), valid_share=0.0))
    return open_corpus(resolve(config)).parts["train"]


def to_disk(
    text: Text, tokenizer: Tokenizer, cache: Path, workers: int, usages: list[Usage]
) -> float:
    """Return the megabytes per second of encoding a text to ids on disk; add what it used."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        encoded = encode_text(text, tokenizer, mode="stream", cache=cache, workers=workers)
        seconds = time.perf_counter() - start
    usages.append(Usage(encoded.counts.tokens, memory.peak))
    del encoded  # The ids are a memory map of a file that is removed.
    shutil.rmtree(cache)
    return text.size / seconds / MEGABYTE


def in_memory(tokenizer: Tokenizer) -> Encode:
    """Return a function that encodes documents with charlm."""
    return lambda documents: tokenizer.encode_pieces(documents, [False] * len(documents))


def library(tokenizer: Tokenizer) -> Encode:
    """Return a function that encodes documents with the library alone."""
    encode = partial(tokenizer.library.encode_batch_fast, add_special_tokens=False)
    return lambda documents: encode([document.decode() for document in documents])


def rate(encode: Encode, files: list[Path], most_bytes: int) -> float:
    """Return the megabytes per second of encoding the beginning of the files, without reading."""
    seconds, size = 0.0, 0
    for documents in read_documents(files, most_bytes):
        seconds += seconds_of(partial(encode, documents))
        size += sum(map(len, documents))
    return size / seconds / MEGABYTE


def read_documents(files: list[Path], most_bytes: int) -> Iterator[list[bytes]]:
    """Yield the first bytes of the files, at least `most_bytes`, in groups of documents.

    A document is some lines of a file, and a group is about a megabyte of documents of a file.
    """
    size = 0
    for file in files:
        lines = file.read_bytes().splitlines(keepends=True)
        documents = map(b"".join, groups(lines, DOCUMENT_BYTES))
        for group in groups(documents, MEGABYTE):
            yield group
            size += sum(map(len, group))
            if size >= most_bytes:
                return


def groups(parts: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """Yield parts in groups of at least `size` bytes; the last may be smaller.

    >>> list(groups([b"ab", b"c", b"d", b"e"], 3))
    [[b'ab', b'c'], [b'd', b'e']]
    """
    group, length = [], 0
    for part in parts:
        group.append(part)
        length += len(part)
        if length >= size:
            yield group
            group, length = [], 0
    if group:
        yield group


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


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the cells of one level."""
    rates = [f"{rate:,.1f}" for rate in row["megabytes_per_second"].values()]
    memory, seconds = f"{row['peak_bytes'] / 1e9:.2f}", f"{row['open_seconds']:.1f}"
    return [row["level"], f"{row['tokens']:,}", *rates, f"{row['ratio']:.2f}", memory, seconds]


if __name__ == "__main__":
    run_main(main)
