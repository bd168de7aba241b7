"""How often the automatic settings are the same: idle, and beside a busy program.

Each choice is made in a fresh process, as `charlm train TEXT --minutes M` makes it, and the device
is measured anew. Idle choices alternate with choices beside a program that keeps one core busy
with matrix products. The benchmark prints the settings of each (the number of passes is `epochs`),
and how many agree with the most frequent ones of the idle choices.

With --table, the device is measured once, and the settings for all sizes of a text (repeated or
cut from TEXT) and all budgets are printed. The speed is that of a network with the vocabulary of
tiny Shakespeare, whatever TEXT is.

    python benchmarks/choice.py tinyshakespeare.txt --minutes 1 --rounds 10
    python benchmarks/choice.py tinyshakespeare.txt --table
"""

import argparse
import json
import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from measuring import (
    VOCABULARY_SIZE,
    add_options,
    add_text,
    amount,
    argument_parser,
    print_environment,
    print_results,
    read_text,
    run_main,
    run_python,
    text_override,
)

from charlm.config.schema import Config
from charlm.runs.automatic.choice import choose
from charlm.runs.automatic.speed import Speed, measured_speed, multiplications
from charlm.training.devices import Hardware, choose_precision

CPU = torch.device("cpu")
TABLE_CHARACTERS = (50_000, 200_000, 1_000_000, 5_000_000, 20_000_000, 100_000_000)
TABLE_MINUTES = (1, 5, 20, 60, 120)
COLUMNS = ("hidden_size", "output_dropout", "learning_rate", "batch_size", "optimizer", "epochs")


def main() -> None:
    """Repeat the choice, or print the table; print all as JSON."""
    options = arguments()
    if options.once:
        print(json.dumps(measure_choice(options.text, options.minutes)))
        return
    print_environment()
    print_results(**(table(options) if options.table else repeated(options)))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_text(parser)
    add_options(parser, minutes=1.0, rounds=10)
    parser.add_argument("--table", action="store_true", help="print text size x budget instead")
    parser.add_argument(
        "--speed", type=amount, help="with --table, tokens per second of 256 units [measured]"
    )
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.speed is not None and not options.table:
        parser.error("--speed: needs --table")
    return options


def settings(config: Config) -> dict[str, Any]:
    """Return the settings that depend on the speed."""
    model, training = config.model, config.training
    return {
        "hidden_size": model.hidden_sizes[0],
        "output_dropout": model.output_dropout,
        "learning_rate": training.learning_rate,
        "batch_size": training.batch_size,
        "optimizer": training.optimizer,
        "epochs": training.epochs,
    }


def repeated(options: argparse.Namespace) -> dict[str, Any]:
    """Make choices in turn, idle and beside a busy program, and compare them."""
    choices: dict[str, list[dict[str, Any]]] = {"idle": [], "busy": []}
    for _ in range(options.rounds):
        for kind, series in choices.items():
            with busy_program() if kind == "busy" else nullcontext():
                series.append(in_fresh_process(options.text, options.minutes))
            print(f"{kind}  " + format_settings(series[-1]), flush=True)
    for name in COLUMNS:
        usual, _ = Counter(choice[name] for choice in choices["idle"]).most_common(1)[0]
        agree = {
            kind: sum(choice[name] == usual for choice in series)
            for kind, series in choices.items()
        }
        print(
            f"{name:<16} usually {usual}: {agree['idle']} of {options.rounds} idle, "
            f"{agree['busy']} of {options.rounds} beside a busy program"
        )
    return {"minutes": options.minutes, "choices": choices}


def in_fresh_process(text: str, minutes: float) -> dict[str, Any]:
    """Return the choice of a new process."""
    output = run_python(__file__, text, "--minutes", str(minutes), "--once")
    chosen: dict[str, Any] = json.loads(output)
    return chosen


def measure_choice(text: str, minutes: float) -> dict[str, Any]:
    """Return the chosen settings."""
    overrides = [text_override(text), f"training.minutes={minutes}", "training.device=cpu"]
    return settings(choose(overrides).config)


@contextmanager
def busy_program() -> Iterator[None]:
    """Keep one core busy inside the context."""
    process = multiprocessing.get_context("spawn").Process(target=multiply_forever, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def multiply_forever() -> None:
    """Multiply matrices in one thread until the process is ended."""
    torch.set_num_threads(1)
    a = torch.randn(700, 700)
    while True:
        a = (a @ a).clamp_(-1, 1)


def table(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return what is chosen for each size of a text and each budget."""
    content = read_text(options.text)
    speed = table_speed(options)
    rates = {size: round(speed(size)) for size in (128, 256, 512)}
    print("tokens per second by hidden size: " + json.dumps(rates))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in TABLE_CHARACTERS:
            path = Path(folder) / f"{size}.txt"
            path.write_bytes((content * (size // len(content) + 1))[:size].encode())
            for minutes in TABLE_MINUTES:
                overrides = [text_override(path), f"training.minutes={minutes}"]
                choice = choose(overrides, speed=speed)
                row = {"bytes": size, "minutes": minutes, **settings(choice.config)}
                rows.append(row)
                print(
                    f"{size:>11,} {minutes:>4} min  {format_settings(row)}  "
                    f"{choice.reasons[2].split(';')[0]}",
                    flush=True,
                )
    return {"tokens_per_second": rates, "rows": rows}


def table_speed(options: argparse.Namespace) -> Speed:
    """Return the speed of the table: that of this device, or one in proportion to --speed."""
    if options.speed is not None:
        work = multiplications(256, VOCABULARY_SIZE)
        return lambda size: options.speed * work / multiplications(size, VOCABULARY_SIZE)
    fields = {"steps": 10**9, "batch_size": 32, "window": 64, "optimizer": "muon"}
    return measured_speed(
        fields,
        vocabulary_size=VOCABULARY_SIZE,
        hardware=Hardware(CPU, choose_precision("auto", CPU)),
    )


def format_settings(chosen: dict[str, Any]) -> str:
    """Return settings in one line."""
    return "  ".join(f"{name} {chosen[name]}" for name in COLUMNS)


if __name__ == "__main__":
    run_main(main)
