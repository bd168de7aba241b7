"""Scores and times of configurations, with their own training time or with others.

Each configuration is trained once with each seed. With --minutes it is trained anew for each of the
times, because the schedule falls over the whole budget. Its whole validation split is scored, and
its test split if it has one: each token is predicted once, and the state is carried. The settings
of the shipped configurations were chosen on validation splits; none was chosen on a test split.
--test-share makes a test split for configurations that have none, so that they train on a little
less. PATH is a text that replaces the corpus of the configuration (which may have to be fetched
first). With --dynamic or --cache, the model that adapts (fitted on the validation split) is scored
too: these are the rows "adapted".

The line of a run has the seconds of the training steps, and those of all other work until the end
of the training: reading and encoding the text, which is in the cache after the first run (another
cache: CHARLM_CACHE); creating model and optimizer; validation; saving; and the rest. The table has
the steps, the nats per token, the perplexity and the bits per character: medians over the seeds,
and in brackets the lowest and the highest value. The machine must be idle otherwise.

    python benchmarks/configs.py quickstart names=PATH shakespeare=PATH --seeds 1,2,3
    python benchmarks/configs.py shakespeare=PATH --minutes 0.05 0.1 0.2 0.4 1 --seeds 1,2,3
    python benchmarks/configs.py shakespeare-best=PATH --dynamic --test-share 0.1 --seeds 1,2,3
    python benchmarks/configs.py quickstart --set checkpoint.save_share=null
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from measuring import (
    add_options,
    add_overrides,
    add_test_share,
    argument_parser,
    format_spread,
    markdown_table,
    print_environment,
    print_results,
    run_main,
    spread,
    text_override,
)
from runs import measure_run

import charlm
from charlm.runs import prepare, save_schedule, session

SCORES = {"loss_nats": 4, "perplexity": 2, "bits_per_character": 3}  # Decimal places.
COLUMNS = (
    "config",
    "minutes",
    "split",
    "seeds",
    "steps",
    "nats per token",
    "perplexity",
    "bits per char",
)
Functions = tuple[tuple[Any, str], ...]  # Modules, and names in them.
# Phases of a run besides training, and the functions whose time each one sums.
PHASES: dict[str, Functions] = {
    "reading": ((prepare, "encode"),),
    "model": ((prepare, "make_model"), (prepare, "make_optimizer")),
    "validation": ((session, "validate"),),
    "saving": tuple((module, "save_snapshot") for module in (prepare, session, save_schedule)),
}


def main() -> None:
    """Train all configurations; print one line per run, a table over the seeds, and JSON."""
    options = arguments()
    print_environment(*options.overrides)
    runs = []
    for seed, pair in itertools.product(options.seeds, options.configs):
        for minutes in options.minutes or [None]:
            runs.append(measure(pair, minutes, seed, options))
            print(format_run(runs[-1]), flush=True)
    rows = summarize(runs)
    print("\n" + format_table(rows))
    print_results(
        overrides=options.overrides, test_share=options.test_share, runs=runs, summary=rows
    )


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "configs", nargs="+", metavar="NAME[=PATH]", help="configuration, with a text of your own"
    )
    add_options(parser, minutes=[], seeds=[1])
    add_test_share(parser)
    parser.add_argument("--dynamic", action="store_true", help="score dynamic evaluation too")
    parser.add_argument("--cache", action="store_true", help="score a neural cache too")
    add_overrides(parser)
    return parser.parse_args()


def measure(
    pair: str, minutes: float | None, seed: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Train and score one configuration with one seed."""
    name, _, text = pair.partition("=")
    texts = [text_override(text)] if text else []
    budget = [f"training.minutes={minutes}"] if minutes else []
    overrides = [*texts, *budget, f"training.seed={seed}", *options.overrides]
    config = charlm.load_config(name, overrides)
    scoring = {"dynamic": options.dynamic, "cache": options.cache}
    return {"config": name, **train_and_score(config, test_share=options.test_share, **scoring)}


def train_and_score(config: charlm.Config, **settings: Any) -> dict[str, Any]:
    """Return the results of a run, with its time, its seed, and the seconds of its phases."""
    with time_phases(PHASES) as seconds:
        run = measure_run(config, **settings)
    seconds["rest"] = run["other_seconds"] - sum(seconds.values())
    return {
        "minutes": config.training.minutes,
        "seed": config.training.seed,
        **run,
        "phase_seconds": {phase: round(taken, 3) for phase, taken in seconds.items()},
    }


@contextmanager
def time_phases(phases: dict[str, Functions]) -> Iterator[dict[str, float]]:
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


def scores_of(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the scores of a run by split; the model that adapts has entries of its own."""
    splits: dict[str, dict[str, Any]] = run["splits"]
    adapted = {
        f"{split}, adapted": score["adapted"] for split, score in splits.items() if score["adapted"]
    }
    return splits | adapted


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each configuration, time and split: steps and scores over the seeds."""
    rows = []
    for kind in dict.fromkeys((run["config"], run["minutes"]) for run in runs):
        same = [run for run in runs if (run["config"], run["minutes"]) == kind]
        for split in scores_of(same[0]):
            scores = [scores_of(run)[split] for run in same]
            rows.append(
                {
                    "config": kind[0],
                    "minutes": kind[1],
                    "split": split,
                    "runs": len(same),
                    "steps": spread([run["steps"] for run in same]),
                    **{key: spread([score[key] for score in scores]) for key in SCORES},
                }
            )
    return rows


def format_run(run: dict[str, Any]) -> str:
    """Return the line of one run."""
    losses = (f"{split} {score['loss_nats']:.4f} nats" for split, score in scores_of(run).items())
    phases = (f"{phase} {seconds:.1f}" for phase, seconds in run["phase_seconds"].items())
    return (
        f"{run['config']}, seed {run['seed']}: {run['steps']:,} steps, {run['epochs']:.2f} passes, "
        f"{run['training_seconds']:.0f} s + {run['other_seconds']:.1f} s ({', '.join(phases)}), "
        f"{run['tokens_per_second']:,} tokens/s, {run['parameters']:,} parameters, "
        f"{run['precision']}; {', '.join(losses)}"
    )


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return the table over the seeds as Markdown, as in docs/results.md."""
    return markdown_table(COLUMNS, map(cells_of, rows))


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the cells of one configuration, time and split."""
    minutes = "" if row["minutes"] is None else f"{row['minutes']:g}"
    scores = [format_spread(row[key], places) for key, places in SCORES.items()]
    steps = format_spread(row["steps"], 0)
    return [row["config"], minutes, row["split"], str(row["runs"]), steps, *scores]


if __name__ == "__main__":
    run_main(main)
