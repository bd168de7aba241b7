"""Loss after N seconds of training on a text, and where the rest of the time is spent.

The settings of the shipped configurations were chosen on the validation split of this text; with
--test-share, a test split on which nothing was chosen is scored too.

For every number of seconds, each seed trains a separate run, because the schedule falls over the
whole budget: the loss in the middle of a longer run would be different. Seeds and budgets take
turns, so that drift of the machine's speed affects all alike; the machine must be idle otherwise.
The loss is that of the best checkpoint on the whole validation split, scored after the training:
each token is predicted once, and the state is carried. Every run is a process of its own, which
reads and encodes the text anew, as a first run does. The columns after the loss are seconds in
addition to the training:

    reading     reading and encoding the text
    model       creating model and optimizer
    validation  validation during training
    saving      saving during training
    other       the rest
    total       sum of these, and of the import of charlm and torch

    python benchmarks/shakespeare.py tinyshakespeare.txt --at 3 10 30 60 --seeds 1 2 3
    python benchmarks/shakespeare.py tinyshakespeare.txt --at 60 --seeds 1 2 3 --test-share 0.1
    python benchmarks/shakespeare.py tinyshakespeare.txt --seconds 24 --time-to 1.886 1.6
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from measuring import (
    add_overrides,
    add_seeds,
    add_test_share,
    argument_parser,
    environment,
    measure_run,
    override_arguments,
    print_environment,
    run_main,
    run_python,
    spread,
    text_override,
)

import charlm
from charlm.runs import prepare, save_schedule, session

IMPORT = """
import time
start = time.perf_counter()
import charlm.cli.main, charlm.api
print(time.perf_counter() - start)
"""
FIRST_BUDGET = 3.0  # Seconds. It is doubled to find the time to a loss.
# Phases of a run besides training, and the functions (module, name) whose time each one sums.
PHASES: dict[str, tuple[tuple[Any, str], ...]] = {
    "reading": (
        (prepare, "open_corpus"),
        (prepare, "learn_or_load_tokenizer"),
        (prepare, "encode_text"),
    ),
    "model": ((prepare, "LanguageModel"), (prepare, "make_optimizer")),
    "validation": ((session, "validate"),),
    "saving": tuple((module, "save_snapshot") for module in (prepare, session, save_schedule)),
}


def main() -> None:
    """Train all runs; print one line per run, a summary over the seeds, and all as JSON."""
    options = arguments()
    if options.alone:
        print(json.dumps(measure(options, options.seconds, options.seeds[0])))
        return
    budgets = all_budgets(options)
    imports = import_seconds()
    print_environment(options.config, f"import {imports:.2f} s")
    columns = ["steps", "tokens/s", "nats", *PHASES, "other", "total"]
    print(f"{'seconds':>8} {'seed':>5}" + "".join(f"{column:>11}" for column in columns))
    rows = []
    for seed in options.seeds:
        for seconds in budgets:
            row = measure_in_fresh_python(options, seconds, seed)
            rows.append(row | {"import_seconds": imports})
            print_run(rows[-1])
            if options.prototype:
                line = run_prototype(options, seconds)
                print(f"{options.prototype.name}, {seconds:g} s: {line}", flush=True)
    summary = [summarize(rows, seconds) for seconds in budgets]
    times = {loss: shortest_budget(summary, loss) for loss in options.time_to}
    print_summary(summary, times, len(options.seeds))
    results = {
        "config": options.config,
        "overrides": options.overrides,
        **environment(),
        "runs": rows,
        "summary": summary,
        "time_to": times,
    }
    print(json.dumps(results))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("text", type=Path, help="training text")
    parser.add_argument("--config", default="shakespeare", help="configuration [shakespeare]")
    parser.add_argument("--seconds", type=float, default=60, help="training time of a run [60]")
    parser.add_argument(
        "--at",
        type=float,
        nargs="+",
        metavar="SECONDS",
        help="several training times, instead of --seconds",
    )
    add_seeds(parser, [1, 2, 3])
    add_test_share(parser)
    parser.add_argument(
        "--time-to",
        type=float,
        nargs="+",
        default=[],
        metavar="LOSS",
        help="find the shortest training time whose median loss is at most LOSS; also runs 3, 6, "
        "12, ... seconds, up to --seconds",
    )
    parser.add_argument(
        "--prototype",
        type=Path,
        metavar="FILE",
        help="Python program to compare with, run in turn as FILE TEXT SECONDS",
    )
    add_overrides(parser)
    parser.add_argument(
        "--alone", action="store_true", help="one run with the first seed; print only its JSON"
    )
    return parser.parse_args()


def all_budgets(options: argparse.Namespace) -> list[float]:
    """Return the training times of the runs in seconds, in ascending order."""
    budgets = options.at or [options.seconds]
    return sorted({*budgets, *(doubling_budgets(options.seconds) if options.time_to else [])})


def doubling_budgets(longest: float) -> list[float]:
    """Return training times from the first, each twice the one before, up to `longest`."""
    budgets = [FIRST_BUDGET]
    while budgets[-1] * 2 <= longest:
        budgets.append(budgets[-1] * 2)
    return budgets


def measure_in_fresh_python(
    options: argparse.Namespace, seconds: float, seed: int
) -> dict[str, Any]:
    """Measure one run in a new process, so that it includes what torch loads on first use."""
    output = run_python(
        __file__,
        options.text,
        "--config",
        options.config,
        "--seconds",
        str(seconds),
        "--seeds",
        str(seed),
        "--test-share",
        str(options.test_share),
        "--alone",
        *override_arguments(options.overrides),
    )
    row: dict[str, Any] = json.loads(output)
    return row


def measure(options: argparse.Namespace, seconds: float, seed: int) -> dict[str, Any]:
    """Train and score one run; return its loss and the seconds of its phases."""
    overrides = [
        text_override(options.text),
        f"training.minutes={seconds / 60}",
        f"training.seed={seed}",
        *options.overrides,
    ]
    config = charlm.load_config(options.config, overrides)
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, CHARLM_CACHE=cache),
        time_phases(PHASES) as phase_seconds,
    ):
        run = measure_run(config, test_share=options.test_share)
    splits = run.pop("splits")
    return {
        "seconds": seconds,
        "seed": seed,
        **run,
        "loss_nats": splits["valid"]["loss_nats"],
        "bits_per_character": splits["valid"]["bits_per_character"],
        "test_loss_nats": splits["test"]["loss_nats"] if "test" in splits else None,
        "phase_seconds": {phase: round(taken, 3) for phase, taken in phase_seconds.items()},
        "other_seconds": round(run["other_seconds"] - sum(phase_seconds.values()), 3),
        "additional_seconds": run["other_seconds"],
    }


@contextmanager
def time_phases(phases: dict[str, tuple[tuple[Any, str], ...]]) -> Iterator[dict[str, float]]:
    """Yield the seconds of each phase; they grow while the functions of a phase run."""
    seconds = dict.fromkeys(phases, 0.0)

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[phase] += time.perf_counter() - start

        return call

    with ExitStack() as patches:
        for phase, functions in phases.items():
            for module, name in functions:
                function = timed(phase, getattr(module, name))
                patches.enter_context(mock.patch.object(module, name, function))
        yield seconds


def import_seconds() -> float:
    """Return the seconds in which a fresh Python imports charlm with torch, the median of three."""
    times = [float(run_python("-c", IMPORT)) for _ in range(3)]
    return round(statistics.median(times), 3)


def run_prototype(options: argparse.Namespace, seconds: float) -> str:
    """Run the program to compare with; return the last line that it prints."""
    output = run_python(options.prototype, options.text, f"{seconds:g}")
    return (output.strip().splitlines() or ["(no output)"])[-1]


def summarize(rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Return median, lowest and highest loss of the runs with one training time, by split."""
    runs = [row for row in rows if row["seconds"] == seconds]
    test = [run["test_loss_nats"] for run in runs if run["test_loss_nats"] is not None]
    return {
        "seconds": seconds,
        **spread([run["loss_nats"] for run in runs]),
        "test": spread(test) if test else None,
    }


