"""What several processes that train together gain, and what a model of a step's time says of more of them.

On CPUs each process has one core and one thread. The same whole batch is trained on by one process, by one that is
a group of its own (what the machinery costs), and by two; all are started once and take turns, and medians are given.
Efficiency is the tokens per second of two over twice those of one. On a GPU there is the first pair alone.

Then the parts of a step are timed: computing, by columns of the batch, and an all-reduce between two processes, by
bytes. Lines are fitted to both, by least squares of the relative errors, and step = computing + communication is
compared with the steps of two processes. The last table is a prediction, not a measurement: a step's time on
other machines, of whose links and rate of computing nothing was measured here, where every worker has the same share.

    python benchmarks/scaling.py --batch 128
    python benchmarks/scaling.py --parameters 1e9 --tokens 65536 --teraflops 200 --gradient-bytes 2
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import charlm
from charlm.data.windows import Position, stream_windows
from charlm.model.language_model import LanguageModel
from charlm.training.devices import choose_device, choose_precision, fast_math
from charlm.training.loop import TrainingState, train
from charlm.training.objective import Objective
from charlm.training.optimizer import make_optimizer
from charlm.training.process_group import Group, join

TIMEOUT_SECONDS, VOCABULARY = 600.0, 67
REDUCED = [1 << size for size in range(12, 26, 2)]  # Bytes.
WORKERS = [2**power for power in range(1, 10)]


@dataclass(frozen=True)
class Link:
    """What joins two workers that are neighbours in a ring.

    Attributes:
        bytes_per_second: One way.
        hop_seconds: What a message takes besides.
    """

    bytes_per_second: float
    hop_seconds: float


# Of data sheets and rules of thumb: 10 and 100 Gbit/s, and 450 GB/s one way, as between eight H100.
LINKS = {
    "Ethernet, 10 Gbit/s": Link(1.25e9, 50e-6),
    "Ethernet, 100 Gbit/s": Link(12.5e9, 20e-6),
    "NVLink, 450 GB/s": Link(450e9, 3e-6),
}


def all_reduce_seconds(size: float, workers: int, link: Link) -> float:
    """Return how long a ring of workers takes to sum so many bytes: 2(n - 1) hops, an n-th of the bytes each."""
    hops = 2 * (workers - 1)
    return hops * (size / workers / link.bytes_per_second + link.hop_seconds)


def efficiency(compute_seconds: float, size: float, workers: int, link: Link) -> float:
    """Return the share of a step that is computing, where it does not overlap with communication."""
    return compute_seconds / (compute_seconds + all_reduce_seconds(size, workers, link))


def fit(amounts: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return the constant, and the seconds of one more, of the line with the least squares of relative errors."""
    taken = np.asarray(seconds)
    rows = np.stack([np.ones_like(taken), np.asarray(amounts)], axis=1) / taken[:, None]
    constant, slope = np.linalg.lstsq(rows, np.ones_like(taken), rcond=None)[0].tolist()
    return constant, slope


