"""Perplexity by words of several configurations, trained for equal time on the same text.

The default compares `words` with `word-language-model`: the sizes, the settings and the training
rule of PyTorch's example of that name, built from charlm's layers, kernels and initial weights. It
is not PyTorch's program; configs/word-language-model.yaml lists the differences.

All configurations read the same tokens: the text between spaces, and <EOS> at the end of each line.
The vocabulary contains every word of TRAIN; other words of VALID are <UNK>. The perplexity is that
of the whole of VALID: each token is predicted once, and the state is carried. Settings were chosen
on VALID; with --test-share, the end of TRAIN is held out and scored too, on which nothing was
chosen. The first table has the median over the seeds and the range, as that of configs.py; the
second the perplexity on VALID relative to that of the first configuration with the same seed. The
machine must be idle otherwise.

The schedule `plateau` quarters the learning rate when the validation loss stops falling. Like the
example, it needs one evaluation per epoch. The number of epochs in the given time is measured
first, in a twentieth of that time.

    python benchmarks/words.py wikitext2-test.txt wikitext2-valid.txt --minutes 10 --seeds 1,2,3
    python benchmarks/words.py ptb-train.txt ptb-valid.txt --configs ptb-small --seeds 1,2,3
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

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

import charlm
from configs import format_run, format_table, summarize, train_and_score

PROBE_FRACTION = 1 / 20  # Part of the time that measures the number of epochs.
TOKENIZER = [
    "tokenizer.level=word",
    "tokenizer.words=whitespace",
    "tokenizer.vocabulary_size=1000000",
    "tokenizer.min_count=1",
]


def main() -> None:
    """Train all configurations; print one line per run, two tables, and all as JSON."""
    options = arguments()
    print_environment(f"{options.minutes:g} minutes each", *options.overrides)
    runs = []
    for seed, name in itertools.product(options.seeds, options.configs):
        runs.append(measure(name, seed, options))
        print(format_run(runs[-1]), flush=True)
    summary, ratios = summarize(runs), ratios_of(runs)
    cells = ([name, format_spread(ratio, 3)] for name, ratio in ratios.items())
    print(f"\n{format_table(summary)}\n\n{markdown_table(['config', 'ratio'], cells)}")
    print_results(
        minutes=options.minutes,
        overrides=options.overrides,
        test_share=options.test_share,
        runs=runs,
        summary=summary,
        ratios=ratios,
    )


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("train", type=Path, metavar="TRAIN", help="training text")
    parser.add_argument("valid", type=Path, metavar="VALID", help="validation text")
    add_options(parser, configs=["word-language-model", "words"], minutes=10.0, seeds=[1])
    add_test_share(parser)
    add_overrides(parser)
    return parser.parse_args()


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one configuration."""
    config = configure(name, seed, options.minutes, options)
    if config.training.schedule == "plateau":
        probe_minutes = options.minutes * PROBE_FRACTION
        probe = configure(name, seed, probe_minutes, options, "training.evaluations=1")
        run = train_and_score(probe, test_share=options.test_share)
        # The last override wins: one evaluation per epoch, whatever the options say.
        evaluations = f"training.evaluations={max(1, round(run['epochs'] / PROBE_FRACTION))}"
        config = configure(name, seed, options.minutes, options, evaluations)
    run = train_and_score(config, test_share=options.test_share)
    return {"config": name, "evaluations": config.training.evaluations, **run}


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


def ratios_of(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the spread of each configuration's perplexity relative to the first's, by seed."""
    perplexities: dict[str, dict[int, float]] = {}
    for run in runs:
        by_seed = perplexities.setdefault(run["config"], {})
        by_seed[run["seed"]] = run["splits"]["valid"]["perplexity"]
    base = next(iter(perplexities.values()))
    return {
        name: spread([value / base[seed] for seed, value in by_seed.items()])
        for name, by_seed in perplexities.items()
    }


if __name__ == "__main__":
    run_main(main)