def shortest_budget(summary: list[dict[str, Any]], loss: float) -> float | None:
    """Return the shortest training time whose median is at most `loss`, or None."""
    return next((line["seconds"] for line in summary if line["median"] <= loss), None)


def print_run(row: dict[str, Any]) -> None:
    """Print the line of one run."""
    numbers = [
        f"{row['steps']:,}",
        f"{row['tokens_per_second']:,}",
        f"{row['loss_nats']:.4f}",
        *(f"{seconds:.2f}" for seconds in row["phase_seconds"].values()),
        f"{row['other_seconds']:.2f}",
        f"{row['additional_seconds'] + row['import_seconds']:.2f}",
    ]
    columns = "".join(f"{number:>11}" for number in numbers)
    print(f"{row['seconds']:>8g} {row['seed']:>5}{columns}", flush=True)


def print_summary(
    summary: list[dict[str, Any]], times: dict[float, float | None], num_seeds: int
) -> None:
    """Print the losses over the seeds, and the times to given losses."""
    print(
        f"\n{'seconds':>8} {'split':>8} {'median':>8} {'lowest':>8} {'highest':>8}  "
        f"nats per token, seeds: {num_seeds}"
    )
    for line in summary:
        for split, losses in {"valid": line, "test": line["test"]}.items():
            if losses:
                print(
                    f"{line['seconds']:>8g} {split:>8} {losses['median']:>8.4f} "
                    f"{losses['lowest']:>8.4f} {losses['highest']:>8.4f}"
                )
    for loss, seconds in times.items():
        time_to_loss = "not reached" if seconds is None else f"{seconds:g} s of training"
        print(f"median at most {loss:g}: {time_to_loss}")


if __name__ == "__main__":
    run_main(main)
