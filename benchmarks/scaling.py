"""Speed of data-parallel training with two processes, and a prediction for more.

Measured on CPUs, with one core and one thread per process: training steps with the same global
batch in one process, in a process group of one (the overhead of the group), and in a group of two.
All processes are started once and take turns; medians are printed. The efficiency is the tokens
per second of two processes over twice those of one. On a GPU, or with one core, only the first two
are measured.

Then the parts of a step are timed: computation by columns of the batch, from an eighth of it on,
and an all-reduce between two processes by bytes. Lines are fitted to both, by least squares of the
relative errors, and step = computation + communication is compared with the measured steps of two
processes. The last table is a prediction, not a measurement: the efficiency on other machines,
whose links and rates are assumed, with the same number of tokens for every worker.

The text is random, the vocabulary that of tiny Shakespeare. Printed are milliseconds per step,
tokens per second, and the efficiency, which is at most 1.

    python benchmarks/scaling.py --batch 128
    python benchmarks/scaling.py --parameters 1e9 --tokens 65536 --teraflops 200 --gradient-bytes 2
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from measuring import (
    VOCABULARY_SIZE,
    add_options,
    amount,
    argument_parser,
    mean_seconds,
    print_environment,
    print_results,
    run_main,
)
from runs import count_configured
from step import STEPS_PER_ROUND, configure, training_steps

from charlm.errors import CharlmError
from charlm.training.devices import choose_device, fast_math
from charlm.training.process_group import Group, join

TIMEOUT_SECONDS = 600.0
MESSAGE_BYTES = [1 << power for power in range(12, 26, 2)]
WORKERS = [2**power for power in range(1, 10)]


@dataclass(frozen=True)
class Link:
    """Connection between two neighbours in a ring of workers.

    Attributes:
        bytes_per_second: Bandwidth in one direction.
        hop_seconds: Latency of a message.
    """

    bytes_per_second: float
    hop_seconds: float


# From data sheets and rules of thumb: 10 and 100 Gbit/s, and 450 GB/s in one direction, as between
# eight H100.
LINKS = {
    "Ethernet, 10 Gbit/s": Link(1.25e9, 50e-6),
    "Ethernet, 100 Gbit/s": Link(12.5e9, 20e-6),
    "NVLink, 450 GB/s": Link(450e9, 3e-6),
}


class Line(NamedTuple):
    """Seconds as a linear function of an amount of work."""

    constant: float
    slope: float


class Task(NamedTuple):
    """One thing to time.

    Attributes:
        group: Size of the process group; 0 for one process without a process group.
        kind: `step` (a training step) or `reduce` (an all-reduce).
        amount: Columns of the global batch, or bytes.
    """

    group: int
    kind: str
    amount: int


def main() -> None:
    """Time all tasks; print tables, and all as JSON."""
    options = arguments()
    if options.worker_group is not None:
        run_worker(options)
        return
    device = str(choose_device(options.device))
    print_environment(device, f"hidden size {options.hidden}, batch {options.batch}")
    settings = {name: value for name, value in vars(options).items() if value is not None}
    results = measure(options) | {"prediction": predict(options)}
    print_results(settings=settings, device=device, **results)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, hidden=512, batch=128, window=64, rounds=11)
    add_options(parser, precision="auto", device="auto")
    parser.add_argument(
        "--cores",
        type=int,
        nargs=2,
        help="one core per process; they must not be two threads of the same core",
    )
    add_prediction(parser)
    # Arguments with which this program starts itself as a worker: size of the group, and core.
    parser.add_argument("--worker-group", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--worker-core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if missing := set(options.cores or ()) - os.sched_getaffinity(0):
        parser.error(f"--cores: there is no core {min(missing)} for this program")
    if options.batch < 8:
        parser.error(f"--batch: must be at least 8, got {options.batch}")
    return options


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """Add the options of the predicted model and of its workers."""
    prediction = parser.add_argument_group("prediction")
    prediction.add_argument(
        "--parameters", type=amount, default=50e6, help="parameters of the model [5e7]"
    )
    prediction.add_argument(
        "--tokens", type=amount, default=16384, help="tokens per worker and step [16384]"
    )
    prediction.add_argument(
        "--teraflops", type=amount, default=50, help="rate of a worker in training, TFLOP/s [50]"
    )
    prediction.add_argument(
        "--gradient-bytes",
        type=int,
        choices=[2, 4],
        default=4,
        help="bytes per number; 2 with training.gradient_compression=bf16 [4]",
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time all tasks in turn; print and return the results."""
    cores = options.cores or sorted(os.sched_getaffinity(0))
    has_two = choose_device(options.device).type == "cpu" and len(cores) > 1
    columns = [options.batch * eighths // 8 for eighths in (1, 2, 4, 6, 8)]
    times = time_tasks(make_tasks(columns, has_two=has_two), options, cores)
    seconds = {task: statistics.median(series) for task, series in times.items()}
    alone = seconds[Task(0, "step", options.batch)]
    grouped = seconds[Task(1, "step", options.batch)]
    computation = fit_line(columns, [seconds[Task(0, "step", count)] for count in columns])
    overhead = grouped / alone - 1
    print(
        f"one process: {alone * 1e3:.2f} ms per step; in a group of one {grouped * 1e3:.2f} ms, "
        f"{overhead:+.1%}"
    )
    print(
        f"computation: {computation.constant * 1e3:.3f} ms + "
        f"{computation.slope * 1e3:.4f} ms per column"
    )
    results = {
        "computation": computation,
        "overhead_of_group": overhead,
        "seconds": [[*task, seconds[task], series] for task, series in times.items()],
    }
    return results | (compare_two(options, seconds, computation) if has_two else {})


def make_tasks(columns: Sequence[int], *, has_two: bool) -> list[Task]:
    """Return all tasks; the last number of columns is the global batch."""
    tasks = [Task(group, "step", columns[-1]) for group in ((0, 1, 2) if has_two else (0, 1))]
    tasks += [Task(0, "step", count) for count in columns[:-1]]
    if has_two:
        tasks += [Task(2, "reduce", size) for size in MESSAGE_BYTES]
    return tasks


def time_tasks(
    tasks: Sequence[Task], options: argparse.Namespace, cores: Sequence[int]
) -> dict[Task, tuple[float, ...]]:
    """Start all workers, let them do every task once per round; return the seconds by round."""
    with ExitStack() as stack:
        groups = {
            size: start_workers(size, cores, stack)
            for size in sorted({task.group for task in tasks})
        }
        rounds = [
            [do_task(groups[task.group], task) for task in tasks] for _ in range(options.rounds + 1)
        ]
    # The first round is a warm-up.
    return dict(zip(tasks, zip(*rounds[1:], strict=True), strict=True))


def start_workers(
    group: int, cores: Sequence[int], stack: ExitStack
) -> list[subprocess.Popen[str]]:
    """Start the processes of a group; the exit of the stack kills them.

    Args:
        group: Size of the process group; 0 starts one process without a process group.
        cores: A core for each process.
        stack: Receives the callbacks that kill the processes.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(max(group, 1)):
        variables = {"OMP_NUM_THREADS": "1"}
        if group > 1:
            variables |= {
                "RANK": str(rank),
                "WORLD_SIZE": str(group),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": str(port),
            }
        worker = ["--worker-group", str(group), "--worker-core", str(cores[rank])]
        process = subprocess.Popen(
            [sys.executable, __file__, *sys.argv[1:], *worker],
            env=os.environ | variables,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        stack.callback(stop_worker, process)
    return processes


def stop_worker(process: subprocess.Popen[str]) -> None:
    """Kill a worker and close its pipes."""
    process.kill()
    process.communicate()


def do_task(processes: Sequence[subprocess.Popen[str]], task: Task) -> float:
    """Let the processes of a group do a task; return the seconds of the slowest.

    Raises:
        CharlmError: A process has ended; its errors are on standard error.
    """
    try:
        for process in processes:
            print(task.kind, task.amount, file=process.stdin, flush=True)
        return max(float(process.stdout.readline()) for process in processes)
    except (BrokenPipeError, ValueError):
        raise CharlmError(f"a process of the group of {task.group} has ended") from None


def run_worker(options: argparse.Namespace) -> None:
    """Do the tasks that standard input names, line by line; print the seconds of each."""
    device = choose_device(options.device)
    if device.type == "cpu":
        os.sched_setaffinity(0, {options.worker_core})
        torch.set_num_threads(1)
    group = connect(options.worker_group, device)
    tasks: dict[str, Callable[[int], Callable[[], object]]] = {
        "step": cache(lambda batch: partial(next, worker_steps(options, batch, group, device))),
        "reduce": cache(lambda size: partial(group.all_reduce_tensor, torch.zeros(size // 4))),
    }
    with fast_math(device):
        for line in sys.stdin:
            kind, amount = line.split()
            work = tasks[kind](int(amount))
            work()
            group.barrier()
            print(mean_seconds(work, STEPS_PER_ROUND, device), flush=True)


def connect(size: int, device: torch.device) -> Group:
    """Return this worker's process group; of size 0 without, of size 1 with torch.distributed."""
    group = join() if size > 1 else Group()
    group.connect(device, timeout_seconds=TIMEOUT_SECONDS)
    if size == 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        group._connected = True  # `connect` does nothing in a single process.
    return group


def worker_steps(
    options: argparse.Namespace, batch: int, group: Group, device: torch.device
) -> Iterator[object]:
    """Return endless training steps of this worker on its columns of a global batch."""
    config = configure(options.hidden, batch, options.window)
    return training_steps(config, options.precision, VOCABULARY_SIZE, device, group)[0]


def compare_two(
    options: argparse.Namespace, seconds: dict[Task, float], computation: Line
) -> dict[str, Any]:
    """Print and return the efficiency of two processes, measured and by the fitted lines."""
    reduce = fit_line(MESSAGE_BYTES, [seconds[Task(2, "reduce", size)] for size in MESSAGE_BYTES])
    # In a ring of two, all bytes are sent once, in two hops.
    link = Link(bytes_per_second=1 / reduce.slope, hop_seconds=reduce.constant / 2)
    config = configure(options.hidden, options.batch, options.window)
    size = 4 * count_configured(config, VOCABULARY_SIZE)
    columns = options.batch / 2
    expected = computation.constant + computation.slope * columns
    expected += all_reduce_seconds(size, 2, link)
    alone, two = (seconds[Task(group, "step", options.batch)] for group in (0, 2))
    tokens = options.batch * options.window
    print(
        f"all-reduce of two: {reduce.constant * 1e3:.3f} ms + {reduce.slope * 1e9:.3f} ms per MB; "
        f"the gradient of a step has {size / 1e6:.1f} MB"
    )
    print(
        f"two processes: {two * 1e3:.2f} ms per step, by the lines {expected * 1e3:.2f} ms; "
        f"{tokens / two:,.0f} tokens/s, twice one process {2 * tokens / alone:,.0f}; "
        f"efficiency {alone / two / 2:.3f}"
    )
    return {
        "all_reduce": reduce,
        "link": asdict(link),
        "gradient_bytes_per_step": size,
        "expected_seconds": expected,
        "efficiency": alone / two / 2,
    }


def fit_line(amounts: Sequence[float], seconds: Sequence[float]) -> Line:
    """Return the line with the least squares of relative errors."""
    measured = np.asarray(seconds)
    rows = np.stack([np.ones_like(measured), np.asarray(amounts)], axis=1) / measured[:, None]
    return Line(*np.linalg.lstsq(rows, np.ones_like(measured), rcond=None)[0].tolist())


def all_reduce_seconds(size: float, workers: int, link: Link) -> float:
    """Return the seconds in which a ring of n workers sums N bytes.

    There are 2(n - 1) hops, and each sends the n-th part of the bytes.
    """
    hops = 2 * (workers - 1)
    return hops * (size / workers / link.bytes_per_second + link.hop_seconds)


def efficiency(compute_seconds: float, size: float, workers: int, link: Link) -> float:
    """Return the fraction of a step that is computation, without overlap of communication."""
    return compute_seconds / (compute_seconds + all_reduce_seconds(size, workers, link))


def predict(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return the efficiency of more workers: a prediction, not a measurement."""
    size = options.parameters * options.gradient_bytes
    # Per parameter and token: one multiply-add forward, two backward.
    seconds = 6 * options.parameters * options.tokens / (options.teraflops * 1e12)
    print(
        f"\nPREDICTION of efficiency, not a measurement: {options.parameters / 1e6:,.0f} million "
        f"parameters, {size / 1e6:,.0f} MB of gradient;\n{options.tokens:,.0f} tokens per worker "
        f"and step at {options.teraflops:g} TFLOP/s, {seconds * 1e3:.1f} ms, without overlap of "
        "communication"
    )
    print(f"{'workers':<22}" + "".join(f"{workers:>7}" for workers in WORKERS))
    rows = []
    for name, link in LINKS.items():
        values = {workers: efficiency(seconds, size, workers, link) for workers in WORKERS}
        print(f"{name:<22}" + "".join(f"{value:>7.2f}" for value in values.values()))
        rows.append({"link": name, **asdict(link), "efficiency": values})
    return rows


if __name__ == "__main__":
    run_main(main)
