"""How fast text becomes ids: charlm's table against the Hugging Face tokenizer with the same vocabulary.

Usage: python benchmarks/tokenize.py [TEXT] [--megabytes 64]. Without TEXT, the corpus python-docs. One core; the ids of
both are compared before anything is timed.
"""

import sys

sys.path.pop(0)  # This folder: this file would hide the standard library's `tokenize`.

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from charlm.config.schema import Tokenizer as TokenizerSection
from charlm.data.cards import build_corpus, corpus_files, load_card
from charlm.data.tokenizer import learn_tokenizer

BLOCK = 1 << 20


def megabytes_per_second(encode: Callable[[], object], megabytes: float) -> float:
    """Return the best of five."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        encode()
        seconds.append(time.perf_counter() - began)
    return megabytes / min(seconds)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", type=Path)
    parser.add_argument("--megabytes", type=int, default=64)
    arguments = parser.parse_args()
    path = arguments.text or corpus_files("python-docs", load_card("python-docs"))["train"]
    data = (path if path.is_file() else build_corpus("python-docs")).read_bytes()
    sample = data[:BLOCK].decode(errors="ignore")
    many = (data * (arguments.megabytes * BLOCK // len(data) + 1))[: arguments.megabytes * BLOCK]
    blocks = [
        many[at : at + BLOCK].decode(errors="ignore").encode() for at in range(0, len(many), BLOCK)
    ]
    print(f"{'level':<6} {'charlm MB/s':>12} {'tokenizers MB/s':>16} {'ratio':>8}")
    for level in ("char", "byte"):
        tokenizer = learn_tokenizer([data.decode()], TokenizerSection(level=level))
        library = tokenizer.library
        assert np.array_equal(tokenizer.encode(sample), library.encode(sample).ids)
        ours = megabytes_per_second(
            lambda: [tokenizer.encode_pieces([block], [False]) for block in blocks],  # noqa: B023
            len(many) / 1e6,
        )
        theirs = megabytes_per_second(lambda: library.encode(sample), len(sample) / 1e6)  # noqa: B023
        print(f"{level:<6} {ours:>12.0f} {theirs:>16.2f} {ours / theirs:>8.0f}")


if __name__ == "__main__":
    main()
