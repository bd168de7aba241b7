"""Effect of each option: a base configuration, and the base with one option changed.

All runs have the same training time or number of steps. For each seed, the base and every option
are trained in turn, so that drift of the machine's speed affects all alike. With --minutes the
machine must be idle otherwise; with --steps it need not be. The base is the configuration
`shakespeare` for characters, and `words` for words, with tokens between spaces; --plain removes its
dropout. An option that the base already has is left out, unless it is named.

The loss is that of the best checkpoint on the whole validation split, in nats per token: each token
is predicted once, and the state is carried. The table has its median over the seeds, its lowest and
highest value, `change`, which is the median difference to the base with the same seed, and the
median number of steps. Runs that diverge are counted.

    python benchmarks/ablation.py tinyshakespeare.txt --minutes 1 --seeds 1,2,3
    python benchmarks/ablation.py wikitext2-test.txt --valid wikitext2-valid.txt --task words
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from measuring import (
    add_budget,
    add_options,
    add_overrides,
    add_series,
    add_text,
    argument_parser,
    budget_override,
    print_environment,
    print_results,
    run_main,
    text_override,
)
from runs import measure_validation

import charlm

BASE = "base"
BASES = {"characters": "shakespeare", "words": "words"}
TASKS = {
    "characters": ["tokenizer.level=char", "corpus.valid_share=0.1"],
    # Word dropout, label smoothing and partial shuffle are off: they are options of the table.
    "words": [
        "tokenizer.level=word",
        "tokenizer.words=whitespace",
        "tokenizer.vocabulary_size=1000000",
        "model.word_dropout=0",
        "training.label_smoothing=0",
        "training.partial_shuffle=false",
    ],
}
NO_DROPOUT = [
    "model.word_dropout=0",
    "model.embedding_dropout=0",
    "model.dropout=0",
    "model.output_dropout=0",
    "model.weight_dropout=0",
]
OPTIONS: dict[str, list[str]] = {
    "no dropout": NO_DROPOUT,
    "embedding dropout 0.2": ["model.embedding_dropout=0.2"],
    "output dropout 0.2": ["model.output_dropout=0.2"],
    "output dropout 0.4": ["model.output_dropout=0.4"],
    "both 0.2": ["model.embedding_dropout=0.2", "model.output_dropout=0.2"],
    "both 0.2, one mask per window": [
        "model.embedding_dropout=0.2",
        "model.output_dropout=0.2",
        "model.dropout_mask=window",
    ],
    "word dropout 0.1": ["model.word_dropout=0.1"],
    "weight dropout 0.2": ["model.weight_dropout=0.2"],
    "weight dropout 0.5": ["model.weight_dropout=0.5"],
    "activation regularization 2": ["training.activation_regularization=2"],
    "temporal regularization 1": ["training.temporal_regularization=1"],
    "label smoothing 0.05": ["training.label_smoothing=0.05"],
    "window varies": ["training.vary_window=true"],
    "partial shuffle": ["training.partial_shuffle=true"],
    "averaging, exponential": ["training.averaging=exponential"],
    "averaging, exponential, constant rate": [
        "training.averaging=exponential",
        "training.schedule=constant",
    ],
    "averaging, triggered, constant rate": [
        "training.averaging=triggered",
        "training.schedule=constant",
        "training.trigger_evaluations=3",
        "training.evaluations=20",
    ],
    "cosine": ["training.schedule=cosine"],
    "trapezoid": ["training.schedule=trapezoid"],
    "muon": ["training.optimizer=muon", "training.learning_rate=2.4e-2"],
    "adamw": [
        "training.optimizer=adamw",
        "training.learning_rate=1.6e-2",
        "training.weight_decay=0.2",
    ],
    "nadam": ["training.optimizer=nadam", "training.learning_rate=1.6e-2"],
    "adamw, beta1 0": [
        "training.optimizer=adamw",
        "training.learning_rate=8e-3",
        "training.beta1=0",
    ],
    "sgd, plateau": [
        "training.optimizer=sgd",
        "training.learning_rate=0.3",
        "training.beta1=0",
        "training.weight_decay=0",
        "training.schedule=plateau",
        "training.evaluations=20",
    ],
    "tied": ["model.tied=true"],
    "not tied": ["model.tied=false"],
    "capped": ["model.cell={kind: lstm, capped: true}"],
    "coupled": ["model.cell={kind: lstm, coupled: true}"],
    "layer norm": ["model.layer_norm=true"],
}
WORD_OPTIONS: dict[str, list[str]] = {
    "mixture of 5": ["model.mixture=5"],
    "adaptive softmax": ["model.tied=false", "model.adaptive_cutoffs=[2000]"],
}


def main() -> None:
    """Train all runs; print one line per run, a table, and all as JSON."""
    options = arguments()
    table = option_table(options.task)
    names = [BASE, *(options.only or changed_options(options))]
    print_environment(options.config, *options.budget)
    runs = []
    for seed in options.seeds:
        for name in names:
            result = measure_validation(configure(name, seed, options))
            runs.append({"option": name, "seed": seed, **result})
            print(format_run(runs[-1]), flush=True)
    rows = summarize(runs, names)
    columns = ["nats", "lowest", "highest", "change", "steps"]
    print(f"\n{'option':<40}" + "".join(f" {column:>8}" for column in columns))
    for row in rows:
        print(format_row(row))
    print_results(
        task=options.task,
        config=options.config,
        budget=options.budget,
        overrides=options.overrides,
        options={name: table.get(name, []) for name in names},
        runs=runs,
        summary=rows,
    )


def arguments() -> argparse.Namespace:
    """Return the parsed command line, with the base and the budget filled in."""
    parser = argument_parser(__doc__)
    add_text(parser)
    parser.add_argument("--valid", type=Path, help="validation text [the end of TEXT]")
    parser.add_argument(
        "--task", choices=list(BASES), default="characters", help="kind of tokens [characters]"
    )
    parser.add_argument("--config", help="base configuration [shakespeare or words]")
    parser.add_argument("--plain", action="store_true", help="remove all dropout from the base")
    add_budget(parser, minutes=1.0)
    add_options(parser, seeds=[1, 2, 3])
    known = OPTIONS | WORD_OPTIONS
    add_series(parser, "--only", [], choices=known, help="options to try, instead of all")
    add_overrides(parser, "override a setting of the base, and so of all runs; can be repeated")
    options = parser.parse_args()
    options.config = options.config or BASES[options.task]
    options.budget = [budget_override(options)]
    if options.task != "words" and (words := set(options.only) & set(WORD_OPTIONS)):
        parser.error(f"--only: {min(words)} needs --task words")
    return options


def option_table(task: str) -> dict[str, list[str]]:
    """Return the overrides of each option of a task."""
    return OPTIONS | WORD_OPTIONS if task == "words" else OPTIONS


def changed_options(options: argparse.Namespace) -> list[str]:
    """Return the options that the base does not have already."""
    base = configure(BASE, 0, options)
    return [name for name in option_table(options.task) if configure(name, 0, options) != base]


def configure(name: str, seed: int, options: argparse.Namespace) -> charlm.Config:
    """Return the configuration of one run."""
    return charlm.load_config(
        options.config,
        [
            text_override(options.text),
            *([text_override(options.valid, "corpus.valid_text")] if options.valid else []),
            *TASKS[options.task],
            *options.budget,
            f"training.seed={seed}",
            *(NO_DROPOUT if options.plain else []),
            *options.overrides,
            *option_table(options.task).get(name, []),
        ],
    )


def summarize(runs: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Return one row per option, over its seeds.

    `difference` is the median of the differences between option and base with the same seed: this
    removes the part of the spread that a seed causes in all runs.
    """
    base = {run["seed"]: run["loss_nats"] for run in runs if run["option"] == BASE}
    return [
        summarize_option([run for run in runs if run["option"] == name], base) for name in names
    ]


