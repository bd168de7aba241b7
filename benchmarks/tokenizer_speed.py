"""Speed of encoding characters and bytes beside the Hugging Face tokenizer with the same ids.

One core. The ids of both are compared before anything is timed. The rates are the best of five
runs. Without TEXT, the text is the corpus python-docs.

    python benchmarks/tokenizer_speed.py --megabytes 64
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import argument_parser, run_main, seconds_of

from charlm.config.tokenizer import Tokenizer as TokenizerSection
from charlm.data.cards import build_corpus, corpus_files, load_card
from charlm.data.tokenizer import learn_tokenizer

BLOCK_BYTES = 1 << 20
REPEATS = 5


def main() -> None:
    """Encode a text with both and print a table."""
    options = arguments()
    data = read_text(options.text)
    size = options.megabytes * BLOCK_BYTES
    blocks = split_blocks((data * (size // len(data) + 1))[:size])
    print(f"{'level':<6} {'charlm MB/s':>12} {'tokenizers MB/s':>16} {'ratio':>8}")
    for level in ("char", "byte"):
        ours, theirs = compare(level, data, blocks)
        print(f"{level:<6} {ours:>12.0f} {theirs:>16.2f} {ours / theirs:>8.0f}", flush=True)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("text", nargs="?", type=Path, help="file to encode [corpus python-docs]")
    parser.add_argument(
        "--megabytes", type=int, default=64, help="size to which the text is repeated [64]"
    )
    return parser.parse_args()


def read_text(path: Path | None) -> bytes:
    """Return the text as UTF-8 bytes; build the corpus python-docs if it is needed."""
    path = path or corpus_files("python-docs", load_card("python-docs"))["train"]
    return (path if path.is_file() else build_corpus("python-docs")).read_bytes()


def split_blocks(data: bytes) -> list[bytes]:
    """Return blocks of about one megabyte, without the characters that a cut has divided."""
    return [
        data[start : start + BLOCK_BYTES].decode(errors="ignore").encode()
        for start in range(0, len(data), BLOCK_BYTES)
    ]


def compare(level: str, data: bytes, blocks: list[bytes]) -> tuple[float, float]:
    """Return the MB/s of charlm, and of the Hugging Face tokenizer on the first megabyte."""
    sample = data[:BLOCK_BYTES].decode(errors="ignore")
    tokenizer = learn_tokenizer([data.decode()], TokenizerSection(level=level))
    library = tokenizer.library
    if not np.array_equal(tokenizer.encode(sample), library.encode(sample).ids):
        raise SystemExit(
            f"tokenizer_speed.py: level {level}: the ids of charlm and of tokenizers differ"
        )
    ours = megabytes_per_second(
        lambda: [tokenizer.encode_pieces([block], [False]) for block in blocks],
        sum(map(len, blocks)) / 1e6,
    )
    return ours, megabytes_per_second(lambda: library.encode(sample), len(sample.encode()) / 1e6)


def megabytes_per_second(encode: Callable[[], object], megabytes: float) -> float:
    """Return the best rate of five runs."""
    return megabytes / min(seconds_of(encode) for _ in range(REPEATS))


if __name__ == "__main__":
    run_main(main)
