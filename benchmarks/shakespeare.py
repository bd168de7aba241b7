"""What a minute makes of a text: the loss after given seconds of training, and where the rest of the time goes.

For every number of seconds each seed trains a run of its own, for the schedule falls over the whole budget: a loss
half-way through a longer run would be another thing. Seeds and budgets take turns, so that a machine whose speed drifts
slows all alike; it must have nothing else to do. Losses are of the whole validation split, each token scored once with
the state carried, by the best checkpoint and after the training. Every run is a process of its own and reads and
encodes the text anew, as a first one does. The table's seconds: reading and encoding; making model and optimizer;
validating and saving while it trains; what else there was; and all of that with the import of charlm and torch, beside
the seconds of training.

    python benchmarks/shakespeare.py tinyshakespeare.txt --at 3 10 30 60 --seeds 1 2 3
    python benchmarks/shakespeare.py tinyshakespeare.txt --seconds 24 --time-to 1.886 1.6
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import charlm
from charlm.runs import prepare, save_schedule, session

IMPORT = "import time; began = time.perf_counter(); import charlm.cli.main, charlm.api; print(time.perf_counter() - began)"
FIRST_BUDGET = 3.0  # Seconds, of those that are doubled to look for the time to a loss.
# Phases of a run besides training, and the functions (module, name) whose time each one sums.
PHASES: dict[str, tuple[tuple[Any, str], ...]] = {
    "reading": (
        (prepare, "open_corpus"),
        (prepare, "learn_or_load_tokenizer"),
        (prepare, "encode_text"),
    ),
    "model": ((prepare, "LanguageModel"), (prepare, "make_optimizer")),
    "validation": ((session, "validate"),),
    "saving": ((prepare, "save"), (session, "save"), (save_schedule, "save")),
}


def main() -> None:
    """Train all in turn; print a line a run, what is between the seeds, and all as JSON."""
    given = arguments()
    if given.alone:
        print(json.dumps(measure(given, given.seconds, given.seeds[0])))
        return
    budgets = sorted(
        {*(given.at or [given.seconds]), *(doubling(given.seconds) if given.time_to else [])}
    )
    imports = import_seconds()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.config}; import {imports:.2f} s"
    )
    columns = ["steps", "tokens/s", "nats", *PHASES, "other", "beside"]
    print(f"{'seconds':>8} {'seed':>5}" + "".join(f"{column:>11}" for column in columns))
    rows = []
    for seed in given.seeds:
        for seconds in budgets:
            rows.append(in_fresh_python(given, seconds, seed) | {"import_seconds": imports})
            show(rows[-1])
            if given.prototype:
                print(
                    f"{given.prototype.name}, {seconds:g} s: {prototype(given, seconds)}",
                    flush=True,
                )
    summary = [between_seeds(rows, seconds) for seconds in budgets]
    print(
        f"\n{'seconds':>8} {'median':>8} {'lowest':>8} {'highest':>8}  nats, of {len(given.seeds)} seeds"
    )
    for line in summary:
        print(
            f"{line['seconds']:>8g} {line['median']:>8.4f} {line['lowest']:>8.4f} {line['highest']:>8.4f}"
        )
    reached = {loss: shortest(summary, loss) for loss in given.time_to}
    for loss, seconds in reached.items():
        told = (
            "not reached"
            if seconds is None
            else f"{seconds:g} s of training, the shortest of the budgets above"
        )
        print(f"median at most {loss:g}: {told}")
    print(
        json.dumps(
            {
                "config": given.config,
                "overrides": given.overrides,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "runs": rows,
                "summary": summary,
                "time_to": reached,
            }
        )
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--config", default="shakespeare")
    parser.add_argument("--seconds", type=float, default=60, help="of training [60]")
    parser.add_argument(
        "--at",
        type=float,
        nargs="+",
        metavar="SECONDS",
        help="several budgets, instead of --seconds",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--time-to",
        type=float,
        nargs="+",
        default=[],
        metavar="LOSS",
        help="the shortest budget whose median is at most this; 3, 6, 12, ... up to --seconds are "
        "tried too",
    )
    parser.add_argument(
        "--prototype",
        type=Path,
        metavar="FILE",
        help="a program that is run in turn, as FILE TEXT SECONDS, to compare with",
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE"
    )
    parser.add_argument(
        "--alone", action="store_true", help="one run, the first seed's, and its JSON alone"
    )
    return parser.parse_args()


def in_fresh_python(given: argparse.Namespace, seconds: float, seed: int) -> dict[str, Any]:
    """Measure one run in a process of its own: what torch loads when it is first used is part of what a run takes."""
    command = [
        sys.executable,
        __file__,
        given.text,
        "--config",
        given.config,
        "--seconds",
        str(seconds),
        "--seeds",
        str(seed),
        "--alone",
    ]
    command += [argument for override in given.overrides for argument in ("--set", override)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(given: argparse.Namespace, seconds: float, seed: int) -> dict[str, Any]:
    """Train one run, then score it; return what came of it and where its time went."""
    overrides = [
        f"corpus.text={json.dumps([str(given.text)])}",
        f"training.minutes={seconds / 60}",
        f"training.seed={seed}",
        *given.overrides,
    ]
    config = charlm.load_config(given.config, overrides)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, CHARLM_CACHE=f"{folder}/cache"),
    ):
        with timed(PHASES) as spent:
            began = time.perf_counter()
            experiment = prepare.begin(config, Path(folder) / "run")
            for _ in session.run(experiment):
                pass
            wall = time.perf_counter() - began
        score = charlm.load(Path(folder) / "run").perplexity()
    state = experiment.state
    beside = wall - state.seconds
    return {
        "seconds": seconds,
        "seed": seed,
        "steps": state.step,
        "epochs": round(state.epochs, 3),
        "tokens_per_second": round(state.tokens / state.seconds),
        "loss_nats": score.loss_nats,
        "bits_per_character": score.bits_per_character,
        "training_seconds": round(state.seconds, 2),
        "spent_seconds": {phase: round(taken, 3) for phase, taken in spent.items()},
        "other_seconds": round(beside - sum(spent.values()), 3),
        "beside_seconds": round(beside, 3),
    }


@contextmanager
def timed(phases: dict[str, tuple[tuple[Any, str], ...]]) -> Iterator[dict[str, float]]:
    """Yield the seconds of each phase; they grow while the functions of a phase run."""
    spent = dict.fromkeys(phases, 0.0)

    def stopwatch(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[phase] += time.perf_counter() - began

        return call

    with ExitStack() as patches:
        for phase, functions in phases.items():
            for module, name in functions:
                patches.enter_context(
                    mock.patch.object(module, name, stopwatch(phase, getattr(module, name)))
                )
        yield spent


def show(row: dict[str, Any]) -> None:
    """Print a run's line."""
    numbers = [
        f"{row['steps']:,}",
        f"{row['tokens_per_second']:,}",
        f"{row['loss_nats']:.4f}",
        *(f"{taken:.2f}" for taken in row["spent_seconds"].values()),
        f"{row['other_seconds']:.2f}",
        f"{row['beside_seconds'] + row['import_seconds']:.2f}",
    ]
    print(
        f"{row['seconds']:>8g} {row['seed']:>5}" + "".join(f"{number:>11}" for number in numbers),
        flush=True,
    )


