"""Processes that train together, each on its share of every batch; alone, nothing of it happens.

They are started by torchrun, or by `charlm train --processes`, and speak through torch.distributed.
"""

import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket, PrefixStore, Store, rendezvous  # type: ignore[attr-defined]
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from charlm.config.schema import Training as TrainingSection
from charlm.data.windows import Shard
from charlm.errors import GroupError

_DAY, _LOOK_SECONDS = (
    timedelta(days=1),
    0.05,
)  # While one process prepares, the others wait: a large text takes time.
_RESTARTS = 10
# What torch 2.13 calls that buffers are not sent around before each step; before it had another name.
_BUFFERS = ("forward_sync_buffers", "broadcast_buffers")
_NO_BUFFERS: dict[str, Any] = {
    next(name for name in _BUFFERS if name in signature(DistributedDataParallel).parameters): False
}
# How gloo and NCCL begin what they say of a process that is gone or silent.
_OF_COLLECTIVE = re.compile(r"gloo|nccl|collective|timed? ?out|connection|barrier", re.IGNORECASE)


class Group:
    """One process among those that train together.

    Attributes:
        rank: Rank of this process, from 0.
        size: Number of processes.
        local_rank: Rank of this process on its own machine.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, local_rank: int = 0, store: Store | None = None
    ) -> None:
        """Know of the others, without speaking to them yet: see `connect`."""
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self._store, self._connected = store, False

    @property
    def is_first(self) -> bool:
        """Whether it is the one that prints, saves and tells the time."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """Its share of every batch."""
        return Shard(self.rank, self.size)

    def publish(self, name: str, value: str) -> None:
        """Tell the others something, before `connect`."""
        if self._store is not None:
            self._store.set(name, value)

    def wait_for(self, name: str) -> str:
        """Wait for what another process tells."""
        if self._store is None:
            raise GroupError(f"{name}: there is no other process to tell it")
        return _told(self._store, name)

    def connect(self, device: torch.device, *, timeout_seconds: float) -> None:
        """Wait until every process has come so far, and make it possible to speak to them.

        Args:
            device: Where this process computes.
            timeout_seconds: For how long a process may keep the others waiting from then on.
        """
        if self._store is None or self.size == 1:
            return
        self.publish(f"here/{self.rank}", "yes")
        for number in range(self.size):
            _told(self._store, f"here/{number}")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=timeout_seconds),
        )
        self._connected = True

    def leave(self) -> None:
        """Speak to the others no more, as soon as all have come so far."""
        if self._connected:
            self.barrier()
            self._connected = False
            dist.destroy_process_group()

    def wrap(self, module: nn.Module, section: TrainingSection, *, all_used: bool) -> nn.Module:
        """Return a module whose gradients are the mean over all processes.

        Args:
            module: The same in each of them.
            section: How gradients are compressed on their way.
            all_used: Whether every parameter has a gradient after every window.
        """
        if not self._connected:
            return module
        wrapped = DistributedDataParallel(
            module, find_unused_parameters=not all_used, gradient_as_bucket_view=True, **_NO_BUFFERS
        )
        if section.gradient_compression == "bf16":
            wrapped.register_comm_hook(None, _in_bf16)
        return wrapped

    def all_reduce_tensor(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, on the device; nothing waits for it there."""
        if self._connected:
            dist.all_reduce(values)
        return values

    def all_reduce(self, *numbers: float) -> list[float]:
        """Return the sums of numbers over all processes: what each must know before it goes on."""
        if not self._connected:
            return list(numbers)
        return self.all_reduce_tensor(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every process's tensor, all of one shape, on the CPU."""
        if not self._connected:
            return [tensor]
        found = [torch.empty_like(tensor, device="cpu") for _ in range(self.size)]
        dist.all_gather(found, tensor.cpu().contiguous())
        return found

    def gather(self, rows: Tensor, count: int) -> Tensor:
        """Return the rows of all processes, (count, ...), each having those of its share."""
        shares = [Shard(number, self.size).columns(count) for number in range(self.size)]
        sizes = [share.stop - share.start for share in shares]
        own = rows[: sizes[self.rank]]
        padded = torch.cat([own, own.new_zeros(max(sizes) - len(own), *rows.shape[1:])])
        return torch.cat(
            [part[:size] for part, size in zip(self.all_gather(padded), sizes, strict=True)]
        )

    def barrier(self) -> None:
        """Wait until every process has come so far."""
        self.all_reduce(0)

    @contextmanager
    def lost_process_reported(self) -> Iterator[None]:
        """Tell in one line that another process is gone or does not answer.

        Raises:
            GroupError: It is so.
        """
        try:
            yield
        except RuntimeError as error:
            if not self._connected or not _OF_COLLECTIVE.search(str(error)):
                raise
            first = str(error).partition("\n")[0]
            raise GroupError(
                f"process {self.rank} of {self.size}: another one has ended, or not answered in time: {first:.200}; "
                "look for its own message, then go on with --resume"
            ) from None


def _in_bf16(state: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    # Under its own name torch takes this hook with NCCL alone; gloo does it as well.
    return default_hooks.bf16_compress_hook(state, bucket)


SINGLE_PROCESS = Group()


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether torchrun, or another launcher that speaks as it does, has started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys()


def join() -> Group:
    """Return this process's place among those that the launcher has started.

    Raises:
        GroupError: The others cannot be reached.
    """
    try:
        store, number, size = next(rendezvous("env://", timeout=_DAY))
    except (RuntimeError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise GroupError(f"torchrun: the other processes cannot be reached: {first:.200}") from None
    meeting = _meet(store, number, size)
    return Group(
        number, size, int(os.environ.get("LOCAL_RANK", number)), PrefixStore(meeting, store)
    )


def _meet(store: Store, number: int, size: int) -> str:
    """Return a name that these processes alone share: the launcher's store still holds what earlier ones have told.

    The first process asks, each other one answers with a number of its own, and waits to hear that number back: only a
    process that is there now can know it.
    """
    own = uuid.uuid4().hex

    def told(name: str) -> str:
        return str(store.get(name).decode()) if store.check([name]) else ""

    if number == 0:
        store.set("question", own)
        for other in range(1, size):
            _wait(lambda other=other: told(f"answer/{other}").startswith(own))  # type: ignore[misc]
            store.set(f"heard/{other}", told(f"answer/{other}"))
        return own
    answer = ""

    def is_heard() -> bool:
        nonlocal answer
        if not answer.startswith(question := told("question") or " "):  # What is asked now.
            answer = f"{question} {own}"
            store.set(f"answer/{number}", answer)
        return told(f"heard/{number}") == answer

    _wait(is_heard)
    return answer.partition(" ")[0]


def _told(store: Store, name: str) -> str:
    """Wait for what another process tells."""
    _wait(lambda: store.check([name]))
    return str(store.get(name).decode())


def _wait(until: Callable[[], bool]) -> None:
    """Wait, however long: in Python, so that a signal is heard."""
    while not until():
        time.sleep(_LOOK_SECONDS)


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Start charlm several times on this machine, as torchrun does, and again all of them when one has ended badly.

    Args:
        processes: How many.
        arguments: Of each: a command that goes on from where it was, as `train --resume RUN` does.

    Raises:
        GroupError: They ended badly, as often as they were started.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=_RESTARTS,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "charlm", *arguments)
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        raise GroupError(
            f"process {number} of {processes}: ended with status {failure.exitcode}; its own message is above"
        ) from None
    except SignalException:
        raise KeyboardInterrupt from None


def unsynchronized(module: nn.Module) -> AbstractContextManager[None]:
    """Return the context in which gradients add up in this process alone."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()
