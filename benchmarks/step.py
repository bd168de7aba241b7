"""Arithmetic rate of a whole training step, relative to that of a large matrix product.

A step is everything that `charlm.training.loop.train` does in one step on random tokens: reading a
window, embedding, recurrence, projection, loss, backward pass, clipping, optimizer. Its arithmetic
is counted from the shapes alone: 2 x multiply-adds of the matrices of the recurrent layers and the
projection in the forward pass, and twice that in the backward pass. Look-ups, pointwise operations
and the optimizer count as nothing. The product of two square matrices in fp32 and in bf16 and the
steps are timed in turn, round by round, and medians are printed, so that drift of the machine's
speed affects all alike. The columns after tokens/s:

    step           GFLOP/s of the step
    fp32, bf16     GFLOP/s of the matrix product in each precision
    of same        step relative to the product in the precision of the step
    of bf16        step relative to the product in bf16

    python benchmarks/step.py --hidden 512 --batch 16 32 64 --precision fp32 bf16
    python benchmarks/step.py --batch 64 --system-defaults
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from measuring import (
    PRECISIONS,
    VOCABULARY_SIZE,
    add_options,
    add_overrides,
    add_series,
    argument_parser,
    count,
    mean_seconds,
    measure_in_turn,
    medians,
    print_environment,
    print_results,
    run_main,
    seconds_of,
)
from runs import count_multiplications

import charlm
from charlm.data.windows.streams import stream_windows
from charlm.data.windows.window import Position, Shard, Window
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.training.devices import Hardware, choose_device, choose_precision, fast_math
from charlm.training.loop import TrainingState, train
from charlm.training.objective import make_objective
from charlm.training.optimizer import make_optimizer
from charlm.training.process_group import SINGLE_PROCESS, Group

WARM_UP_STEPS = 5  # They build kernels and allocate memory.
STEPS_PER_ROUND = 4
# Settings of a budget that does not end.
ENDLESS = ("training.minutes=null", "training.epochs=null", "training.steps=1000000000")
LAUNCHES = ("eager", "graph")
COLUMNS = [
    "hidden",
    "batch",
    "precision",
    "launch",
    "ms",
    "tokens/s",
    "step",
    "fp32",
    "bf16",
    "of same",
    "of bf16",
]


class Setting(NamedTuple):
    """Sizes, precision and launch of the steps of one row."""

    hidden: int
    batch: int
    precision: str
    launch: str


def main() -> None:
    """Time all settings; print one line each, and all as JSON."""
    options = arguments()
    device = choose_device(options.device)
    if "graph" in options.launch and device.type != "cuda":
        raise CharlmError(f"--launch graph: needs a CUDA GPU, got {device}; use eager")
    print_environment(
        str(device),
        f"window {options.window}",
        f"vocabulary {options.vocabulary}",
        f"product of {options.square} x {options.square}",
    )
    print("".join(f"{column:>10}" for column in COLUMNS))
    sizes = itertools.product(options.hidden, options.batch, options.precision, options.launch)
    rows = []
    with nullcontext() if options.system_defaults else fast_math(device):
        for setting in itertools.starmap(Setting, sizes):
            rows.append(measure(setting, device, options))
            print_row(rows[-1])
    print_results(
        device=str(device),
        system_defaults=options.system_defaults,
        overrides=options.overrides,
        rows=rows,
    )


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, hidden=[512], batch=[16, 32, 64], precision=list(PRECISIONS))
    add_options(parser, window=64, vocabulary=VOCABULARY_SIZE, rounds=11, device="auto")
    add_series(
        parser,
        "--launch",
        ["eager"],
        choices=LAUNCHES,
        help="launch of the kernels: graph is the step as one captured CUDA graph, on a GPU",
    )
    parser.add_argument(
        "--square", type=count, default=2048, help="rows of the matrices of the product [2048]"
    )
    parser.add_argument(
        "--system-defaults",
        action="store_true",
        help="return freed memory to the system and compute denormal numbers; training does "
        "neither",
    )
    add_overrides(parser)
    return parser.parse_args()


def measure(setting: Setting, device: torch.device, options: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of one setting beside the matrix products."""
    launch = f"training.cuda_graph={setting.launch == 'graph'}"
    sizes = setting.hidden, setting.batch, options.window
    config = configure(*sizes, launch, *options.overrides)
    steps, gigaflop = training_steps(config, setting.precision, options.vocabulary, device)
    step = partial(next, steps)
    products = {
        name: partial(seconds_of, matrix_product(options.square, dtype, device), device)
        for name, dtype in PRECISIONS.items()
    }
    mean_seconds(step, WARM_UP_STEPS, device)
    measure_in_turn(products, 1)
    timed = {"step": partial(mean_seconds, step, STEPS_PER_ROUND, device), **products}
    seconds = medians(measure_in_turn(timed, options.rounds))
    product_rates = {name: 2 * options.square**3 / 1e9 / seconds[name] for name in products}
    rate = gigaflop / seconds["step"]
    return {
        **setting._asdict(),
        "seconds": seconds["step"],
        "gigaflop": gigaflop,
        "tokens_per_second": options.window * setting.batch / seconds["step"],
        "gigaflop_per_second": rate,
        "product_gigaflop_per_second": product_rates,
        "ratio_to_same_precision": rate / product_rates[setting.precision],
        "ratio_to_bf16": rate / product_rates["bf16"],
    }


