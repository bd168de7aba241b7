r"""Kinds of network at equal minutes, such as a stack of scans with MLPs against an LSTM.

Each kind is a side: a name and settings. With each text and each optimizer, every side gets the
same number of trials at a short budget, drawn from its own list of values with a fixed seed. A
trial has one thread, and as many trials run side by side as there are cores. Then the best settings
of each side are trained at every budget, with every seed and --threads threads each, again as many
side by side as there are cores for them. For a longer budget, output dropout and rate follow two
rules that are the same for all sides. The table has the median loss of each side over the seeds, in
nats per token of the validation split, with its range, and the difference of the medians. A
training that the file --out contains is not repeated: a command continues where it was stopped, and
another one adds seeds or times.

A setting with several values is searched. Without --side, the sides are `lstm` and `scan`:

    python benchmarks/equal_minutes.py shakespeare.txt python-source --minutes 1 5 --out equal.json
    python benchmarks/equal_minutes.py a.txt --seeds 1,2,3 --threads 1 --out equal.json \
        --side lstm model.cell=lstm model.hidden_size=256,384,512 \
        --side scan model.cell=rg_lru model.block=griffin model.embedding_size=256,384

The machine must be idle otherwise, except with --threads 1 --processor-time. Trainings side by side
share its memory, so each is slower than alone.
"""

import argparse
import itertools
import json
import math
import os
import random
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from measuring import (
    add_options,
    add_out,
    add_processor_time,
    add_series,
    add_text,
    amount,
    argument_parser,
    format_losses,
    markdown_table,
    print_environment,
    read_results,
    run_main,
    run_python,
    text_override,
    write_results,
)
from runs import budgets_in_processor_time, measure_validation

import charlm

Side = dict[str, tuple[str, ...]]  # Values by setting.
Run = dict[str, Any]
COMMON = ("training.window=64", "training.evaluations=3", "corpus.mode=stream")
RATES = {"muon": "2e-2,4e-2,8e-2", "adamw": "4e-3,8e-3,1.6e-2"}
SIDES = {
    "lstm": ["model.cell=lstm", "model.hidden_size=256,384", "training.batch_size=16,32"],
    "scan": [
        "model.cell=hgrn,min_gru",
        "model.block=griffin",
        "model.mlp_expansion=1,2",
        "model.hidden_size=256",
        "model.embedding_size=256",
        "model.num_layers=1,2",
        "training.batch_size=16,32",
    ],
}
# For a longer budget than that of the trials: dropout added by each doubling of the passes over the
# text beyond the third, and the power of the number of steps with which the rate falls. Both are
# those of the automatic settings (charlm/runs/automatic/recipes.py).
DROPOUT_PER_DOUBLING, PASSES_WITHOUT_DROPOUT, MAX_DROPOUT = 0.15, 3.0, 0.5
STEPS_AT_PEAK_RATE, RATE_POWER = 4000, 0.3


