"""How often the 95 % interval of `charlm eval compare` contains the true difference.

Two small LSTMs are trained on each text and score the whole of it. The difference of their bits per
character on the whole text is taken as the truth. Slices of the text, at random places, play the
texts that a user scores: the table shows how many of their intervals contain the truth, and how
wide they are on average, in bits per character. The column "1,000" is Student's interval over
blocks of 1,000 characters, as many as the slice has, which takes them as independent. The seed of
the trainings and of the places is 1.

Slices of a text overlap, and a slice that is a large part of the text is closer to the truth than
another text would be: --slice should be a tenth of the text or less.

    python benchmarks/coverage.py python-docs python-source
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from measuring import (
    add_options,
    add_series,
    add_text,
    argument_parser,
    count,
    print_environment,
    print_results,
    read_text,
    run_main,
    text_override,
)

import charlm
from charlm.data.utf8 import split_lines
from charlm.errors import CharlmError
from charlm.evaluation.intervals import BLOCKS, ratio_interval
from charlm.evaluation.lines import PIECE_CHARACTERS, nats_of_lines, piece_of_lines
from charlm.evaluation.static_model import Floats, of_trained
from charlm.model_texts import open_string

SEED = 1
HIDDEN_SIZES = (32, 96)
SETTINGS = [
    "model.cell=lstm",
    "model.embedding_size=32",
    "tokenizer.level=char",
    "training.batch_size=32",
    "training.window=64",
    "training.learning_rate=8e-3",
    "training.evaluations=1",
    f"training.seed={SEED}",
]


class Scored(NamedTuple):
    """A text in pieces of about 1,000 characters: difference in bits, and size, of each piece."""

    bits: Floats
    characters: Floats


def main() -> None:
    """Train and score on each text; print the coverage by length of the slices, and JSON."""
    options = arguments()
    print_environment(f"{options.slices} slices, {options.steps} steps")
    print(f"{'text':<24} {'characters':>11} {'covered':>9} {'width':>8} {'1,000':>9} {'width':>8}")
    rows = []
    for name in options.texts:
        text = read_text(name)[: options.characters]
        if max(options.slice) >= len(text):
            raise CharlmError(
                f"--slice: must be less than the {len(text):,} characters of {name}, "
                f"got {max(options.slice)}"
            )
        scored = score_text(text, options.steps)
        for length in options.slice:
            rows.append({"text": Path(name).name, **coverage(scored, length, options.slices)})
            print(format_row(rows[-1]), flush=True)
    print_results(slices=options.slices, steps=options.steps, rows=rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_text(parser, "texts", nargs="+")
    add_options(parser, steps=400)
    parser.add_argument(
        "--characters", type=count, default=3_000_000, help="longest part of a text [3000000]"
    )
    lengths = [30_000, 100_000, 200_000, 300_000]
    add_series(parser, "--slice", lengths, type=count, help="characters of the slices")
    parser.add_argument("--slices", type=count, default=1000, help="slices of each length [1000]")
    return parser.parse_args()


def score_text(text: str, steps: int) -> Scored:
    """Train both models on a text; return how the pieces of the text differ between them."""
    lines = split_lines(text)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        path.write_bytes(text.encode())
        nats = [line_nats(path, size, text, lines, steps) for size in HIDDEN_SIZES]
    pieces = piece_of_lines(lines, PIECE_CHARACTERS)
    lengths = np.array([len(line) for line in lines], dtype=np.float64)
    return Scored(
        bits=np.bincount(pieces, weights=(nats[1] - nats[0]) / np.log(2)),
        characters=np.bincount(pieces, weights=lengths),
    )


def line_nats(path: Path, hidden_size: int, text: str, lines: list[str], steps: int) -> Floats:
    """Return the nats that each line of a text costs a model that is trained on the text."""
    sizes = [f"model.hidden_size={hidden_size}", f"training.steps={steps}"]
    config = charlm.load_config(None, [text_override(path), *SETTINGS, *sizes])
    trained = charlm.train(config, out=path.parent / f"run-{hidden_size}", progress=False).trained
    with open_string(trained, text, splits_documents=False) as opened:
        ids = opened.tokens.ids
    log_p = of_trained(trained).log_probabilities(ids)
    return nats_of_lines(ids, log_p, trained.tokenizer, lines, records=False)


def coverage(scored: Scored, length: int, slices: int) -> dict[str, Any]:
    """Return how many intervals of slices contain the difference on the whole text."""
    random = np.random.default_rng(SEED)
    truth = float(scored.bits.sum() / scored.characters.sum())
    ends = np.cumsum(scored.characters)
    intervals: dict[str, list[tuple[float, float]]] = {"long": [], "short": []}
    for start in random.uniform(0, ends[-1] - length, size=slices):
        pieces = slice(*np.searchsorted(ends, [start, start + length]))
        bits, characters = scored.bits[pieces], scored.characters[pieces]
        for name, blocks in (("long", BLOCKS), ("short", (len(bits),))):
            interval = ratio_interval(bits, characters, blocks=blocks)
            if interval is not None:
                intervals[name].append(interval)
    row: dict[str, Any] = {"characters": length, "whole": float(ends[-1]), "truth": truth}
    for name, found in intervals.items():
        low, high = np.array(found).T
        row[f"{name}_covered"] = float(((low <= truth) & (truth <= high)).mean())
        row[f"{name}_width"] = float((high - low).mean())
    return row


def format_row(row: dict[str, Any]) -> str:
    """Return the line of one length of slices."""
    return (
        f"{row['text']:<24} {row['characters']:>11,} {row['long_covered']:>9.1%} "
        f"{row['long_width']:>8.4f} {row['short_covered']:>9.1%} {row['short_width']:>8.4f}"
    )


if __name__ == "__main__":
    run_main(main)