def configure(hidden: int, batch: int, window: int, *overrides: str) -> charlm.Config:
    """Return the configuration of endless steps."""
    sizes = [
        f"model.hidden_size={hidden}",
        f"training.batch_size={batch}",
        f"training.window={window}",
    ]
    return charlm.load_config(None, [*sizes, *ENDLESS, *overrides])


def training_steps(
    config: charlm.Config,
    precision: str,
    vocabulary_size: int,
    device: torch.device,
    group: Group = SINGLE_PROCESS,
) -> tuple[Iterator[object], float]:
    """Return endless training steps on random ids, as `charlm train` takes them, and their GFLOP.

    Args:
        config: Configuration of the steps.
        precision: `auto`, `fp32` or `bf16`.
        vocabulary_size: Number of different ids.
        device: Device of the computation.
        group: Processes that train together.

    Returns:
        The steps, and the GFLOP of one step of all processes.
    """
    section, dtype = config.training, choose_precision(precision, device)
    torch.manual_seed(section.seed)
    model = LanguageModel(config.model, vocabulary_size).to(device)
    objective = make_objective(model, section, Hardware(device, dtype))
    steps = train(
        group.wrap(objective, compression=section.gradient_compression),
        random_windows(section.batch_size, section.window, vocabulary_size, group.shard),
        make_optimizer(model, section, precision=dtype),
        section,
        state=TrainingState(),
        group=group,
        clock=time.perf_counter,
    )
    # Per multiplication: two operations forward, four backward.
    operations = 6 * section.batch_size * section.window * multiplications(model)
    return steps, operations / 1e9


def random_windows(
    batch_size: int, window: int, vocabulary_size: int, shard: Shard
) -> Iterator[Window]:
    """Yield the columns of a shard of endless windows of a random text of 64 windows."""
    random = np.random.default_rng(1)
    ids = random.integers(vocabulary_size, size=batch_size * window * 64)
    return stream_windows(ids, batch_size=batch_size, window=window, start=Position(), shard=shard)


def multiplications(model: LanguageModel) -> int:
    """Return the multiplications per token by matrices of recurrence, adapter and projection."""
    return count_multiplications(*model.encoder.recurrences, model.output_adapter, model.projection)


def matrix_product(
    square: int, dtype: torch.dtype, device: torch.device
) -> Callable[[], torch.Tensor]:
    """Return a function that multiplies two square matrices."""
    a, b = (torch.randn(square, square, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def print_row(row: dict[str, Any]) -> None:
    """Print the line of one setting."""
    product_rates = row["product_gigaflop_per_second"]
    print(
        f"{row['hidden']:>10}{row['batch']:>10}{row['precision']:>10}{row['launch']:>10}"
        f"{row['seconds'] * 1e3:>10.2f}{row['tokens_per_second']:>10,.0f}"
        f"{row['gigaflop_per_second']:>10.0f}{product_rates['fp32']:>10.0f}"
        f"{product_rates['bf16']:>10.0f}{row['ratio_to_same_precision']:>10.1%}"
        f"{row['ratio_to_bf16']:>10.1%}",
        flush=True,
    )


if __name__ == "__main__":
    run_main(main)