def main() -> None:
    """Time all, print tables, and all as JSON."""
    given = arguments()
    if given.work is not None:
        work(given)
        return
    asked_for = {name: value for name, value in vars(given).items() if value is not None}
    found = asked_for | {
        "torch": torch.__version__,
        "device": str(choose_device(given.device)),
        **measure(given),
    }
    found["prediction"] = predict(given)
    print(json.dumps(found))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128, help="columns of the whole batch [128]")
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=4, help="steps a round [4]")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--cores", type=int, nargs=2, help="one for each process: not two threads of one core"
    )
    parser.add_argument(
        "--parameters", type=float, default=50e6, help="of the model that is predicted for [5e7]"
    )
    parser.add_argument(
        "--tokens", type=float, default=16384, help="of a worker's share of a batch [16384]"
    )
    parser.add_argument(
        "--teraflops", type=float, default=50, help="that a worker reaches in training [50]"
    )
    parser.add_argument(
        "--gradient-bytes",
        type=int,
        choices=[2, 4],
        default=4,
        help="2: with training.gradient_compression=bf16 [4]",
    )
    for name in (
        "--work",
        "--core",
    ):  # With which this program starts itself: for a group of so many; where.
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def work(given: argparse.Namespace) -> None:
    """Be one process: read what to do, line by line, and tell the seconds that it took."""
    device = choose_device(given.device)
    if device.type == "cpu":
        os.sched_setaffinity(0, {given.core})
        torch.set_num_threads(1)
    group = join() if given.work > 1 else Group()
    group.connect(device, timeout_seconds=TIMEOUT_SECONDS)
    if given.work == 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        group._connected = True  # `connect` does nothing for a process that has no other.
    tasks: dict[str, Callable[[int], Callable[[], object]]] = {
        "step": cache(lambda batch: partial(next, training_steps(given, batch, group, device))),
        "reduce": cache(lambda size: partial(group.all_reduce_tensor, torch.zeros(size // 4))),
    }
    with fast_math():
        for line in sys.stdin:
            task, amount = line.split()
            do = tasks[task](int(amount))
            do()
            group.barrier()
            print(seconds_of(do, given.steps, device), flush=True)


def configured(given: argparse.Namespace, batch: int) -> tuple[charlm.Config, LanguageModel]:
    """Return what is trained, and how."""
    overrides = [
        f"model.hidden_size={given.hidden}",
        f"training.batch_size={batch}",
        "training.steps=1000000000",
        f"training.window={given.window}",
    ]
    config = charlm.load_config(None, overrides)
    torch.manual_seed(1)
    return config, LanguageModel(config.model, VOCABULARY)


def training_steps(
    given: argparse.Namespace, batch: int, group: Group, device: torch.device
) -> Iterator[object]:
    """Return training steps without end, on random ids, as `charlm train` takes them."""
    config, model = configured(given, batch)
    section, precision = config.training, choose_precision(given.precision, device)
    plain = Objective(model.to(device), section, device=device, precision=precision)
    ids = np.random.default_rng(1).integers(VOCABULARY, size=batch * given.window * 64)
    return train(
        model,
        stream_windows(
            ids, batch_size=batch, window=given.window, start=Position(), shard=group.shard
        ),
        make_optimizer(model, section, precision=precision),
        section,
        state=TrainingState(),
        group=group,
        objective=group.wrap(plain, section, all_used=plain.uses_every_parameter),
        device=device,
        precision=precision,
        clock=time.perf_counter,
    )


def seconds_of(do: Callable[[], object], count: int, device: torch.device) -> float:
    """Do something so often, to its end on the device; return the seconds of once."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(count):
        do()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / count


def started(number: int, cores: Sequence[int], stack: ExitStack) -> list[subprocess.Popen[str]]:
    """Start a group of so many processes, or, for 0, one that is no group; what is on the stack ends them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = {
            "WORLD_SIZE": number,
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": free.getsockname()[1],
        }
    processes = []
    for rank in range(max(number, 1)):
        own = {"OMP_NUM_THREADS": 1, **({"RANK": rank, **place} if number > 1 else {})}
        command = [
            sys.executable,
            __file__,
            *sys.argv[1:],
            "--work",
            str(number),
            "--core",
            str(cores[rank]),
        ]
        environment = os.environ | {name: str(value) for name, value in own.items()}
        processes.append(
            subprocess.Popen(
                command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        stack.callback(lambda process: (process.kill(), process.communicate()), processes[-1])
    return processes


def asked(processes: Sequence[subprocess.Popen[str]], task: str, amount: int) -> float:
    """Let processes do something together; return the seconds of the slowest."""
    for process in processes:
        print(task, amount, file=process.stdin, flush=True)
    return max(float(process.stdout.readline()) for process in processes)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Time all that can be timed here, in turn; print it."""
    cores = given.cores or sorted(os.sched_getaffinity(0))
    numbers = (0, 1, 2) if choose_device(given.device).type == "cpu" and len(cores) > 1 else (0, 1)
    columns = [given.batch * share // 8 for share in (1, 2, 4, 6, 8)]
    tasks = [(number, "step", given.batch) for number in numbers] + [
        (0, "step", count) for count in columns[:-1]
    ]
    tasks += [(2, "reduce", size) for size in REDUCED] if 2 in numbers else []
    with ExitStack() as stack:
        groups = {number: started(number, cores, stack) for number in numbers}
        rounds = [
            [asked(groups[number], *task) for number, *task in tasks]
            for _ in range(given.rounds + 1)
        ]
    taken = dict(zip(tasks, zip(*rounds[1:], strict=True), strict=True))  # The first is a warm-up.
    seconds = {task: statistics.median(each) for task, each in taken.items()}
    alone, grouped = seconds[0, "step", given.batch], seconds[1, "step", given.batch]
    computing = fit(columns, [seconds[0, "step", count] for count in columns])
    overhead = grouped / alone - 1
    print(
        f"one process: {alone * 1e3:.2f} ms a step; as a group of one {grouped * 1e3:.2f} ms, {overhead:+.1%}"
    )
    print(f"computing = {computing[0] * 1e3:.3f} ms + {computing[1] * 1e3:.4f} ms a column")
    found = {
        "compute": computing,
        "overhead_of_group": overhead,
        "seconds": [[*task, seconds[task], each] for task, each in taken.items()],
    }
    return found | (of_two(given, seconds, computing) if 2 in numbers else {})


def of_two(
    given: argparse.Namespace,
    seconds: dict[tuple[int, str, int], float],
    computing: tuple[float, float],
) -> dict[str, Any]:
    """Tell how efficient two processes are, and what the model says of them."""
    constant, of_byte = fit(REDUCED, [seconds[2, "reduce", size] for size in REDUCED])
    link = Link(1 / of_byte, constant / 2)  # Between two: all bytes once, in two hops.
    size = sum(4 * parameter.numel() for parameter in configured(given, 1)[1].parameters())
    expected = computing[0] + computing[1] * given.batch / 2 + all_reduce_seconds(size, 2, link)
    alone, two, tokens = (
        seconds[0, "step", given.batch],
        seconds[2, "step", given.batch],
        given.batch * given.window,
    )
    print(
        f"all-reduce of two = {constant * 1e3:.3f} ms + {of_byte * 1e9:.3f} ms a MB; of a step {size / 1e6:.1f} MB"
    )
    print(
        f"two processes: {two * 1e3:.2f} ms a step, modelled {expected * 1e3:.2f} ms; {tokens / two:,.0f} tokens/s, "
        f"twice one's {2 * tokens / alone:,.0f}; efficiency {alone / two / 2:.3f}"
    )
    return {
        "all_reduce": (constant, of_byte),
        "link": asdict(link),
        "reduced_bytes": size,
        "expected_seconds": expected,
        "efficiency": alone / two / 2,
    }


def predict(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Print, and return, the efficiency of more workers by the model: a prediction."""
    size = given.parameters * given.gradient_bytes
    seconds = (
        6 * given.parameters * given.tokens / (given.teraflops * 1e12)
    )  # Two multiply-adds back, one forward.
    print(
        f"\nPREDICTION of efficiency, nothing of it measured: {given.parameters / 1e6:,.0f} million parameters, "
        f"{size / 1e6:,.0f} MB of gradient; {given.tokens:,.0f} tokens a worker and step at {given.teraflops:g} "
        f"TFLOP/s, {seconds * 1e3:.1f} ms, and no communication meanwhile"
    )
    print(f"{'workers':<22}" + "".join(f"{workers:>7}" for workers in WORKERS))
    rows = []
    for name, link in LINKS.items():
        shares = [efficiency(seconds, size, workers, link) for workers in WORKERS]
        print(f"{name:<22}" + "".join(f"{share:>7.2f}" for share in shares))
        rows.append(
            {"link": name, **asdict(link), "efficiency": dict(zip(WORKERS, shares, strict=True))}
        )
    return rows


if __name__ == "__main__":
    main()
