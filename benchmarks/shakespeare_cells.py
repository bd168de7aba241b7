"""Loss of every recurrence on tiny Shakespeare, with equal time and equal numbers of parameters.

Each network has the configuration `shakespeare`, except for its recurrence and its size. The size
is chosen so that the number of parameters is that of an LSTM with --hidden units, within 3 %. The
networks train one after another, for --seconds each, so the machine must be idle otherwise. With
--steps they take equally many steps instead, which a busy machine does not change. The loss is that
of the best checkpoint on the whole validation split. If a training diverges, or ends with a loss
worse than that of a uniform guess, it starts again with a quarter of the learning rate, at most
five times. The rate is printed.

    python benchmarks/shakespeare_cells.py tinyshakespeare.txt --seconds 60
    python benchmarks/shakespeare_cells.py tinyshakespeare.txt lstm slstm --steps 600
"""

import argparse
import json
import math
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from cells import CELLS as TIMED_CELLS
from measuring import (
    add_overrides,
    argument_parser,
    check_names,
    count_configured,
    fitting_size,
    print_environment,
    run_main,
    text_override,
)

import charlm
from charlm.errors import DivergenceError
from charlm.evaluation.perplexity import Perplexity

BASE = "shakespeare"
CELLS = TIMED_CELLS | {"elman, relu": {"kind": "elman", "activation": "relu"}}
TOLERANCE = 0.03
MAX_SIZE = 1 << 14
MAX_QUARTERINGS = 5  # Of the learning rate.


def main() -> None:
    """Train all recurrences; print one line each, and the same as JSON."""
    options = arguments()
    vocabulary_size = len(set(options.text.read_text(encoding="utf-8"))) + 2  # <EOS> and <UNK>.
    target = parameters_of("lstm", vocabulary_size, options.hidden)
    budget = f"{options.steps:,} steps" if options.steps else f"{options.seconds:g} s"
    print_environment(f"{target:,} parameters", f"{budget} each")
    print(
        f"{'recurrence':<27} {'size':>6} {'parameters':>10} {'steps':>6} {'rate':>8} "
        f"{'nats':>7} {'bits':>6}"
    )
    rows = []
    for name in options.cells or CELLS:
        size = size_of(name, target, vocabulary_size)
        row = {"parameters": parameters_of(name, vocabulary_size, size)}
        rows.append(row | measure(name, size, vocabulary_size, options))
        print_row(rows[-1])
    print(json.dumps(rows))


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("text", type=Path, help="file with tiny Shakespeare")
    parser.add_argument(
        "cells", nargs="*", metavar="CELL", help=f"one of: {'; '.join(CELLS)} [all]"
    )
    parser.add_argument(
        "--hidden", type=int, default=256, help="units of the LSTM that sets the parameters [256]"
    )
    parser.add_argument("--seconds", type=float, default=60, help="training time of each [60]")
    parser.add_argument("--steps", type=int, help="training steps of each, instead of --seconds")
    add_overrides(parser)
    options = parser.parse_args()
    check_names(parser, "CELL", options.cells, CELLS)
    return options


def measure(
    name: str, size: int, vocabulary_size: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one recurrence, with a lower learning rate where it fails, and score it."""
    budget = f"minutes={options.seconds / 60}"
    overrides = [
        text_override(options.text),
        f"training.{f'steps={options.steps}' if options.steps else budget}",
        "training.evaluations=1",
        *model_overrides(name, size),
        *options.overrides,
    ]
    first = charlm.load_config(BASE, overrides).training.learning_rate
    for rate in (first / 4**quarterings for quarterings in range(MAX_QUARTERINGS + 1)):
        steps, score = train_and_score([*overrides, f"training.learning_rate={rate}"])
        if score is not None and score.loss_nats < math.log(vocabulary_size):
            return {
                "recurrence": name,
                "size": size,
                "steps": steps,
                "learning_rate": rate,
                "loss_nats": score.loss_nats,
                "bits_per_character": score.bits_per_character,
            }
    sys.exit(f"shakespeare_cells.py: {name}: no training from rate {first:g} to {rate:g} succeeds")


def train_and_score(overrides: list[str]) -> tuple[int, Perplexity | None]:
    """Return the number of steps and the score; the score is None if the training diverged."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = charlm.train(charlm.load_config(BASE, overrides), out=Path(folder) / "run")
        except DivergenceError:
            return 0, None
        return run.state["step"], run.perplexity()


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
    return [f"model.cell={json.dumps(CELLS[name])}", *sizes]


def parameters_of(name: str, vocabulary_size: int, size: int) -> int:
    """Return the number of parameters of the network whose recurrence has N units."""
    return count_configured(charlm.load_config(BASE, model_overrides(name, size)), vocabulary_size)


def size_of(name: str, target: int, vocabulary_size: int) -> int:
    """Return the size of a recurrence whose number of parameters is nearest to a target.

    Raises:
        SystemExit: It differs from the target by more than 3 %.
    """
    parameters = partial(parameters_of, name, vocabulary_size)
    size = fitting_size(parameters, target, limit=MAX_SIZE)
    if abs(parameters(size) - target) > TOLERANCE * target:
        sys.exit(
            f"shakespeare_cells.py: {name}: no size has {target:,} parameters within "
            f"{TOLERANCE:.0%}; change --hidden"
        )
    return size


if __name__ == "__main__":
    run_main(main)
