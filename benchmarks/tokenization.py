"""Encoding speed of charlm's table, compared with the Hugging Face library's tokenizer.

Both have the same vocabulary, and their ids are compared before they are timed on one core.

    python benchmarks/tokenization.py [TEXT] [--megabytes 64]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from charlm.config.schema import Tokenizer as TokenizerSection
from charlm.data.cards import build_corpus, corpus_files, load_card
from charlm.data.tokenizer import learn_tokenizer

BLOCK_BYTES = 1 << 20
REPEATS = 5


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", nargs="?", type=Path, help="default: the corpus python-docs")
    parser.add_argument("--megabytes", type=int, default=64, help="size of the encoded text")
    arguments = parser.parse_args()
    path = arguments.text or corpus_files("python-docs", load_card("python-docs"))["train"]
    data = (path if path.is_file() else build_corpus("python-docs")).read_bytes()
    print(f"{'level':<6} {'charlm MB/s':>12} {'tokenizers MB/s':>16} {'ratio':>8}")
    for level in ("char", "byte"):
        ours, theirs = compare(data, level, arguments.megabytes * BLOCK_BYTES)
        print(f"{level:<6} {ours:>12.0f} {theirs:>16.2f} {ours / theirs:>8.0f}")


def compare(data: bytes, level: str, num_bytes: int) -> tuple[float, float]:
    """Return the speed of charlm and of the library, in megabytes per second."""
    tokenizer = learn_tokenizer([data.decode()], TokenizerSection(level=level))
    library = tokenizer.library
    sample = data[:BLOCK_BYTES].decode(errors="ignore")
    assert np.array_equal(tokenizer.encode(sample), library.encode(sample).ids)
    blocks = blocks_of(data, num_bytes)

    def encode() -> None:
        for block in blocks:
            tokenizer.encode_pieces([block], [False])

    ours = megabytes_per_second(encode, num_bytes / 1e6)
    theirs = megabytes_per_second(lambda: library.encode(sample), len(sample) / 1e6)
    return ours, theirs


def blocks_of(data: bytes, num_bytes: int) -> list[bytes]:
    """Return a text, repeated to `num_bytes`, in blocks of whole characters."""
    repeated = (data * (num_bytes // len(data) + 1))[:num_bytes]
    return [
        repeated[start : start + BLOCK_BYTES].decode(errors="ignore").encode()
        for start in range(0, num_bytes, BLOCK_BYTES)
    ]


def megabytes_per_second(encode: Callable[[], object], megabytes: float) -> float:
    """Return the best speed of several calls."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        encode()
        seconds.append(time.perf_counter() - start)
    return megabytes / min(seconds)


if __name__ == "__main__":
    main()
