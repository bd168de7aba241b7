"""Automatic settings against the best of a search, for texts of several sizes and several budgets.

For each text and budget, `charlm train TEXT --minutes N` trains with automatic settings. Then
`charlm tune` searches from them: --trials trials with the same budget, of which the first one has
the automatic settings. Searched are rate, size, batch, dropout and weight decay. The table has the
settings and losses of both, in nats per token of the validation split, and their difference. The
best trial was chosen by this loss, which is therefore slightly optimistic. The target is a
difference of at most 0.02 nats. The seed of all trainings is 1.

A path of the form FILE:BYTES is the beginning of a file, cut after a line end. With --steps a
budget does not depend on the speed of the machine, but then nothing is gained by a small network.

The searches are in a folder beside the file --out. Both continue where they were stopped. Needs the
extra `tune`.

    python benchmarks/text_budget.py novel.txt:50000 novel.txt --minutes 1 5 20 --out budgets.json
    python benchmarks/text_budget.py novel.txt --steps 500 2000 --out by-steps.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import (
    add_budget,
    add_options,
    add_out,
    add_overrides,
    add_processor_time,
    argument_parser,
    markdown_table,
    print_environment,
    read_results,
    run_main,
    write_results,
)
from runs import budgets_in_processor_time, describe_settings, measure_run

import charlm
from charlm.errors import CharlmError
from charlm.runs.automatic.choice import ChosenConfig
from charlm.tuning.search import Callbacks, tune
from charlm.tuning.study import Budget

TARGET = 0.02  # Nats.
RATE_FACTOR = 4  # Largest rate of the search / automatic one; automatic one / smallest.
SIZES = (64, 96, 128, 192, 256, 384, 512, 640, 768)
BATCHES = (8, 16, 32, 64)


def main() -> None:
    """Measure what is missing; print a line per text and budget, and the table."""
    options = arguments()
    print_environment(f"{options.trials} trials", *options.overrides)
    plan = {
        "trials": options.trials,
        "unit": options.unit,
        "processor_time": options.processor_time,
        "overrides": options.overrides,
    }
    results = read_results(options.out, plan)
    results.setdefault("rows", [])
    for budget in options.budgets:
        for text in options.texts:
            if (text, budget) in {(row["text"], row["budget"]) for row in results["rows"]}:
                continue
            with budgets_in_processor_time(enabled=options.processor_time):
                results["rows"].append(measure(text, budget, options))
            write_results(options.out, results)
            print(format_row(results["rows"][-1], options.unit), flush=True)
    print("\n" + format_table(results["rows"], options.unit))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("texts", nargs="+", metavar="TEXT[:BYTES]", help="files or corpora")
    add_budget(parser, minutes=[1.0, 5.0, 20.0])
    add_options(parser, trials=20)
    add_out(parser)
    add_processor_time(parser)
    add_overrides(parser, "settings to keep, in both; can be repeated")
    options = parser.parse_args()
    options.unit = "steps" if options.steps else "minutes"
    options.budgets = options.steps or options.minutes
    options.folder = options.out.with_name(f"{options.out.stem}-searches")
    return options


def measure(text: str, budget: float, options: argparse.Namespace) -> dict[str, Any]:
    """Train with automatic settings, and search from them."""
    source = source_of(text, options.folder / "texts")
    chosen = choose(source, budget, options)
    automatic = train_and_score(chosen.config)
    name = f"{Path(source).stem}-{budget:g}-{options.unit}"
    search = search_space(chosen.config)
    report = Callbacks(report=lambda trial, best: print(".", end="", flush=True))
    tuning = tune(
        chosen.config,
        search,
        out=options.folder / name,
        budget=Budget(trials=options.trials),
        callbacks=report,
    )
    best = tuning.best
    if best is None or best.loss_nats is None:
        raise CharlmError(f"{tuning.folder}: no trial has a loss; give a larger budget")
    return {
        "text": text,
        "budget": budget,
        "bytes": Path(source).stat().st_size if Path(source).exists() else None,
        "automatic": automatic,
        "reasons": chosen.reasons,
        "search": search,
        "trials": tuning.num_ended,
        "best_loss_nats": min(best.loss_nats, automatic["loss_nats"]),
        "best_values": best.values,
    }


def source_of(text: str, folder: Path) -> str:
    """Return the file or corpus of a text; the beginning of a file is written to a folder.

    >>> source_of("python-source", Path("x"))
    'python-source'
    """
    name, colon, size = text.rpartition(":")
    if not colon or not size.isdecimal():
        return text
    folder.mkdir(parents=True, exist_ok=True)
    with Path(name).open("rb") as file:
        data = file.read(int(size))
    if b"\n" not in data:
        raise CharlmError(f"{name}: has no line end in its first {size} bytes; give more bytes")
    part = folder / f"{Path(name).stem}-{size}.txt"
    part.write_bytes(data[: data.rfind(b"\n") + 1])
    return str(part)


def choose(source: str, budget: float, options: argparse.Namespace) -> ChosenConfig:
    """Return the automatic settings."""
    amount = int(budget) if options.unit == "steps" else budget
    return charlm.choose(source, overrides=options.overrides, **{options.unit: amount})


def train_and_score(config: charlm.Config) -> dict[str, Any]:
    """Train one run; return its loss, its settings, its size and its time."""
    run = measure_run(config)
    valid = run.pop("splits")["valid"]
    return {"loss_nats": valid["loss_nats"], "settings": describe_settings(config), **run}


def search_space(config: charlm.Config) -> list[str]:
    """Return what is searched: the automatic settings, and values around them.

    Rates are within a factor of four of the automatic one; sizes and batches are the nearest ones.
    """
    model, training = config.model, config.training
    rate = training.learning_rate
    sizes = nearest(SIZES, model.hidden_sizes[0])
    batches = nearest(BATCHES, training.batch_size)
    return [
        f"training.learning_rate={rate / RATE_FACTOR:.2g}..{rate * RATE_FACTOR:.2g}",
        f"model.hidden_size={','.join(map(str, sizes))}",
        f"training.batch_size={','.join(map(str, batches))}",
        "model.output_dropout=0.0..0.6",
        "training.weight_decay=0.01,0.1,0.3",
    ]


def nearest(values: Sequence[int], value: int) -> list[int]:
    """Return a value with up to two smaller and two larger ones.

    >>> nearest(BATCHES, 32), nearest(SIZES, 48)
    ([8, 16, 32, 64], [48, 64, 96])
    """
    below = [other for other in values if other < value]
    above = [other for other in values if other > value]
    return [*below[-2:], value, *above[:2]]


def format_row(row: dict[str, Any], unit: str) -> str:
    """Return the line of one text and budget."""
    automatic = row["automatic"]
    values = ", ".join(
        f"{key.partition('.')[2]}={value:g}" for key, value in row["best_values"].items()
    )
    return (
        f"{row['text']}, {row['budget']:g} {unit}: automatic {automatic['loss_nats']:.4f} "
        f"({', '.join(automatic['settings'])}), best of {row['trials']} trials "
        f"{row['best_loss_nats']:.4f} ({values})"
    )


def format_table(rows: Sequence[dict[str, Any]], unit: str) -> str:
    """Return the table; a difference above the target is bold."""
    columns = [
        "text",
        unit,
        "automatic",
        "loss",
        "best of the search",
        "difference",
        "its settings",
    ]
    return markdown_table(columns, map(cells_of, rows))


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the cells of one text and budget."""
    loss, best = row["automatic"]["loss_nats"], row["best_loss_nats"]
    difference = f"{loss - best:+.3f}"
    values = (f"{key.partition('.')[2]} {value:.3g}" for key, value in row["best_values"].items())
    return [
        Path(row["text"]).name,
        f"{row['budget']:g}",
        ", ".join(row["automatic"]["settings"]),
        f"{loss:.3f}",
        f"{best:.3f}",
        f"**{difference}**" if loss - best > TARGET else difference,
        ", ".join(values),
    ]


if __name__ == "__main__":
    run_main(main)