def between_seeds(rows: list[dict[str, Any]], seconds: float) -> dict[str, float]:
    """Return median and spread of the runs of one budget."""
    losses = [row["loss_nats"] for row in rows if row["seconds"] == seconds]
    return {
        "seconds": seconds,
        "median": statistics.median(losses),
        "lowest": min(losses),
        "highest": max(losses),
    }


def doubling(longest: float) -> list[float]:
    """Return budgets from the first, each twice the one before, up to `longest`."""
    budgets = [FIRST_BUDGET]
    while budgets[-1] * 2 <= longest:
        budgets.append(budgets[-1] * 2)
    return budgets


def shortest(summary: list[dict[str, float]], loss: float) -> float | None:
    """Return the shortest budget whose median is at most `loss`."""
    return next((line["seconds"] for line in summary if line["median"] <= loss), None)


def import_seconds() -> float:
    """Return what a fresh Python takes to import charlm with torch, the median of three."""
    times = [
        subprocess.run(
            [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(3)
    ]
    return round(statistics.median(map(float, times)), 3)


def prototype(given: argparse.Namespace, seconds: float) -> str:
    """Run the other program; return the last line that it prints."""
    command = [sys.executable, given.prototype, given.text, f"{seconds:g}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return (done.stdout.strip().splitlines() or ["(printed nothing)"])[-1]


if __name__ == "__main__":
    main()
