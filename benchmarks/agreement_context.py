"""How much context Elman, GRU and LSTM use: loss by context, gradients, and agreement.

Every recurrence is trained with --hidden units, and again with as many units as give it the number
of parameters of the LSTM, for an equal number of steps: on the corpus agreement as one long text,
and on its sentences, each by itself. Printed are, for the text, the loss at the verbs, whose number
depends on a subject some words back, by the number of context tokens, and the same over all tokens;
for the sentences, the half-life of the gradient of the verb's loss; for both, the accuracy of the
agreement by distance. Each number is the median over the seeds, with the range in brackets.

    python benchmarks/agreement_context.py --seeds 1,2,3
"""

import argparse
import json
import statistics
import tempfile
from bisect import bisect_left
from pathlib import Path
from typing import Any, NamedTuple

import torch
from agreement import format_distance
from measuring import add_overrides, add_seeds, argument_parser, count_parameters, print_environment

import charlm
from charlm.api import Run
from charlm.model.language_model import LanguageModel

STREAM = ["corpus.mode=stream", "tokenizer.eos=line", "training.window=32"]
CELLS = ("elman", "gru", "lstm")
VERBS = ("was", "were", "is", "are", "has", "have")
CONTEXTS = (1, 2, 5, 10, 20, 50)
MAX_SIZE = 4096


class Network(NamedTuple):
    """One network of the comparison."""

    cell: str
    hidden_size: int
    parameters: int


def main() -> None:
    """Train and measure all networks; print one table per quantity, and everything as JSON."""
    options = arguments()
    vocabulary_size = count_vocabulary()
    networks = choose_networks(options.hidden, vocabulary_size)
    print_environment(f"{options.steps} steps, seeds {options.seeds}")
    results = {}
    for network in networks:
        results[network] = [measure(network, seed, options) for seed in options.seeds]
        print(f"{network.cell}, {network.hidden_size} units, {network.parameters:,} parameters")
        for quantity in results[network][0]:
            columns = [row[quantity] for row in results[network]]
            print(f"  {quantity:<20} {format_columns(columns)}", flush=True)
    print(json.dumps([network._asdict() | {"seeds": rows} for network, rows in results.items()]))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--hidden", type=int, default=64, help="hidden size [64]")
    parser.add_argument("--steps", type=int, default=1500, help="training steps [1500]")
    add_seeds(parser, [1, 2, 3])
    add_overrides(parser)
    return parser.parse_args()


def choose_networks(hidden_size: int, vocabulary_size: int) -> list[Network]:
    """Return every recurrence with equal hidden size, then with the parameters of the LSTM."""
    target = parameters_of("lstm", hidden_size, vocabulary_size)
    sizes = [(cell, hidden_size) for cell in CELLS]
    sizes += [
        (cell, fitting_size(cell, target, vocabulary_size)) for cell in CELLS if cell != "lstm"
    ]
    return [Network(cell, size, parameters_of(cell, size, vocabulary_size)) for cell, size in sizes]


def count_vocabulary() -> int:
    """Return the size of the vocabulary of the corpus."""
    with tempfile.TemporaryDirectory() as folder:
        config = charlm.load_config("agreement", [*STREAM, "training.steps=1"])
        return charlm.train(config, out=Path(folder) / "run").tokenizer.vocabulary_size


def parameters_of(cell: str, hidden_size: int, vocabulary_size: int) -> int:
    """Return the number of parameters of a network."""
    overrides = [f"model.cell={cell}", f"model.hidden_size={hidden_size}"]
    with torch.device("meta"):
        section = charlm.load_config("agreement", overrides).model
        return count_parameters(LanguageModel(section, vocabulary_size))


def fitting_size(cell: str, target: int, vocabulary_size: int) -> int:
    """Return the hidden size whose number of parameters is nearest to a target."""

    def parameters(size: int) -> int:
        return parameters_of(cell, size, vocabulary_size)

    above = bisect_left(range(MAX_SIZE), target, lo=2, key=parameters)
    return min((above - 1, above), key=lambda size: abs(parameters(size) - target))


def measure(network: Network, seed: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train a network on the text and on its sentences; return its numbers by quantity."""
    overrides = [
        f"model.cell={network.cell}",
        f"model.hidden_size={network.hidden_size}",
        f"training.steps={options.steps}",
        f"training.seed={seed}",
        *options.overrides,
    ]
    with tempfile.TemporaryDirectory() as folder:
        text = train([*STREAM, *overrides], Path(folder) / "text")
        sentences = train(overrides, Path(folder) / "sentences")
        return context_quantities(text) | gradient_quantities(sentences)


def train(overrides: list[str], folder: Path) -> Run:
    """Train one run on the corpus agreement."""
    config = charlm.load_config("agreement", overrides)
    return charlm.train(config, out=folder, progress=False)


def context_quantities(run: Run) -> dict[str, dict[str, Any]]:
    """Return losses by context and accuracies of a run that reads one long text."""
    verbs = run.context(contexts=CONTEXTS, at=VERBS)
    every = run.context(contexts=CONTEXTS)
    return {
        "text: nats at verbs": {str(row.context): row.loss_nats for row in verbs.contexts},
        "text: nats, all": {str(row.context): row.loss_nats for row in every.contexts},
        "text: agreement": accuracies(run),
    }


def gradient_quantities(run: Run) -> dict[str, dict[str, Any]]:
    """Return half-lives and accuracies of a run that reads each sentence by itself."""
    curves = run.gradients(window=24, windows=512, at=VERBS).curves
    return {
        "half-life, tokens": {curve.part: curve.half_life_tokens for curve in curves},
        "relative norm at 16": {curve.part: curve.distances[16].relative for curve in curves},
        "agreement": accuracies(run),
        "validation": {"nats": run.state["best_loss_nats"]},
    }


def accuracies(run: Run) -> dict[str, float]:
    """Return the accuracy of the agreement by number of words between subject and verb."""
    agreement = run.agreement(sentences=4000)
    by_distance = {
        format_distance(row["distance_from"], row["distance_to"]): row["accuracy"]
        for row in agreement.by_distance
    }
    return by_distance | {"all": agreement.accuracy}


def format_columns(rows: list[dict[str, float]]) -> str:
    """Return each number as its median over the rows, with the range in brackets."""
    values = {name: [row[name] for row in rows] for name in rows[0]}
    return "  ".join(
        f"{name}: {statistics.median(column):.4g} ({min(column):.4g} to {max(column):.4g})"
        for name, column in values.items()
    )


if __name__ == "__main__":
    main()
