"""Board: nats per character of a held-out text after N minutes of training on two cores.

Three contestants train one after the other on the first nine tenths of the text, and score each
character of the last tenth once: charlm with automatic settings, a plain loop over `torch.nn.LSTM`,
and a transformer of the size of nanoGPT's CPU recipe. --configs adds charlm with a configuration,
and --program a program of your own. Before and after each training, the speed of the machine is
measured with fixed work, in GFLOP/s. The machine must be idle otherwise.

--out is the JSON of the board, with a plot beside it (.svg). It is written after each training, and
a training that it contains is not repeated, so the command continues where it was stopped. Without
--out, the JSON is printed at the end. The table has a line for each contestant and time, the best
first: the median over the seeds with its range, and the steps, parameters and settings of the run
nearest to it. The rules of the board are in docs/board.md.

    python benchmarks/board.py tinyshakespeare.txt --minutes 1 5 20 --seeds 1,2,3 --out board.json
    python benchmarks/board.py tinyshakespeare.txt --configs shakespeare --out board.json
    python benchmarks/board.py tinyshakespeare.txt --program mine=my_program.py --out board.json
"""

import argparse
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from board_format import Board, Machine, Row, Speed, Text, read_board, write_board
from board_page import draw, summary_table
from measuring import (
    add_options,
    add_out,
    add_series,
    add_text,
    argument_parser,
    environment,
    read_text,
    run_main,
    run_python,
    seconds_of,
)
from pydantic import ValidationError

from charlm.errors import CharlmError
from charlm.version import VERSION

FOLDER = Path(__file__).parent
HELD_OUT = 0.1
SQUARE = 2048  # Rows of the matrices of the fixed product.
UNITS, BATCH, WINDOW = 512, 32, 64  # Of the fixed LSTM step.
ROUNDS = 5  # The fastest counts.


@dataclass(frozen=True)
class Contestant:
    """A program that takes part.

    Attributes:
        name: Name in the board.
        program: File of the program.
        options: Arguments after those that every contestant gets.
        source: Address of the program; None for one of this repository.
        version: Version of the program.
    """

    name: str
    program: Path
    options: tuple[str, ...] = ()
    source: str | None = None
    version: str = f"charlm {VERSION}"


OWN = {
    "charlm": Contestant("charlm", FOLDER / "board_charlm.py"),
    "lstm": Contestant("torch.nn.LSTM", FOLDER / "board_lstm.py"),
    "transformer": Contestant("transformer", FOLDER / "board_transformer.py"),
}


