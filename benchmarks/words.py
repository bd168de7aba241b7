"""Configurations compared on one text by words, for equal time: by default with PyTorch's word_language_model recipe.

All read the same tokens: what stands between spaces, <EOS> at each line's end, every word of TRAIN in the vocabulary; a
word of VALID that TRAIN has not is <UNK>. Perplexities are of the whole of VALID, each token scored once with the state
carried. Where the rate is quartered when validation stops falling (schedule: plateau) there is an evaluation an epoch,
as in the recipe: how many epochs the time is worth is measured first, in a twentieth of it.

    python benchmarks/words.py wikitext2-test.txt wikitext2-valid.txt --minutes 10
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

import charlm
from charlm.runs import prepare, session

PROBE = 20  # The probe's share of the time is one in so many.
TOKENS = [
    "tokenizer.level=word",
    "tokenizer.words=whitespace",
    "tokenizer.vocabulary_size=1000000",
    "tokenizer.min_count=1",
]


def main() -> None:
    """Train all in turn; print a line a run, a table, and all as JSON."""
    given = arguments()
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.minutes:g} minutes each"
    )
    print(
        f"{'config':<22} {'seed':>4} {'parameters':>11} {'steps':>8} {'epochs':>7} {'tokens/s':>9} {'perplexity':>11}"
    )
    rows = [measure(name, seed, given) for seed in given.seeds for name in given.configs]
    medians = {
        name: statistics.median(row["perplexity"] for row in rows if row["config"] == name)
        for name in given.configs
    }
    first = medians[given.configs[0]]
    print(f"\n{'config':<22} {'perplexity':>11} {'of the first':>13}")
    for name, perplexity in medians.items():
        print(f"{name:<22} {perplexity:>11.2f} {perplexity / first:>13.3f}")
    print(
        json.dumps(
            {
                "minutes": given.minutes,
                "overrides": given.overrides,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "runs": rows,
                "ratios": {name: perplexity / first for name, perplexity in medians.items()},
            }
        )
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument(
        "--configs",
        nargs="+",
        default=["word-language-model", "words"],
        metavar="NAME",
        help="shipped ones or files; the others are compared with the first",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE"
    )
    return parser.parse_args()


def measure(name: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """Train and score one configuration; print and return what came of it."""
    config = configure(name, seed, given.minutes, given)
    if config.training.schedule == "plateau":
        epochs = (
            train(configure(name, seed, given.minutes / PROBE, given, "training.evaluations=1"))[
                "epochs"
            ]
            * PROBE
        )
        # After the others: it says how often, not whether, to evaluate.
        config = configure(
            name, seed, given.minutes, given, f"training.evaluations={max(1, round(epochs))}"
        )
    row = {
        "config": name,
        "seed": seed,
        "evaluations": config.training.evaluations,
        **train(config),
    }
    print(
        f"{name:<22} {seed:>4} {row['parameters']:>11,} {row['steps']:>8,} {row['epochs']:>7.2f} "
        f"{row['tokens_per_second']:>9,} {row['perplexity']:>11.2f}",
        flush=True,
    )
    return row


def configure(
    name: str, seed: int, minutes: float, given: argparse.Namespace, *more: str
) -> charlm.Config:
    """Return a configuration with this task's text and time in place of its own."""
    texts = [
        f"corpus.text={json.dumps([str(given.train)])}",
        f"corpus.valid_text={json.dumps([str(given.valid)])}",
    ]
    budget = [f"training.minutes={minutes}", f"training.seed={seed}"]
    return charlm.load_config(name, [*texts, *TOKENS, *budget, *given.overrides, *more])


def train(config: charlm.Config) -> dict[str, Any]:
    """Train and score; return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare.begin(config, Path(folder) / "run")
        for _ in session.run(experiment):
            pass
        score = charlm.load(Path(folder) / "run").perplexity()
    state = experiment.state
    return {
        "parameters": sum(weight.numel() for weight in experiment.model.parameters()),
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
