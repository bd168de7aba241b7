"""Perplexity by words of several configurations, trained for equal time on the same text.

The default compares `words` with `word-language-model`: the sizes, the settings and the training
rule of PyTorch's example of that name, built from charlm's layers, kernels and initial weights. It
is not PyTorch's program; configs/word-language-model.yaml lists the differences.

All configurations read the same tokens: the text between spaces, and <EOS> at the end of each line.
The vocabulary contains every word of TRAIN; other words of VALID are <UNK>. The perplexity is that
of the whole of VALID: each token is predicted once, and the state is carried. Settings were chosen
on VALID; with --test-share, the end of TRAIN is held out and scored too, on which nothing was
chosen.

The schedule `plateau` quarters the learning rate when the validation loss stops falling. Like the
example, it needs one evaluation per epoch. The number of epochs in the given time is measured
first, in a twentieth of that time.

    python benchmarks/words.py wikitext2-test.txt wikitext2-valid.txt --minutes 10 --seeds 1 2 3
    python benchmarks/words.py ptb-train.txt ptb-valid.txt --configs ptb-small --seeds 1 2 3
"""

import argparse
import json
from pathlib import Path
from typing import Any

from measuring import (
    add_overrides,
    add_seeds,
    add_test_share,
    argument_parser,
    environment,
    measure_run,
    print_environment,
    run_main,
    spread,
    text_override,
)

import charlm

PROBE_FRACTION = 1 / 20  # Part of the time that measures the number of epochs.
TOKENIZER = [
    "tokenizer.level=word",
    "tokenizer.words=whitespace",
    "tokenizer.vocabulary_size=1000000",
    "tokenizer.min_count=1",
]


def main() -> None:
    """Train all configurations; print one line per run, a table, and all as JSON."""
    options = arguments()
    print_environment(f"{options.minutes:g} minutes each")
    print(
        f"{'config':<22} {'seed':>4} {'parameters':>11} {'steps':>8} {'epochs':>7} {'tokens/s':>9} "
        f"{'perplexity':>11} {'test':>9}"
    )
    rows = [measure(name, seed, options) for seed in options.seeds for name in options.configs]
    summary = [summarize(rows, name, options.configs[0]) for name in options.configs]
    print_summary(summary)
    results = {
        "minutes": options.minutes,
        "overrides": options.overrides,
        "test_share": options.test_share,
        **environment(),
        "runs": rows,
        "summary": summary,
        "ratios": {row["config"]: row["ratio"]["median"] for row in summary},
    }
    print(json.dumps(results))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("train", type=Path, help="training text")
    parser.add_argument("valid", type=Path, help="validation text")
    parser.add_argument("--minutes", type=float, default=10, help="training time of a run [10]")
    parser.add_argument(
        "--configs",
        nargs="+",
        default=["word-language-model", "words"],
        metavar="NAME",
        help="shipped configurations or files; ratios are to the first [word-language-model words]",
    )
    add_seeds(parser, [1])
    add_test_share(parser)
    add_overrides(parser)
    return parser.parse_args()


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one configuration; print and return the result."""
    config = configure(name, seed, options.minutes, options)
    if config.training.schedule == "plateau":
        probe_minutes = options.minutes * PROBE_FRACTION
        probe = configure(name, seed, probe_minutes, options, "training.evaluations=1")
        epochs = train_and_score(probe, options.test_share)["epochs"] / PROBE_FRACTION
        # The last override wins: one evaluation per epoch, whatever the options say.
        evaluations = f"training.evaluations={max(1, round(epochs))}"
        config = configure(name, seed, options.minutes, options, evaluations)
    row = {
        "config": name,
        "seed": seed,
        "evaluations": config.training.evaluations,
        **train_and_score(config, options.test_share),
    }
    test = "" if row["test_perplexity"] is None else f"{row['test_perplexity']:.2f}"
    print(
        f"{name:<22} {seed:>4} {row['parameters']:>11,} {row['steps']:>8,} {row['epochs']:>7.2f} "
        f"{row['tokens_per_second']:>9,} {row['perplexity']:>11.2f} {test:>9}",
        flush=True,
    )
    return row


def configure(
    name: str, seed: int, minutes: float, options: argparse.Namespace, *overrides: str
) -> charlm.Config:
    """Return a configuration with the texts, tokens, time and seed of this comparison."""
    return charlm.load_config(
        name,
        [
            text_override(options.train),
            text_override(options.valid, "corpus.valid_text"),
            *TOKENIZER,
            f"training.minutes={minutes}",
            f"training.seed={seed}",
            *options.overrides,
            *overrides,
        ],
    )


def train_and_score(config: charlm.Config, test_share: float) -> dict[str, Any]:
    """Train one run; return its size, its time and its scores."""
    run = measure_run(config, test_share=test_share)
    splits = run.pop("splits")
    keys = ("loss_nats", "perplexity", "bits_per_character", "unknown_share")
    test = splits.get("test", {})
    return (
        run
        | {key: splits["valid"][key] for key in keys}
        | {f"test_{key}": test.get(key) for key in keys}
    )


def summarize(rows: list[dict[str, Any]], name: str, first: str) -> dict[str, Any]:
    """Return the spread of one configuration's perplexity, and of its ratio to the first's.

    A ratio compares two runs with the same seed.
    """
    runs = [row for row in rows if row["config"] == name]
    base = {row["seed"]: row["perplexity"] for row in rows if row["config"] == first}
    test = [run["test_perplexity"] for run in runs if run["test_perplexity"] is not None]
    return {
        "config": name,
        "perplexity": spread([run["perplexity"] for run in runs]),
        "test_perplexity": spread(test) if test else None,
        "ratio": spread([run["perplexity"] / base[run["seed"]] for run in runs]),
    }


def print_summary(summary: list[dict[str, Any]]) -> None:
    """Print median, lowest and highest perplexity of each configuration, and its ratio."""
    columns = ["median", "lowest", "highest"]
    print(f"\n{'config':<22} {'':<16}" + "".join(f" {column:>9}" for column in columns))
    for row in summary:
        for key in ("perplexity", "test_perplexity", "ratio"):
            if row[key]:
                label = key.replace("_", " ")
                numbers = "".join(f" {row[key][column]:>9.3f}" for column in columns)
                print(f"{row['config']:<22} {label:<16}{numbers}")


if __name__ == "__main__":
    run_main(main)
