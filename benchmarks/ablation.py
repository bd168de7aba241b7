"""What each option buys on a text: a base, and the base with one thing changed, for equal time, steps or epochs.

Each seed trains the base and every option in turn, so that a machine whose speed drifts slows all alike; it must have
nothing else to do, or the budget be --steps. The base is the shipped config `shakespeare` for characters, `words` with
tokens between spaces for words; --plain takes its dropout away. An option that the base has already is left out unless
it is named. Losses are of the whole validation split, each token
scored once with the state carried, by the best checkpoint. An option that diverges is said to.

    python benchmarks/ablation.py tinyshakespeare.txt --seconds 60 --seeds 1 2 3
    python benchmarks/ablation.py wikitext2-test.txt --valid wikitext2-valid.txt --task words --epochs 5 --only mixture
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

import charlm
from charlm.errors import DivergenceError
from charlm.runs import prepare, session

BASE = "base"
BASES = {"characters": "shakespeare", "words": "words"}
TASKS = {
    "characters": ["tokenizer.level=char", "corpus.valid_share=0.1"],
    # Without what the table takes up by itself.
    "words": [
        "tokenizer.level=word",
        "tokenizer.words=whitespace",
        "tokenizer.vocabulary_size=1000000",
        "model.word_dropout=0",
        "training.label_smoothing=0",
        "training.partial_shuffle=false",
    ],
}
PLAIN = [
    "model.word_dropout=0",
    "model.embedding_dropout=0",
    "model.dropout=0",
    "model.output_dropout=0",
    "model.weight_dropout=0",
]
OPTIONS: dict[str, list[str]] = {
    "no dropout": PLAIN,
    "embedding dropout 0.2": ["model.embedding_dropout=0.2"],
    "output dropout 0.2": ["model.output_dropout=0.2"],
    "output dropout 0.4": ["model.output_dropout=0.4"],
    "both 0.2": ["model.embedding_dropout=0.2", "model.output_dropout=0.2"],
    "both 0.2, one mask a window": [
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
OF_WORDS: dict[str, list[str]] = {
    "mixture of 5": ["model.mixture=5"],
    "adaptive softmax": ["model.tied=false", "model.adaptive_cutoffs=[2000]"],
}


def main() -> None:
    """Train all in turn; print a line a run, then a table, and all as JSON."""
    given = arguments()
    table = options(given.task)
    base = configure(BASE, 0, given)
    names = [BASE, *(given.only or [name for name in table if configure(name, 0, given) != base])]
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {given.config}, {' '.join(given.budget)}"
    )
    runs = []
    for seed in given.seeds:
        for name in names:
            runs.append({"option": name, "seed": seed, **measure(configure(name, seed, given))})
            print(line_of(runs[-1]), flush=True)
    rows = summarize(runs, names)
    print(f"\n{'option':<40} {'nats':>8} {'lowest':>8} {'highest':>8} {'to base':>8} {'steps':>8}")
    for row in rows:
        print(table_line(row))
    print(
        json.dumps(
            {
                "task": given.task,
                "config": given.config,
                "budget": given.budget,
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "overrides": given.overrides,
                "options": {name: table.get(name, []) for name in names},
                "runs": runs,
                "summary": rows,
            }
        )
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument(
        "--valid", type=Path, help="a text to validate on, instead of the end of TEXT"
    )
    parser.add_argument("--task", choices=list(BASES), default="characters")
    parser.add_argument("--config", help="another base [shakespeare, words]")
    parser.add_argument("--plain", action="store_true", help="a base without any dropout")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, help="of training [60]")
    budget.add_argument("--epochs", type=float)
    budget.add_argument("--steps", type=int, help="for a machine whose speed drifts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="some options, named as in the table"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="SECTION.KEY=VALUE",
        help="for the base, and so for all",
    )
    given = parser.parse_args()
    given.config = given.config or BASES[given.task]
    given.budget = (
        [f"training.steps={given.steps}"]
        if given.steps
        else [f"training.epochs={given.epochs}"]
        if given.epochs
        else [f"training.minutes={(given.seconds or 60) / 60}"]
    )
    unknown = [name for name in given.only or [] if name not in options(given.task)]
    if unknown:
        parser.error(
            f"--only {unknown[0]!r}: is no option of {given.task}; known: {'; '.join(options(given.task))}"
        )
    return given


def options(task: str) -> dict[str, list[str]]:
    """Return the table of a task: what each option changes in the base."""
    return OPTIONS | OF_WORDS if task == "words" else OPTIONS


def configure(name: str, seed: int, given: argparse.Namespace) -> charlm.Config:
    """Return the configuration of one run."""
    valid = [f"corpus.valid_text={json.dumps([str(given.valid)])}"] if given.valid else []
    plain = PLAIN if given.plain else []
    settings = [
        f"corpus.text={json.dumps([str(given.text)])}",
        *valid,
        *TASKS[given.task],
        *given.budget,
        f"training.seed={seed}",
        *plain,
        *given.overrides,
    ]
    return charlm.load_config(given.config, [*settings, *options(given.task).get(name, [])])


def measure(config: charlm.Config) -> dict[str, Any]:
    """Train and score one run; return what came of it, without a loss where it diverged."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare.begin(config, Path(folder) / "run")
        state = experiment.state
        try:
            for _ in session.run(experiment):
                pass
        except DivergenceError:
            return {
                "steps": state.step,
                "seconds": state.seconds,
                "epochs": state.epochs,
                "loss_nats": None,
            }
        score = charlm.load(Path(folder) / "run").perplexity()
    return {
        "steps": state.step,
        "seconds": round(state.seconds, 2),
        "epochs": round(state.epochs, 3),
        "loss_nats": score.loss_nats,
        "perplexity": score.perplexity,
        "bits_per_character": score.bits_per_character,
    }


def summarize(runs: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Return a row an option: median and spread over the seeds, and the median of the differences to the base.

    Differences are those within a seed: what a seed does to all alike is not the option's doing.
    """
    base = {run["seed"]: run["loss_nats"] for run in runs if run["option"] == BASE}
    rows = []
    for name in names:
        found = [run for run in runs if run["option"] == name]
        losses = [run["loss_nats"] for run in found if run["loss_nats"] is not None]
        pairs = [(run["loss_nats"], base[run["seed"]]) for run in found]
        differences = [
            ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None
        ]
        rows.append(
            {
                "option": name,
                "diverged": len(found) - len(losses),
                "median": statistics.median(losses) if losses else None,
                "lowest": min(losses, default=None),
                "highest": max(losses, default=None),
                "difference": statistics.median(differences) if differences else None,
                "steps": round(statistics.median(run["steps"] for run in found)),
            }
        )
    return rows


def line_of(row: dict[str, Any]) -> str:
    """Return a run's line."""
    loss = "diverged" if row["loss_nats"] is None else f"{row['loss_nats']:.4f}"
    return f"seed {row['seed']}  {row['option']:<40} {loss:>8} {row['steps']:>8,} steps {row['seconds']:>7.1f} s"


def table_line(row: dict[str, Any]) -> str:
    """Return an option's line."""
    numbers = "".join(
        " " * 9 if row[key] is None else f" {row[key]:>8.4f}"
        for key in ("median", "lowest", "highest")
    )
    difference = " " * 9 if row["difference"] is None else f" {row['difference']:>+8.4f}"
    diverged = f"  {row['diverged']} diverged" if row["diverged"] else ""
    return f"{row['option']:<40}{numbers}{difference} {row['steps']:>8,}{diverged}"


if __name__ == "__main__":
    main()
