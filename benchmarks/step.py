"""What share of the rate of a large matrix product a whole training step reaches, everything included.

A step is all that `charlm.training.loop.train` does for one: reading a window, embedding, recurrence, projection, loss,
backward, clipping, optimizer. Its arithmetic is counted from the shapes alone: 2 x multiply-adds of the recurrent
layers' and the projection's matrices on the way forward, twice that on the way back; what is looked up, pointwise or in
the optimizer counts nothing. The product of two square matrices in fp32 and in bf16 and the steps are timed in turn,
round by round, and medians are given: a machine whose speed drifts slows all alike.

    python benchmarks/step.py --hidden 512 --batches 16 32 64 --precisions fp32 bf16
    python benchmarks/step.py --batches 64 --system-defaults
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

import charlm
from charlm.data.windows import Position, stream_windows
from charlm.model.language_model import LanguageModel
from charlm.training.devices import choose_device, choose_precision, fast_math
from charlm.training.loop import TrainingState, train
from charlm.training.optimizer import make_optimizer

WARM_UP = 5  # Steps before any is timed: kernels are built, memory is found.
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAUNCHES = ("eager", "graph")


def main() -> None:
    """Time all; print a line each, and all as JSON."""
    given = arguments()
    device = choose_device(given.device)
    if "graph" in given.launches and device.type != "cuda":
        sys.exit(f"step.py: --launches graph: needs a CUDA GPU, and this is {device}; take eager")
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, window {given.window}, vocabulary "
        f"{given.vocabulary}, product of {given.square} x {given.square}; GFLOP/s"
    )
    columns = [
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
    print("".join(f"{column:>10}" for column in columns))
    rows = []
    with nullcontext() if given.system_defaults else fast_math():
        for sizes in itertools.product(
            given.hidden, given.batches, given.precisions, given.launches
        ):
            rows.append(measure(*sizes, device, given))
            show(rows[-1])
    print(
        json.dumps(
            {
                "device": str(device),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "system_defaults": given.system_defaults,
                "overrides": given.overrides,
                "rows": rows,
            }
        )
    )


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, nargs="+", default=[512])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--precisions", nargs="+", choices=list(TYPES), default=list(TYPES))
    parser.add_argument(
        "--launches",
        nargs="+",
        choices=LAUNCHES,
        default=["eager"],
        metavar="LAUNCH",
        help="eager, or graph: a GPU's step as one captured CUDA graph [eager]",
    )
    parser.add_argument("--vocabulary", type=int, default=67, help="ids [67, tiny Shakespeare's]")
    parser.add_argument(
        "--square", type=int, default=2048, help="rows of the matrices that are multiplied [2048]"
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=4, help="steps a round [4]")
    parser.add_argument(
        "--system-defaults",
        action="store_true",
        help="let the C library give freed memory back, and "
        "the processor compute denormal numbers, as a training does not",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE"
    )
    return parser.parse_args()


def measure(
    hidden: int,
    batch: int,
    precision: str,
    launch: str,
    device: torch.device,
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Time one size of step beside the products."""
    overrides = [
        f"model.hidden_size={hidden}",
        f"training.batch_size={batch}",
        f"training.window={given.window}",
        "training.steps=1000000000",
        f"training.cuda_graph={launch == 'graph'}",
        *given.overrides,
    ]
    config = charlm.load_config(None, overrides)
    steps, gigaflop = training_steps(config, precision, given.vocabulary, device)

    def take_steps() -> None:
        for _ in range(given.steps):
            next(steps)

    products = {name: product(given.square, dtype, device) for name, dtype in TYPES.items()}
    for _ in range(WARM_UP):
        next(steps)
    for multiply in products.values():
        multiply()
    times: dict[str, list[float]] = {"step": [], **{name: [] for name in products}}
    for _ in range(given.rounds):
        times["step"].append(seconds_of(take_steps, device) / given.steps)
        for name, multiply in products.items():
            times[name].append(seconds_of(multiply, device))
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    rates = {name: 2 * given.square**3 / 1e9 / seconds[name] for name in products}
    rate = gigaflop / seconds["step"]
    return {
        "hidden": hidden,
        "batch": batch,
        "precision": precision,
        "launch": launch,
        "seconds": seconds["step"],
        "gigaflop": gigaflop,
        "tokens_per_second": given.window * batch / seconds["step"],
        "gigaflop_per_second": rate,
        "product_gigaflop_per_second": rates,
        "share_of_same_precision": rate / rates[precision],
        "share_of_bf16": rate / rates["bf16"],
    }


def training_steps(
    config: charlm.Config, precision: str, vocabulary: int, device: torch.device
) -> tuple[Iterator[object], float]:
    """Return training steps without end, on random ids, and the GFLOP of one."""
    section, computed_in = config.training, choose_precision(precision, device)
    torch.manual_seed(section.seed)
    model = LanguageModel(config.model, vocabulary).to(device)
    ids = np.random.default_rng(1).integers(
        vocabulary, size=section.batch_size * section.window * 64
    )
    steps = train(
        model,
        stream_windows(ids, batch_size=section.batch_size, window=section.window, start=Position()),
        make_optimizer(model, section, precision=computed_in),
        section,
        state=TrainingState(),
        device=device,
        precision=computed_in,
        clock=time.perf_counter,
    )
    return steps, 6 * section.batch_size * section.window * multiplications(model) / 1e9


def multiplications(model: LanguageModel) -> int:
    """Return the multiplications per token by matrices of recurrence, adapter and projection."""
    parts = [*model.encoder.recurrences, model.output_adapter, model.projection]
    return sum(weight.numel() for part in parts for weight in part.parameters() if weight.ndim == 2)


def product(square: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """Return a function that multiplies two square matrices."""
    a, b = (torch.randn(square, square, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Time some work, to its end on the device."""
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def show(row: dict[str, Any]) -> None:
    """Print a line."""
    rates = row["product_gigaflop_per_second"]
    sizes = f"{row['hidden']:>10} {row['batch']:>9} {row['precision']:>9} {row['launch']:>9}"
    speed = f"{row['seconds'] * 1e3:>9.2f} {row['tokens_per_second']:>9,.0f} {row['gigaflop_per_second']:>9.0f}"
    shares = f"{row['share_of_same_precision']:>9.1%} {row['share_of_bf16']:>9.1%}"
    print(f"{sizes} {speed} {rates['fp32']:>9.0f} {rates['bf16']:>9.0f} {shares}", flush=True)


if __name__ == "__main__":
    main()