def main() -> None:
    """Run what is missing; print a line per training and the table."""
    options = arguments()
    if options.alone:
        with budgets_in_processor_time(enabled=options.processor_time):
            print(json.dumps(measure(options.texts[0], options.alone)))
        return
    print_environment(f"{options.trials} trials of {options.search_minutes:g} minutes per side")
    results = read_results(options.out, plan_of(options))
    results.setdefault("runs", [])
    for text, optimizer in itertools.product(options.texts, options.optimizers):
        trials = trials_of(results["runs"], options, text, optimizer)
        train_missing(results, options, trials, threads=1)
    places = itertools.product(options.minutes, options.texts, options.optimizers)
    for minutes, text, optimizer in places:
        runs = runs_of(results["runs"], options, (text, optimizer), minutes)
        train_missing(results, options, runs, threads=options.threads)
    print("\n" + format_table(results["runs"], list(options.sides)))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_text(parser, "texts", nargs="+")
    add_options(parser, minutes=[1.0, 5.0, 20.0], seeds=[1], threads=2)
    add_search(parser)
    add_processor_time(parser)
    add_out(parser, required=False)
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.alone and options.out is None:
        parser.error("--out: must be given")
    if options.processor_time and options.threads != 1 and not options.alone:
        parser.error("--processor-time: needs --threads 1")
    given = {side[0]: side[1:] for side in options.side or []} or SIDES
    options.sides = {name: read_side(settings) for name, settings in given.items()}
    return options


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the options of the trials: optimizers, sides, number and time."""
    add_series(
        parser, "--optimizers", list(RATES), choices=RATES, help="each is searched by itself"
    )
    add_options(parser, trials=12)
    parser.add_argument(
        "--search-minutes", type=amount, default=0.5, help="training time of a trial [0.5]"
    )
    parser.add_argument(
        "--side",
        nargs="+",
        action="append",
        metavar=("NAME", "SECTION.KEY=VALUES"),
        help="a side and its settings, instead of lstm and scan; give it once per side",
    )


def read_side(settings: Sequence[str]) -> Side:
    """Return the values of each setting.

    >>> read_side(["model.cell=lstm", "model.hidden_size=256,384"])
    {'model.cell': ('lstm',), 'model.hidden_size': ('256', '384')}
    """
    pairs = (setting.partition("=") for setting in settings)
    return {key: tuple(values.split(",")) for key, _, values in pairs}


def plan_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what all trainings of a file have in common."""
    sides = options.sides.items()
    return {
        "sides": {
            name: {key: list(values) for key, values in side.items()} for name, side in sides
        },
        "trials": options.trials,
        "search_minutes": options.search_minutes,
        "run_threads": options.threads,
        "processor_time": options.processor_time,
    }


def add_run(results: dict[str, Any], path: Path, run: Run) -> None:
    """Add a training, write the file, and print a line."""
    results["runs"].append(run)
    write_results(path, results)
    loss = run["error"] if run["loss_nats"] is None else f"{run['loss_nats']:.4f} nats"
    settings = " ".join(run["overrides"])
    print(
        f"{run['kind']} {run['text']} {run['optimizer']} {run['side']}, {run['minutes']:g} min, "
        f"seed {run['seed']}: {loss}, {run['steps']:,} steps; {settings}",
        flush=True,
    )


def draw_trials(side: Side, optimizer: str, count: int) -> list[list[str]]:
    """Return different settings of a side in an order that is always the same, at most `count`."""
    values = {"training.learning_rate": tuple(RATES[optimizer].split(",")), **side}
    grid = [
        [f"{key}={value}" for key, value in zip(values, chosen, strict=True)]
        for chosen in itertools.product(*values.values())
    ]
    random.Random(1).shuffle(grid)
    return grid[:count]


def trials_of(
    runs: Sequence[Run], options: argparse.Namespace, text: str, optimizer: str
) -> list[Run]:
    """Return the trials of all sides that are missing, the sides in turn."""
    fixed = {"kind": "trial", "text": text, "optimizer": optimizer, "seed": 1}
    fixed["minutes"] = options.search_minutes
    drawn = [
        [
            fixed | {"side": name, "overrides": trial}
            for trial in draw_trials(side, optimizer, options.trials)
        ]
        for name, side in options.sides.items()
    ]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*drawn))
    return [trial for trial in in_turn if trial and not any(is_same(trial, run) for run in runs)]


def runs_of(
    runs: Sequence[Run], options: argparse.Namespace, place: tuple[str, str], minutes: float
) -> list[Run]:
    """Return the last runs of one budget that are missing, with the best settings of each side."""
    text, optimizer = place
    fixed = {"kind": "run", "text": text, "optimizer": optimizer, "minutes": minutes}
    best = {name: best_trial(runs, (text, optimizer, name)) for name in options.sides}
    wanted = [
        fixed | {"side": name, "seed": seed, "overrides": adjust(trial, minutes, options.threads)}
        for seed in options.seeds
        for name, trial in best.items()
        if trial is not None
    ]
    return [run for run in wanted if not any(is_same(run, other) for other in runs)]


def is_same(wanted: Run, run: Run) -> bool:
    """Return whether a training is the wanted one."""
    return wanted.items() <= run.items()