def summarize_option(runs: list[dict[str, Any]], base: dict[int, float | None]) -> dict[str, Any]:
    """Return the row of one option from its runs and the base's loss with each seed."""
    losses = [run["loss_nats"] for run in runs if run["loss_nats"] is not None]
    differences = [
        run["loss_nats"] - base[run["seed"]]
        for run in runs
        if run["loss_nats"] is not None and base[run["seed"]] is not None
    ]
    return {
        "option": runs[0]["option"],
        "diverged": len(runs) - len(losses),
        "median": statistics.median(losses) if losses else None,
        "lowest": min(losses, default=None),
        "highest": max(losses, default=None),
        "difference": statistics.median(differences) if differences else None,
        "steps": round(statistics.median(run["steps"] for run in runs)),
    }


def format_run(run: dict[str, Any]) -> str:
    """Return the line of one run."""
    loss = "diverged" if run["loss_nats"] is None else f"{run['loss_nats']:.4f}"
    return (
        f"seed {run['seed']}  {run['option']:<40} {loss:>8} {run['steps']:>8,} steps "
        f"{run['training_seconds']:>7.1f} s"
    )


def format_row(row: dict[str, Any]) -> str:
    """Return the table's line of one option."""
    losses = [row[key] for key in ("median", "lowest", "highest")]
    numbers = "".join(" " * 9 if loss is None else f" {loss:>8.4f}" for loss in losses)
    difference = " " * 9 if row["difference"] is None else f" {row['difference']:>+8.4f}"
    diverged = f"  {row['diverged']} diverged" if row["diverged"] else ""
    return f"{row['option']:<40}{numbers}{difference} {row['steps']:>8,}{diverged}"


if __name__ == "__main__":
    run_main(main)
