"""Data-parallel training. With one process every call is a no-op.

Processes are started by torchrun or by `charlm train --processes`, and communicate through
torch.distributed. Each one computes the gradient of its columns of every batch.
"""

import os
import re
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket, PrefixStore, Store, rendezvous  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from charlm.data.tokens import available_cores
from charlm.data.windows.window import Shard
from charlm.errors import GroupError
from charlm.training.objective import Objective
from charlm.training.rows import allow_sparse_gradients

# While one process prepares the text, the others wait: a large text takes hours.
_RENDEZVOUS_TIMEOUT = timedelta(days=1)
_POLL_SECONDS = 0.05
_MAX_RESTARTS = 10
# The argument that stops DDP from sending buffers before each step has a new name in torch 2.13,
# which still accepts the old one, with a warning.
_BUFFER_ARGUMENTS = ("forward_sync_buffers", "broadcast_buffers")
_DDP_ARGUMENTS = signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {
    next(name for name in _BUFFER_ARGUMENTS if name in _DDP_ARGUMENTS): False
}
# Words in the errors of gloo and NCCL about a process that has ended or does not answer.
_COLLECTIVE_ERROR = re.compile(
    r"gloo|nccl|collective|timed? ?out|connection|barrier", re.IGNORECASE
)

# An objective, or what `Group.wrap` returned for it.
AnyObjective = Objective | DistributedDataParallel


class Group:
    """This process among the processes that train together.

    Attributes:
        rank: Rank of this process, from 0.
        size: Number of processes.
        local_rank: Rank of this process on its own machine.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Store | None = None
    ) -> None:
        """Create a group; `connect` lets its processes communicate.

        Args:
            rank: Rank of this process, from 0.
            size: Number of processes.
            local_rank: Rank of this process on its own machine.
            store: Key-value store that the processes share; None for a single process.
        """
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self._store = store
        self._connected = False

    @property
    def is_first(self) -> bool:
        """Whether this process prints, saves and measures the time."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """The columns of this process in every batch."""
        return Shard(self.rank, self.size)

    def publish(self, name: str, value: str) -> None:
        """Store a value for the other processes; works before `connect`."""
        if self._store is not None:
            self._store.set(name, value)

    def wait_for(self, name: str) -> str:
        """Wait for a value that another process publishes, and return it."""
        if self._store is None:
            raise GroupError(f"{name}: no other process can publish it; start with torchrun")
        return _wait_for_key(self._store, name)

    def connect(self, device: torch.device, *, timeout_seconds: float) -> None:
        """Wait for every process, and let them communicate.

        Args:
            device: Device of this process.
            timeout_seconds: Seconds after which a process that does not answer is an error.
        """
        if self._store is None or self.size == 1:
            return
        if device.type == "cuda":  # Else every process would also take memory of the first GPU.
            torch.cuda.set_device(device.index or 0)
        self.publish(f"here/{self.rank}", "yes")
        for rank in range(self.size):
            _wait_for_key(self._store, f"here/{rank}")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=timeout_seconds),
        )
        self._connected = True

    def leave(self) -> None:
        """Wait for every process, and end the communication."""
        if self._connected:
            self.barrier()
            self._connected = False
            dist.destroy_process_group()

    def wrap(self, objective: Objective, *, compression: str) -> AnyObjective:
        """Return an objective whose gradients are averaged over all processes.

        Args:
            objective: An objective that is the same in every process.
            compression: `none` exchanges gradients in fp32, `bf16` in bf16.
        """
        if not self._connected:
            return objective
        allow_sparse_gradients(objective.model, allowed=False)  # DDP exchanges dense ones.
        wrapped = DistributedDataParallel(
            cast(nn.Module, objective),
            find_unused_parameters=not objective.uses_every_parameter,
            gradient_as_bucket_view=True,
            **_NO_BUFFERS,
        )
        if compression == "bf16":
            wrapped.register_comm_hook(None, _compress_to_bf16)
        return wrapped

    def all_reduce_tensor(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, on the device and without waiting for it."""
        if self._connected:
            dist.all_reduce(values)
        return values

    def all_reduce(self, *numbers: float) -> list[float]:
        """Return the sum of each number over all processes."""
        if not self._connected:
            return list(numbers)
        return self.all_reduce_tensor(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return the tensor of every process, all of one shape, on the CPU."""
        if not self._connected:
            return [tensor]
        gathered = [torch.empty_like(tensor, device="cpu") for _ in range(self.size)]
        dist.all_gather(gathered, tensor.cpu().contiguous())
        return gathered

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Return the rows of all processes, (count, ...), from those of each process's shard."""
        shards = [Shard(rank, self.size).columns(count) for rank in range(self.size)]
        sizes = [shard.stop - shard.start for shard in shards]
        rows = rows[: sizes[self.rank]]
        padding = rows.new_zeros(max(sizes) - len(rows), *rows.shape[1:])
        gathered = self.all_gather(torch.cat([rows, padding]))
        return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])

    def barrier(self) -> None:
        """Wait until every process has called this."""
        self.all_reduce(0)

    @contextmanager
    def lost_process_reported(self) -> Iterator[None]:
        """Turn torch's error about another process into an error of one line.

        Raises:
            GroupError: Another process has ended, or does not answer.
        """
        try:
            yield
        except RuntimeError as error:
            if not self._connected or not _COLLECTIVE_ERROR.search(str(error)):
                raise
            first_line = str(error).partition("\n")[0]
            raise GroupError(
                f"process {self.rank} of {self.size}: another process has ended or has not "
                f"answered in time: {first_line:.200}; look for its own message, then continue "
                "with --resume"
            ) from None