def main() -> None:
    """Run what is missing on the board; print a line per training and a table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    known = choose_contestants(options)
    contestants = [known[name] for name in options.only or known]
    text = read_text(options.text)
    board = begin(options, text)
    with tempfile.TemporaryDirectory() as folder:
        texts = write_parts(text, Path(folder))
        order = itertools.product(options.minutes, options.seeds, contestants)
        for minutes, seed, contestant in order:
            if (contestant.name, minutes, seed) in {row.key for row in board.rows}:
                continue
            row = measure(contestant, texts, minutes, seed, options.threads)
            board = board.with_row(row)
            print(format_row(row), flush=True)
            if options.out:
                write_board(options.out, board)
                options.out.with_suffix(".svg").write_text(draw(board), encoding="utf-8")
    print("\n" + summary_table(board))
    if not options.out:
        print(board.model_dump_json())


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_text(parser)
    add_options(parser, minutes=[1.0], seeds=[1], configs=[], threads=2)
    add_programs(parser)
    add_out(parser, required=False)
    options = parser.parse_args()
    if any("=" not in pair for pair in options.program):
        parser.error("--program: must be NAME=FILE")
    if unknown := set(options.only) - set(choose_contestants(options)):
        parser.error(f"--only: {min(unknown)} is no contestant, nor one of --configs or --program")
    if options.source is not None and not options.program:
        parser.error("--source: needs --program")
    return options


def add_programs(parser: argparse.ArgumentParser) -> None:
    """Add the options for programs of others, and the choice among all."""
    parser.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="also a Python program, run as FILE TRAIN HELD_OUT MINUTES SEED; its last line is "
        "JSON; can be repeated",
    )
    parser.add_argument("--source", help="address of the code of --program")
    parser.add_argument("--program-version", default="unknown", help="version of --program")
    add_series(
        parser,
        "--only",
        [],
        metavar="NAME",
        help=f"contestants, instead of all: {', '.join(OWN)}, or names of --configs and --program",
    )


def choose_contestants(options: argparse.Namespace) -> dict[str, Contestant]:
    """Return the programs that the command line names, by their names in it."""
    charlm = OWN["charlm"].program
    configured = {
        name: Contestant(f"charlm, {Path(name).stem}", charlm, ("--config", name))
        for name in options.configs
    }
    pairs = (pair.partition("=") for pair in options.program)
    others = {
        name: Contestant(name, Path(path), source=options.source, version=options.program_version)
        for name, _, path in pairs
    }
    return OWN | configured | others


def begin(options: argparse.Namespace, text: str) -> Board:
    """Return the board of the file to continue, or one without rows."""
    machine = Machine(**environment() | {"threads": options.threads})
    board = Board(text=describe_text(Path(options.text).name, text), machine=machine)
    if options.out is None or not options.out.exists():
        return board
    try:
        found = read_board(options.out)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise CharlmError(f"{options.out}: {place}: {first['msg']}; name another --out") from None
    for name in ("text", "machine"):
        if getattr(found, name) != getattr(board, name):
            raise CharlmError(
                f"{options.out}: its {name} is another one: {getattr(found, name)!r}; name another "
                "--out"
            )
    return found


def describe_text(name: str, text: str) -> Text:
    """Return the facts about a text."""
    train, held_out = divide(text)
    return Text(
        name=name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        training_characters=len(train),
        held_out_characters=len(held_out),
    )


def divide(text: str) -> tuple[str, str]:
    """Return the text to train on and the held-out text."""
    training = int(len(text) * (1 - HELD_OUT))
    return text[:training], text[training:]


def write_parts(text: str, folder: Path) -> list[Path]:
    """Write the text to train on and the held-out text to two files; return them."""
    paths = [folder / "train.txt", folder / "held-out.txt"]
    for path, part in zip(paths, divide(text), strict=True):
        path.write_bytes(part.encode())
    return paths


def measure(
    contestant: Contestant, texts: Sequence[Path], minutes: float, seed: int, threads: int
) -> Row:
    """Run a contestant between two measurements of the machine's speed.

    Raises:
        CharlmError: The program did not predict every character once, or broke a rule.
    """
    speed_before = machine_speed()
    start = time.perf_counter()
    given = [*texts, f"{minutes:g}", str(seed), *contestant.options]
    output = run_python(contestant.program, *given, threads=threads)
    total_seconds = time.perf_counter() - start
    try:
        result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        predicted = result.pop("characters")
        expected = len(texts[1].read_bytes().decode())
        if predicted != expected:
            raise ValueError(f"characters: must be {expected}, got {predicted}")
        return Row(
            contestant=contestant.name,
            source=contestant.source,
            version=contestant.version,
            minutes=minutes,
            seed=seed,
            total_seconds=round(total_seconds, 2),
            speed_before=speed_before,
            speed_after=machine_speed(),
            **result,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        problem = f"{contestant.name}: its result is not valid: {error!r}"
        raise CharlmError(" ".join(problem.split())) from None


def machine_speed() -> Speed:
    """Measure the speed of the machine with fixed work, on the threads of this process."""
    torch.manual_seed(0)
    square = torch.randn(SQUARE, SQUARE)
    low = square.bfloat16()
    lstm = torch.nn.LSTM(UNITS, UNITS)
    inputs = torch.randn(WINDOW, BATCH, UNITS)
    # Per multiplication of a product two operations; six in a step forward and backward.
    product, step = 2 * SQUARE**3, 6 * 4 * UNITS * 2 * UNITS * BATCH * WINDOW
    return Speed(
        product_fp32=fastest(lambda: square @ square, product),
        product_bf16=fastest(lambda: low @ low, product),
        lstm=fastest(lambda: lstm(inputs)[0].sum().backward(), step),
    )


def fastest(work: Callable[[], object], operations: float) -> float:
    """Return the highest rate of several calls in GFLOP/s."""
    work()  # The first call builds kernels.
    return round(operations / min(seconds_of(work) for _ in range(ROUNDS)) / 1e9, 1)


def format_row(row: Row) -> str:
    """Return the line of one training, with the speeds that changed."""
    note = "".join(
        f"; the speed {name} changed from {getattr(row.speed_before, name):.0f} to "
        f"{getattr(row.speed_after, name):.0f} GFLOP/s"
        for name in row.changed_speeds
    )
    return (
        f"{row.minutes:g} min, seed {row.seed}, {row.contestant}: {row.loss_nats:.4f} nats, "
        f"{row.steps:,} steps, {row.total_seconds:.0f} s in total; {row.settings}{note}"
    )


if __name__ == "__main__":
    run_main(main)
