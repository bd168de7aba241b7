"""How much context Elman, GRU and LSTM use: loss by context, gradients, and agreement.

Every recurrence is trained with --hidden units. Elman and GRU are trained again with as many units
as give them the number of parameters of the LSTM. All take the same number of steps, once on the
corpus agreement as one long text, and once on its sentences, each by itself. The number of a verb
depends on a subject some words back. Printed are

- for the text, the loss at the verbs and over all tokens, by the number of context tokens
- for the sentences, the validation loss, and of the gradient of the verb's loss the half-life and
  the norm at distance 16 relative to that at distance 0
- for both, the accuracy of the agreement by distance

Each number is the median over the seeds, with the range in brackets. Losses are in nats per token,
accuracies are fractions.

    python benchmarks/agreement_context.py --seeds 1,2,3
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from agreement import accuracies, run_overrides, train
from measuring import (
    add_options,
    add_overrides,
    argument_parser,
    columns_of,
    format_spread,
    print_environment,
    print_results,
    run_main,
    spread,
)
from runs import count_configured, fitting_size

import charlm

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
    print_environment(f"{options.steps} steps, seeds {options.seeds}")
    results = {}
    for network in choose_networks(options.hidden, count_vocabulary()):
        results[network] = [measure(network, seed, options) for seed in options.seeds]
        print(f"{network.cell}, {network.hidden_size} units, {network.parameters:,} parameters")
        for quantity in results[network][0]:
            columns = [row[quantity] for row in results[network]]
            print(f"  {quantity:<20} {format_columns(columns)}", flush=True)
    networks = [network._asdict() | {"runs": rows} for network, rows in results.items()]
    print_results(steps=options.steps, seeds=options.seeds, networks=networks)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, hidden=64, steps=1500, seeds=[1, 2, 3])
    add_overrides(parser)
    return parser.parse_args()


def choose_networks(hidden_size: int, vocabulary_size: int) -> list[Network]:
    """Return every recurrence with equal hidden size, then with the parameters of the LSTM."""
    counts = {cell: partial(parameters_of, cell, vocabulary_size) for cell in CELLS}
    target = counts["lstm"](hidden_size)
    sizes = [(cell, hidden_size) for cell in CELLS]
    sizes += [
        (cell, fitting_size(count, target, limit=MAX_SIZE))
        for cell, count in counts.items()
        if cell != "lstm"
    ]
    return [Network(cell, size, counts[cell](size)) for cell, size in sizes]


def parameters_of(cell: str, vocabulary_size: int, hidden_size: int) -> int:
    """Return the number of parameters of a network."""
    overrides = [f"model.cell={cell}", f"model.hidden_size={hidden_size}"]
    return count_configured(charlm.load_config("agreement", overrides), vocabulary_size)


def count_vocabulary() -> int:
    """Return the size of the vocabulary of the corpus."""
    with tempfile.TemporaryDirectory() as folder:
        run = train([*STREAM, "training.steps=1"], Path(folder) / "run")
        return run.tokenizer.vocabulary_size


def measure(network: Network, seed: int, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train a network on the text and on its sentences; return its numbers by quantity."""
    overrides = run_overrides(network.cell, network.hidden_size, seed, options)
    with tempfile.TemporaryDirectory() as folder:
        text = train([*STREAM, *overrides], Path(folder) / "text")
        sentences = train(overrides, Path(folder) / "sentences")
        return context_quantities(text) | gradient_quantities(sentences)


def context_quantities(run: charlm.Run) -> dict[str, dict[str, Any]]:
    """Return losses by context and accuracies of a run that reads one long text."""
    verbs = run.context(contexts=CONTEXTS, at=VERBS)
    every = run.context(contexts=CONTEXTS)
    return {
        "text: nats at verbs": {str(row.context): row.loss_nats for row in verbs.contexts},
        "text: nats, all": {str(row.context): row.loss_nats for row in every.contexts},
        "text: agreement": accuracies(run),
    }


def gradient_quantities(run: charlm.Run) -> dict[str, dict[str, Any]]:
    """Return half-lives and accuracies of a run that reads each sentence by itself."""
    curves = run.gradients(window=24, windows=512, at=VERBS).curves
    return {
        "half-life, tokens": {curve.part: curve.half_life_tokens for curve in curves},
        "relative norm at 16": {curve.part: curve.distances[16].relative for curve in curves},
        "agreement": accuracies(run),
        "validation": {"nats": run.state["best_loss_nats"]},
    }


def format_columns(rows: list[dict[str, float]]) -> str:
    """Return each number as its median over the rows, with the range in brackets."""
    return "  ".join(
        f"{name}: {format_spread(spread(column), 4, 'g')}"
        for name, column in columns_of(rows).items()
    )


if __name__ == "__main__":
    run_main(main)
