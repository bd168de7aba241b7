r"""Which recurrences remember the subject at the verb: accuracy of agreement by distance.

Each recurrence is trained with the configuration `agreement` for the same number of steps, and
tested on 4,000 sentences that it has not seen. No word between subject and verb shows the number,
so a network that does not remember the subject is right half of the time. One table has the
accuracy by the number of words between subject and verb and in all, another one the validation
loss. Further options answer how much context a recurrence uses:

- With --context, the half-life of the gradient of the verb's loss, and its norm at distance 16
  relative to that at distance 0. Each recurrence is also trained on the corpus as one long text,
  for the accuracy, and for the loss at the verbs and over all tokens by number of context tokens.
- With --equal-parameters, each recurrence is measured again with as many units as give it the
  number of parameters of an LSTM with --hidden units.

Each number is the median over the seeds, with the range in brackets. Losses are in nats per token,
accuracies are fractions.

    python benchmarks/agreement.py --cells bag elman gru lstm min_gru --steps 2500
    python benchmarks/agreement.py --cells elman gru lstm --steps 1500 --seeds 1,2,3 --context \
      --equal-parameters
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cells import add_cells, cell_override
from measuring import (
    add_options,
    add_overrides,
    argument_parser,
    count,
    format_spread,
    markdown_table,
    print_environment,
    print_results,
    run_main,
    spread,
)
from runs import count_configured, fitting_size

import charlm

STREAM = ["corpus.mode=stream", "tokenizer.eos=line", "training.window=32"]
SENTENCES = 4000
VERBS = ("was", "were", "is", "are", "has", "have")
CONTEXTS = (1, 2, 5, 10, 20, 50)
MAX_SIZE = 4096

Quantities = dict[str, dict[str, float]]


class Network(NamedTuple):
    """One network of the comparison."""

    cell: str
    hidden_size: int
    parameters: int


def main() -> None:
    """Train and measure all networks; print one table per quantity, and everything as JSON."""
    options = arguments()
    print_environment(f"{options.steps} steps, seeds {options.seeds}")
    results = {
        network: [measure(network, seed, options) for seed in options.seeds]
        for network in choose_networks(options)
    }
    for quantity in next(iter(results.values()))[0]:
        print(f"\n{quantity}\n")
        columns = {network: [run[quantity] for run in runs] for network, runs in results.items()}
        print_table(columns)
    networks = [network._asdict() | {"runs": runs} for network, runs in results.items()]
    print_results(steps=options.steps, seeds=options.seeds, networks=networks)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_cells(parser, ["elman", "lstm"])
    add_options(parser, hidden=64, steps=2000, seeds=[1])
    parser.add_argument(
        "--longest",
        type=count,
        default=4,
        help="maximum number of phrases between subject and verb in the test; 4 in training [4]",
    )
    parser.add_argument(
        "--context", action="store_true", help="also measure gradients, and losses by context"
    )
    parser.add_argument(
        "--equal-parameters",
        action="store_true",
        help="also train each recurrence with the number of parameters of the LSTM",
    )
    add_overrides(parser)
    return parser.parse_args()


def choose_networks(options: argparse.Namespace) -> Iterator[Network]:
    """Yield each recurrence with --hidden units, then each with the parameters of the LSTM."""
    vocabulary_size = count_vocabulary(STREAM if options.context else [])
    counts = {
        cell: partial(parameters_of, cell, vocabulary_size) for cell in (*options.cells, "lstm")
    }
    for cell in options.cells:
        yield Network(cell, options.hidden, counts[cell](options.hidden))
    if options.equal_parameters:
        target = counts["lstm"](options.hidden)
        for cell in options.cells:
            size = fitting_size(counts[cell], target, limit=MAX_SIZE)
            if size != options.hidden:
                yield Network(cell, size, counts[cell](size))


def count_vocabulary(overrides: list[str]) -> int:
    """Return the size of the vocabulary of a run; that of the text has two tokens more."""
    with tempfile.TemporaryDirectory() as folder:
        run = train([*overrides, "training.steps=1"], Path(folder) / "run")
        return run.tokenizer.vocabulary_size


def parameters_of(cell: str, vocabulary_size: int, hidden_size: int) -> int:
    """Return the number of parameters of a network."""
    overrides = [cell_override(cell), f"model.hidden_size={hidden_size}"]
    return count_configured(charlm.load_config("agreement", overrides), vocabulary_size)


def measure(network: Network, seed: int, options: argparse.Namespace) -> Quantities:
    """Train a network on the sentences, and on the text with --context; return its numbers."""
    overrides = [
        cell_override(network.cell),
        f"model.hidden_size={network.hidden_size}",
        f"training.steps={options.steps}",
        f"training.seed={seed}",
        *options.overrides,
    ]
    with tempfile.TemporaryDirectory() as folder:
        run = train(overrides, Path(folder) / "sentences")
        quantities: Quantities = {
            "agreement": accuracies(run, options.longest),
            "validation": {"nats": run.state["best_loss_nats"]},
        }
        if options.context:
            text = train([*STREAM, *overrides], Path(folder) / "text")
            quantities |= gradient_quantities(run) | context_quantities(text, options.longest)
    print(f"{network.cell}, {network.hidden_size} units, seed {seed}: trained", flush=True)
    return quantities


def train(overrides: list[str], folder: Path) -> charlm.Run:
    """Train one run on the corpus agreement."""
    config = charlm.load_config("agreement", overrides)
    return charlm.train(config, out=folder, progress=False)


def accuracies(run: charlm.Run, longest: int) -> dict[str, float]:
    """Return the accuracy of the agreement by number of words between subject and verb."""
    agreement = run.agreement(sentences=SENTENCES, longest=longest)
    by_distance = {
        format_distance(row["distance_from"], row["distance_to"]): row["accuracy"]
        for row in agreement.by_distance
    }
    return by_distance | {"all": agreement.accuracy}


def format_distance(first: int, last: int | None) -> str:
    """Return a range of distances, such as `4-6` or `21+`."""
    if last is None:
        return f"{first}+"
    return str(first) if first == last else f"{first}-{last}"


def gradient_quantities(run: charlm.Run) -> Quantities:
    """Return half-lives and relative norms of a run that reads each sentence by itself."""
    curves = run.gradients(window=24, windows=512, at=VERBS).curves
    return {
        "half-life, tokens": {curve.part: curve.half_life_tokens for curve in curves},
        "relative norm at 16": {curve.part: curve.distances[16].relative for curve in curves},
    }


def context_quantities(run: charlm.Run, longest: int) -> Quantities:
    """Return losses by context and accuracies of a run that reads one long text."""
    verbs = run.context(contexts=CONTEXTS, at=VERBS)
    every = run.context(contexts=CONTEXTS)
    return {
        "text: nats at verbs": {str(row.context): row.loss_nats for row in verbs.contexts},
        "text: nats, all": {str(row.context): row.loss_nats for row in every.contexts},
        "text: agreement": accuracies(run, longest),
    }


def print_table(results: Mapping[Network, list[dict[str, float]]]) -> None:
    """Print one line per network: the median of each number, with the range in brackets."""
    names = list(dict.fromkeys(name for runs in results.values() for name in runs[0]))
    rows = []
    for network, runs in results.items():
        series = ([run[name] for run in runs if name in run] for name in names)
        numbers = [format_spread(spread(values), 4, "g") if values else "" for values in series]
        rows.append([network.cell, str(network.hidden_size), f"{network.parameters:,}", *numbers])
    print(markdown_table(["recurrence", "units", "parameters", *names], rows))


if __name__ == "__main__":
    run_main(main)
