"""Loss of every recurrence on tiny Shakespeare, with equal time and equal numbers of parameters.

Each network has the configuration `shakespeare`, except for its recurrence and its size. The size
is chosen so that the number of parameters is that of an LSTM with --hidden units, within 3 %. The
networks train one after another, for --minutes each, so the machine must be idle otherwise. With
--steps they take equally many steps instead, which a busy machine does not change. If a training
diverges, or ends with a loss worse than that of a uniform guess, it starts again with a quarter of
the learning rate, at most five times.

A line has the number of units and of parameters, the steps, the learning rate, and the nats and
bits per character of the best checkpoint on the whole validation split. With several seeds there
is a line for each.

    python benchmarks/shakespeare_cells.py tinyshakespeare.txt --minutes 1
    python benchmarks/shakespeare_cells.py tinyshakespeare.txt --cells lstm slstm --steps 600
"""

import argparse
import math
from functools import partial
from typing import Any

from cells import add_cells, cell_override
from measuring import (
    add_budget,
    add_options,
    add_overrides,
    add_text,
    argument_parser,
    budget_override,
    print_environment,
    print_results,
    read_text,
    run_main,
    text_override,
)
from runs import count_configured, fitting_size, measure_validation

import charlm
from charlm.errors import CharlmError

BASE = "shakespeare"
TOLERANCE = 0.03
MAX_SIZE = 1 << 14
MAX_QUARTERINGS = 5  # Of the learning rate.


def main() -> None:
    """Train all recurrences; print one line each, and the same as JSON."""
    options = arguments()
    vocabulary_size = len(set(read_text(options.text))) + 2  # <EOS> and <UNK>.
    target = parameters_of("lstm", vocabulary_size, options.hidden)
    print_environment(f"{target:,} parameters", budget_override(options))
    print(
        f"{'recurrence':<27} {'size':>6} {'parameters':>10} {'steps':>6} {'rate':>8} "
        f"{'nats':>7} {'bits':>6}"
    )
    rows = []
    for name in options.cells:
        size = size_of(name, target, vocabulary_size)
        for seed in options.seeds:
            rows.append(measure(name, size, seed, options))
            print_row(rows[-1])
    print_results(budget=budget_override(options), overrides=options.overrides, rows=rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_text(parser)
    add_cells(parser)
    add_options(parser, hidden=256, seeds=[1])
    add_budget(parser, minutes=1.0)
    add_overrides(parser)
    return parser.parse_args()


def measure(name: str, size: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one recurrence, with a lower learning rate where it fails, and score it."""
    overrides = [
        text_override(options.text),
        budget_override(options),
        "training.evaluations=1",
        f"training.seed={seed}",
        *model_overrides(name, size),
        *options.overrides,
    ]
    first = charlm.load_config(BASE, overrides).training.learning_rate
    for rate in (first / 4**quarterings for quarterings in range(MAX_QUARTERINGS + 1)):
        run = measure_validation(
            charlm.load_config(BASE, [*overrides, f"training.learning_rate={rate}"])
        )
        if run["loss_nats"] and run["loss_nats"] < math.log(run["vocabulary_size"]):
            return {"recurrence": name, "size": size, "seed": seed, "learning_rate": rate, **run}
    raise CharlmError(f"{name}: no training from rate {first:g} to {rate:g} succeeds")


def print_row(row: dict[str, Any]) -> None:
    """Print the line of one recurrence."""
    print(
        f"{row['recurrence']:<27} {row['size']:>6} {row['parameters']:>10,} {row['steps']:>6,} "
        f"{row['learning_rate']:>8.2g} {row['loss_nats']:>7.4f} {row['bits_per_character']:>6.3f}",
        flush=True,
    )


def model_overrides(name: str, size: int) -> list[str]:
    """Return the overrides for a recurrence with N units.

    The hidden size of a bag is its embedding size, and its sum needs normalization.
    """
    sizes = [f"model.hidden_size={size}"]
    if name == "bag":
        sizes = [f"model.embedding_size={size}", "model.layer_norm=true"]
    return [cell_override(name), *sizes]


def parameters_of(name: str, vocabulary_size: int, size: int) -> int:
    """Return the number of parameters of the network whose recurrence has N units."""
    return count_configured(charlm.load_config(BASE, model_overrides(name, size)), vocabulary_size)


def size_of(name: str, target: int, vocabulary_size: int) -> int:
    """Return the size of a recurrence whose number of parameters is nearest to a target.

    Raises:
        CharlmError: It differs from the target by more than 3 %.
    """
    parameters = partial(parameters_of, name, vocabulary_size)
    size = fitting_size(parameters, target, limit=MAX_SIZE)
    if abs(parameters(size) - target) > TOLERANCE * target:
        raise CharlmError(
            f"{name}: no size has {target:,} parameters within {TOLERANCE:.0%}; change --hidden"
        )
    return size


if __name__ == "__main__":
    run_main(main)
