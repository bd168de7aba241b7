"""Scores that the shipped configurations reach.

Each configuration is trained once with each seed. Its whole validation split is scored, and its
test split if it has one. The settings of the shipped configurations were chosen on validation
splits; none was chosen on a test split. --test-share makes a test split for configurations that
have none, so that they train on a little less. PATH is a text that replaces the corpus of the
configuration (which may have to be fetched first). With --dynamic or --cache, the model that adapts
(fitted on the validation split) is scored too: these are the rows "adapted".

The table shows the median over the seeds, and in brackets the lowest and the highest value. The
training seconds in the JSON are those of the training steps alone; `other_seconds` is all other
time of a run until its end, without the scores. The machine must be idle otherwise.

    python benchmarks/configs.py quickstart names=PATH shakespeare=PATH --seeds 1,2,3
    python benchmarks/configs.py shakespeare-best=PATH --dynamic --test-share 0.1 --seeds 1,2,3
"""

import argparse
import json
from typing import Any

from measuring import (
    add_overrides,
    add_seeds,
    add_test_share,
    argument_parser,
    environment,
    format_spread,
    markdown_table,
    measure_run,
    print_environment,
    run_main,
    spread,
    text_override,
)

import charlm

SCORES = {"loss_nats": 4, "perplexity": 2, "bits_per_character": 3}  # Decimal places.


def main() -> None:
    """Train all configurations; print one line per run, a table over the seeds, and JSON."""
    options = arguments()
    print_environment(*options.overrides)
    runs = []
    for seed in options.seeds:
        for pair in options.configs:
            name, _, text = pair.partition("=")
            runs.append({"config": name, "seed": seed, **measure(name, text, seed, options)})
            print(format_run(runs[-1]), flush=True)
    rows = summarize(runs)
    print("\n" + format_table(rows))
    results = {
        **environment(),
        "overrides": options.overrides,
        "test_share": options.test_share,
        "runs": runs,
        "summary": rows,
    }
    print(json.dumps(results))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "configs", nargs="+", metavar="NAME[=PATH]", help="configuration, with a text of your own"
    )
    add_seeds(parser, [1])
    add_test_share(parser)
    parser.add_argument("--dynamic", action="store_true", help="score dynamic evaluation too")
    parser.add_argument("--cache", action="store_true", help="score a neural cache too")
    add_overrides(parser)
    return parser.parse_args()


def measure(name: str, text: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one configuration with one seed."""
    texts = [text_override(text)] if text else []
    config = charlm.load_config(name, [*texts, f"training.seed={seed}", *options.overrides])
    return measure_run(
        config, test_share=options.test_share, dynamic=options.dynamic, cache=options.cache
    )


def scores_of(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the scores of a run by split; the model that adapts has entries of its own."""
    splits: dict[str, dict[str, Any]] = run["splits"]
    adapted = {
        f"{split}, adapted": score["adapted"] for split, score in splits.items() if score["adapted"]
    }
    return splits | adapted


def summarize(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per configuration and split: the spread of steps and scores over the seeds."""
    rows = []
    for name in dict.fromkeys(run["config"] for run in runs):
        same = [run for run in runs if run["config"] == name]
        for split in scores_of(same[0]):
            scores = [scores_of(run)[split] for run in same]
            rows.append(
                {
                    "config": name,
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
    return (
        f"{run['config']}, seed {run['seed']}: {run['steps']:,} steps, {run['epochs']:.2f} passes, "
        f"{run['training_seconds']:.0f} s + {run['other_seconds']:.0f} s, "
        f"{run['parameters']:,} parameters, {run['precision']}; {', '.join(losses)}"
    )


def format_table(rows: list[dict[str, Any]]) -> str:
    """Return the table over the seeds as Markdown, as in docs/results.md."""
    columns = ["config", "split", "seeds", "steps", "nats per token", "perplexity", "bits per char"]
    return markdown_table(columns, map(cells_of, rows))


def cells_of(row: dict[str, Any]) -> list[str]:
    """Return the cells of one configuration and split."""
    scores = [format_spread(row[key], places) for key, places in SCORES.items()]
    return [row["config"], row["split"], str(row["runs"]), format_spread(row["steps"], 0), *scores]


if __name__ == "__main__":
    run_main(main)
