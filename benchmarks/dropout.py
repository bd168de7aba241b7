"""Training step with the dropout masks of charlm, and with those of torch's `bernoulli_`.

Both kinds of steps are taken in turn, round by round, in one process, so that drift of the
machine's speed affects both alike. Settings, sizes and precision are those of the configurations;
the ids are random, and a step reads whole windows. For records, the window is the mean length of a
record. The table has the medians in milliseconds per step with each kind of masks and without any
dropout (`none`), their ratio `speed-up`, and the cost of both kinds relative to `none`.

    python benchmarks/dropout.py
    python benchmarks/dropout.py --only names --rounds 5
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch
from ablation import NO_DROPOUT
from measuring import (
    VOCABULARY_SIZE,
    add_options,
    add_series,
    argument_parser,
    mean_seconds,
    measure_in_turn,
    medians,
    print_environment,
    print_results,
    run_main,
)
from step import ENDLESS, STEPS_PER_ROUND, WARM_UP_STEPS, training_steps
from torch import Tensor
from torch.nn import functional

import charlm
from charlm.model import dropout
from charlm.training.devices import choose_device, choose_precision, fast_math, precision_name

COLUMNS = ["bernoulli_", "charlm", "none", "speed-up", "cost before", "cost now"]


class Case(NamedTuple):
    """A configuration, the size of its vocabulary, and overrides of it."""

    config: str
    vocabulary_size: int
    overrides: tuple[str, ...] = ()


CASES = {
    "names": Case("names", 28, ("training.window=8",)),  # 7.1 letters and <EOS>.
    "shakespeare, output dropout 0.1": Case(
        "shakespeare", VOCABULARY_SIZE, ("model.output_dropout=0.1",)
    ),
    "words": Case("words", 8000),
    "shakespeare-best": Case("shakespeare-best", VOCABULARY_SIZE),
}


def main() -> None:
    """Time all cases; print one line each, and all as JSON."""
    options = arguments()
    device = choose_device("cpu")
    precision = precision_name(choose_precision("auto", device))
    print_environment(precision, f"{options.rounds} rounds of {STEPS_PER_ROUND} steps")
    print(f"{'milliseconds per step':<32}" + "".join(f"{column:>13}" for column in COLUMNS))
    rows = []
    with fast_math(device):
        for name in options.only:
            rows.append({"case": name, **measure(CASES[name], precision, device, options.rounds)})
            print_row(rows[-1])
    print_results(precision=precision, rows=rows)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_series(parser, "--only", list(CASES), choices=CASES, help="cases")
    add_options(parser, rounds=21)
    return parser.parse_args()


def measure(case: Case, precision: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Time the steps of one case with each kind of masks."""
    kinds: dict[str, tuple[Callable[..., Tensor], list[str]]] = {
        "bernoulli_": (bernoulli_scale, []),
        "charlm": (dropout.dropout_scale, []),
        "none": (dropout.dropout_scale, NO_DROPOUT),
    }
    timed = {}
    for kind, (scale, changes) in kinds.items():
        config = configure(case, changes)
        steps, _ = training_steps(config, precision, case.vocabulary_size, device)
        timed[kind] = partial(seconds_per_step, steps, scale, STEPS_PER_ROUND)
        seconds_per_step(steps, scale, WARM_UP_STEPS)
    seconds = medians(measure_in_turn(timed, rounds))
    return {"seconds": seconds, "speed_up": seconds["bernoulli_"] / seconds["charlm"]}


def configure(case: Case, changes: list[str]) -> charlm.Config:
    """Return the configuration of a case, with a budget that does not end."""
    return charlm.load_config(case.config, [*case.overrides, *ENDLESS, *changes])


def bernoulli_scale(shape: torch.Size, p: float, *, like: Tensor) -> Tensor:
    """Return random factors of dropout as torch draws them."""
    return functional.dropout(like.new_ones(shape), p)


def seconds_per_step(steps: Iterator[object], scale: Callable[..., Tensor], count: int) -> float:
    """Take N steps with masks of one kind, and return the time of one."""
    with mock.patch.object(dropout, "dropout_scale", scale):
        return mean_seconds(partial(next, steps), count)


def print_row(row: dict[str, Any]) -> None:
    """Print the line of one case."""
    seconds = row["seconds"]
    times = "".join(f"{seconds[kind] * 1e3:>13.2f}" for kind in COLUMNS[:3])
    costs = "".join(f"{seconds[kind] / seconds['none'] - 1:>13.1%}" for kind in COLUMNS[:2])
    print(f"{row['case']:<32}{times}{row['speed_up']:>13.2f}{costs}", flush=True)


if __name__ == "__main__":
    run_main(main)