SINGLE_PROCESS = Group()


def unwrap(objective: AnyObjective) -> Objective:
    """Return the objective inside what `Group.wrap` returned."""
    return (
        cast(Objective, objective.module)
        if isinstance(objective, DistributedDataParallel)
        else objective
    )


def unsynchronized(objective: AnyObjective) -> AbstractContextManager[None]:
    """Return the context in which gradients add up without being exchanged."""
    return objective.no_sync() if isinstance(objective, DistributedDataParallel) else nullcontext()


def _compress_to_bf16(state: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    # Under its own name torch accepts this hook for NCCL only; gloo can run it too.
    return default_hooks.bf16_compress_hook(state, bucket)


def join() -> Group:
    """Join the processes that the launcher has started.

    Raises:
        GroupError: The other processes cannot be reached.
    """
    try:
        store, rank, size = next(rendezvous("env://", timeout=_RENDEZVOUS_TIMEOUT))
    except (RuntimeError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        raise GroupError(
            f"torchrun: cannot reach the other processes: {first_line:.200}; check "
            "--rdzv-endpoint, or MASTER_ADDR and MASTER_PORT"
        ) from None
    prefix = _agree_on_prefix(store, rank, size)
    return Group(
        rank=rank,
        size=size,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        store=PrefixStore(prefix, store),
    )


def _agree_on_prefix(store: Store, rank: int, size: int) -> str:
    """Return a name that only these processes know.

    The launcher's store still holds the values of processes that it started earlier. The first
    process publishes a random question; every other one answers with the question and a random
    number of its own, and waits until the first one repeats this answer. Only a process that runs
    now can repeat it.
    """
    own_number = uuid.uuid4().hex
    if rank == 0:
        store.set("question", own_number)
        for other in range(1, size):
            answer = _wait_for_answer(store, other, question=own_number)
            store.set(f"heard/{other}", answer)
        return own_number
    answer = ""
    while not answer or _value(store, f"heard/{rank}") != answer:
        question = _value(store, "question")
        if question and not answer.startswith(question):  # The first process asks again.
            answer = f"{question} {own_number}"
            store.set(f"answer/{rank}", answer)
        time.sleep(_POLL_SECONDS)
    return answer.partition(" ")[0]


def _wait_for_answer(store: Store, rank: int, *, question: str) -> str:
    """Wait until a process has answered this question, and return its answer."""
    while not (answer := _value(store, f"answer/{rank}")).startswith(question):
        time.sleep(_POLL_SECONDS)
    return answer


def _value(store: Store, name: str) -> str:
    """Return a value of the store; empty if there is none."""
    return str(store.get(name).decode()) if store.check([name]) else ""


def _wait_for_key(store: Store, name: str) -> str:
    """Wait for a value, in Python so that signals are handled, and return it."""
    while not store.check([name]):
        time.sleep(_POLL_SECONDS)
    return _value(store, name)


def launch(processes: int, arguments: Sequence[str], *, signals: Sequence[str]) -> int:
    """Start charlm in several processes on this machine, as torchrun does.

    When one process fails, all of them are started again.

    Args:
        processes: Number of processes.
        arguments: Arguments of charlm: a command that continues where it stopped, such as
            `train --resume RUN`.
        signals: Names of the signals that are passed on to the processes.

    Returns:
        The exit status: 0, or 128 plus the number of the signal that was passed on.

    Raises:
        GroupError: The processes failed each time.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // processes)))
    handled: dict[str, Any] = {}
    if "signals_to_handle" in LaunchConfig.__dataclass_fields__:  # Some versions of torch lack it.
        handled["signals_to_handle"] = ",".join(signals)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=_MAX_RESTARTS,
        **handled,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "charlm", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise GroupError(
            f"process {rank} of {processes}: ended with status {failure.exitcode}; its own message "
            "is above"
        ) from None
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0
