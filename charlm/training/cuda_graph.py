"""A step of training as one CUDA graph: recorded once for each shape of window, and launched as one ever after.

A small network's step is hundreds of kernels of microseconds each, and a GPU waits for Python to launch them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from charlm.model.recurrence import States
from charlm.training.clipping import Clipping

_STEPS_BEFORE = (
    3  # Of a shape, taken as ever before it is recorded: kernels are chosen, and optimizers begin.
)
_SHAPES = 16  # Recorded at most: each keeps the memory of a step.
OPTIMIZERS = (
    "adamw",
    "adam",
    "muon",
)  # Those that read their rate and count their steps on the device.


@dataclass(frozen=True)
class Batch:
    """What a step is taken on, on the device.

    Attributes:
        inputs: Ids, (time, batch).
        targets: The ids to be predicted, (time, batch).
        tokens: How many of them are asked for, a scalar.
        states: Before the window; None for the initial ones.
        global_batch_size: Number of streams or records in the batches of all processes together.
    """

    inputs: Tensor
    targets: Tensor
    tokens: Tensor
    states: States | None
    global_batch_size: int

    def tensors(self) -> list[Tensor]:
        """Return all of it, in one order."""
        return [
            self.inputs,
            self.targets,
            self.tokens,
            *(part for layer in self.states or () for part in layer),
        ]


@dataclass(frozen=True)
class StepResult:
    """What comes of a batch, beside the gradient, on the device.

    Attributes:
        loss: Nats per token.
        clipping: Of the gradient.
        states: After the window.
    """

    loss: Tensor
    clipping: Clipping
    states: States

    def copied(self) -> "StepResult":
        """Return it in memory of its own, but for the states."""
        told = {
            name: value.clone() for name, value in vars(self.clipping).items() if value is not None
        }
        return replace(self, loss=self.loss.clone(), clipping=replace(self.clipping, **told))


Descend = Callable[[Batch], StepResult]
Record = Callable[[Callable[[], StepResult]], tuple[StepResult, Callable[[], None]]]


def record_graph(work: Callable[[], StepResult]) -> tuple[StepResult, Callable[[], None]]:
    """Record what some work launches as a CUDA graph, without doing it; return what it comes to, and its launch."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return result, graph.replay


class CapturedStep:
    """Descends and lets the optimizer step, in one launch for every shape that came up a few times."""

    def __init__(
        self,
        descend: Descend,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        record: Record = record_graph,
    ) -> None:
        """Record nothing yet.

        Args:
            descend: Leaves the gradient of a batch in the parameters, clipped. It must not wait for the device.
            optimizer: One of `OPTIMIZERS`; it reads its rate on the device from now on.
            device: Where all of it is.
            record: Notes what some work launches, without doing it; returns what it will come to, and what does it.
        """
        self._descend, self._optimizer = descend, optimizer
        self._record = record
        self._rate = torch.zeros((), device=device)
        self._seen: Counter[torch.Size] = Counter()
        self._recorded: dict[torch.Size, tuple[Batch, StepResult, Callable[[], None]]] = {}
        for options in optimizer.param_groups:
            options["lr"] = self._rate

    def __call__(self, batch: Batch, rate: float) -> StepResult:
        """Take a step; its states are written over by the next one.

        Args:
            batch: With states, none of them None.
            rate: The learning rate.
        """
        self._rate.fill_(rate)
        shape = batch.inputs.shape
        self._seen[shape] += 1
        if shape not in self._recorded:
            if self._seen[shape] <= _STEPS_BEFORE or len(self._recorded) == _SHAPES:
                return self._take(batch)
            self._recorded[shape] = self._record_step(batch)
        own, descent, launch = self._recorded[shape]
        for mine, given in zip(own.tensors(), batch.tensors(), strict=True):
            if mine is not given:
                mine.copy_(given)
        launch()
        return replace(descent.copied(), states=own.states or ())

    def _take(self, batch: Batch) -> StepResult:
        descent = self._descend(batch)
        self._optimizer.step()
        return descent

    def _record_step(self, batch: Batch) -> tuple[Batch, StepResult, Callable[[], None]]:
        states = tuple(tuple(part.clone() for part in layer) for layer in batch.states or ())
        own = Batch(
            batch.inputs.clone(),
            batch.targets.clone(),
            batch.tokens.clone(),
            states,
            batch.global_batch_size,
        )

        def take() -> StepResult:
            descent = self._take(own)
            for layer, after in zip(states, descent.states, strict=True):
                for part, advanced in zip(layer, after, strict=True):
                    part.copy_(advanced)
            return descent

        for options in self._optimizer.param_groups:
            options["capturable"] = (
                True  # What torch asks for where a graph is recorded, and warns of elsewhere.
            )
        descent, launch = self._record(take)
        for options in self._optimizer.param_groups:
            options["capturable"] = False
        return own, descent, launch
