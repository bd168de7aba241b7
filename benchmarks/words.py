"""Perplexity by words of several configurations, trained for equal time on the same text.

The default compares `words` with `word-language-model`, PyTorch's example. All configurations read
the same tokens: the text between spaces, and <EOS> at the end of each line. The vocabulary contains
every word of TRAIN; other words of VALID are <UNK>. The perplexity is that of the whole of VALID:
each token is predicted once, and the state is carried.

The schedule `plateau` quarters the learning rate when the validation loss stops falling. Like the
example, it needs one evaluation per epoch. The number of epochs in the given time is measured
first, in a twentieth of that time.

    python benchmarks/words.py wikitext2-test.txt wikitext2-valid.txt --minutes 10
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import measuring
from measuring import (
    add_overrides,
    argument_parser,
    count_parameters,
    environment,
    print_environment,
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
        f"{'perplexity':>11}"
    )
    rows = [measure(name, seed, options) for seed in options.seeds for name in options.configs]
    perplexities = {
        name: statistics.median(row["perplexity"] for row in rows if row["config"] == name)
        for name in options.configs
    }
    first = perplexities[options.configs[0]]
    print(f"\n{'config':<22} {'perplexity':>11} {'ratio':>7}")
    for name, perplexity in perplexities.items():
        print(f"{name:<22} {perplexity:>11.2f} {perplexity / first:>7.3f}")
    results = {
        "minutes": options.minutes,
        "overrides": options.overrides,
        **environment(),
        "runs": rows,
        "ratios": {name: perplexity / first for name, perplexity in perplexities.items()},
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one run each [1]")
    add_overrides(parser)
    return parser.parse_args()


def measure(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and score one configuration; print and return the result."""
    config = configure(name, seed, options.minutes, options)
    if config.training.schedule == "plateau":
        probe_minutes = options.minutes * PROBE_FRACTION
        probe = configure(name, seed, probe_minutes, options, "training.evaluations=1")
        epochs = train_and_score(probe)["epochs"] / PROBE_FRACTION
        # The last override wins: one evaluation per epoch, whatever the options say.
        evaluations = f"training.evaluations={max(1, round(epochs))}"
        config = configure(name, seed, options.minutes, options, evaluations)
    row = {
        "config": name,
        "seed": seed,
        "evaluations": config.training.evaluations,
        **train_and_score(config),
    }
    print(
        f"{name:<22} {seed:>4} {row['parameters']:>11,} {row['steps']:>8,} {row['epochs']:>7.2f} "
        f"{row['tokens_per_second']:>9,} {row['perplexity']:>11.2f}",
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


def train_and_score(config: charlm.Config) -> dict[str, Any]:
    """Train one run; return its size, its time and its score."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = measuring.train(config, Path(folder) / "run")
        score = charlm.load(Path(folder) / "run").perplexity()
    state = experiment.state
    return {
        "parameters": count_parameters(experiment.model),
        "vocabulary_size": experiment.tokenizer.vocabulary_size,
        "steps": state.step,
        "epochs": round(state.epochs, 3),
        "training_seconds": round(state.seconds, 1),
        "tokens_per_second": round(state.tokens / state.seconds),
        "loss_nats": score.loss_nats,
        "perplexity": score.perplexity,
        "bits_per_character": score.bits_per_character,
        "unknown_share": score.unknown_share,
    }


if __name__ == "__main__":
    main()