def best_trial(runs: Sequence[Run], place: tuple[str, str, str]) -> Run | None:
    """Return the best trial of a text, an optimizer and a side; None if none has a loss."""
    trials = [
        run
        for run in runs
        if run["kind"] == "trial"
        and (run["text"], run["optimizer"], run["side"]) == place
        and run["loss_nats"] is not None
    ]
    if not trials:
        print(f"{' '.join(place)}: no trial has a loss", flush=True)
    return min(trials, key=lambda run: run["loss_nats"], default=None)


def train_missing(
    results: dict[str, Any], options: argparse.Namespace, runs: Sequence[Run], threads: int
) -> None:
    """Train, each in a process of its own, as many side by side as there are cores for them."""
    pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // threads))
    try:
        jobs = [pool.submit(run_alone, run, threads, options.processor_time) for run in runs]
        for job in jobs:
            add_run(results, options.out, job.result())
    finally:
        pool.shutdown(cancel_futures=True)  # After an error or Ctrl-C no other training begins.


def adjust(trial: Run, minutes: float, threads: int) -> list[str]:
    """Return the settings of a trial for another budget, with dropout and rate for its length."""
    factor = minutes * threads / trial["minutes"]  # A trial has one thread.
    passes, steps = trial["epochs"] * factor, trial["steps"] * factor
    doublings = math.log2(max(passes, 1e-9) / PASSES_WITHOUT_DROPOUT)
    dropout = min(MAX_DROPOUT, max(0.0, DROPOUT_PER_DOUBLING * doublings))
    settings = dict(override.split("=", 1) for override in trial["overrides"])
    longer = max(1.0, steps / max(trial["steps"], STEPS_AT_PEAK_RATE))
    rate = float(settings["training.learning_rate"]) / longer**RATE_POWER
    settings["training.learning_rate"] = f"{rate:.2g}"
    settings["model.output_dropout"] = f"{dropout:.2g}"
    return [f"{key}={value}" for key, value in settings.items()]


def run_alone(run: Run, threads: int, processor_time: bool) -> Run:
    """Train in a process of its own; return the run with its results."""
    settings = [
        *run["overrides"],
        f"training.optimizer={run['optimizer']}",
        f"training.minutes={run['minutes']}",
        f"training.seed={run['seed']}",
    ]
    flags = ["--processor-time"] if processor_time else []
    output = run_python(__file__, run["text"], *flags, "--alone", *settings, threads=threads)
    result: Run = json.loads(output.strip().splitlines()[-1])
    return run | result


def measure(text: str, overrides: Sequence[str]) -> Run:
    """Train one network; its loss is None if it diverges."""
    config = charlm.load_config(None, [text_override(text), *COMMON, *overrides])
    return measure_validation(config)


def format_table(runs: Sequence[Run], sides: Sequence[str]) -> str:
    """Return the table of the last runs: one line per text, optimizer and budget."""
    columns = ["text", "optimizer", "minutes", *sides, f"{sides[-1]} minus {sides[0]}"]
    losses: dict[tuple[str, str, float], dict[str, list[float]]] = {}
    for run in runs:
        if run["kind"] == "run" and run["loss_nats"] is not None:
            place = run["text"], run["optimizer"], run["minutes"]
            by_side = losses.setdefault(place, {side: [] for side in sides})
            by_side[run["side"]].append(run["loss_nats"])
    rows = (
        [Path(text).stem, optimizer, f"{minutes:g}", *cells_of(list(by_side.values()))]
        for (text, optimizer, minutes), by_side in losses.items()
    )
    return markdown_table(columns, rows)


def cells_of(losses: Sequence[Sequence[float]]) -> list[str]:
    """Return the median losses of each side, and the difference of the last to the first."""
    first, last = losses[0], losses[-1]
    difference = statistics.median(last) - statistics.median(first) if first and last else None
    return [*map(format_losses, losses), "" if difference is None else f"{difference:+.3f}"]


if __name__ == "__main__":
    run_main(main)
