"""A training step as one CUDA graph: recorded once per shape of window, then launched as a whole.

A step of a small network is hundreds of kernels of a few microseconds, and a GPU waits while Python
launches them one by one.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from charlm.training.step import Batch, StepResult

# Steps of a shape before it is recorded: libraries choose kernels, and optimizers create state.
_STEPS_BEFORE_RECORDING = 3
_MAX_GRAPHS = 16  # Each graph keeps the memory of a step.
# Optimizers that read the learning rate and count their steps on the device.
OPTIMIZERS = ("adamw", "adam", "muon")

ForwardBackward = Callable[[Batch], StepResult]
Launch = Callable[[], None]
Record = Callable[[Callable[[], StepResult], torch.device], tuple[StepResult, Launch]]


def record_graph(work: Callable[[], StepResult], device: torch.device) -> tuple[StepResult, Launch]:
    """Record the kernels of `work` as a CUDA graph, without running them.

    Args:
        work: Function that launches kernels on the device.
        device: The device. torch would record those of the current one, which is the first GPU.

    Returns:
        The result, which has values after a launch, and the function that launches the graph.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream):
        result = work()
    return result, graph.replay


@dataclass(frozen=True)
class _RecordedStep:
    """A recorded step.

    Attributes:
        batch: Memory from which the graph reads its batch, and where it leaves the states.
        result: Memory in which the graph leaves its result.
        launch: Function that runs the graph.
    """

    batch: Batch
    result: StepResult
    launch: Launch


class CudaGraphStep:
    """Takes training steps, optimizer included: one launch for every shape that came up before."""

    def __init__(
        self,
        forward_backward: ForwardBackward,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        *,
        record: Record = record_graph,
    ) -> None:
        """Create a step without graphs.

        Args:
            forward_backward: Function that leaves the clipped gradient of a batch in the
                parameters. It must not wait for the device.
            optimizer: One of `OPTIMIZERS`. From now on it reads its learning rate on the device.
            device: Device of the model.
            record: Function that records work, as `record_graph` does.
        """
        self._forward_backward = forward_backward
        self._optimizer = optimizer
        self._record = record
        self._device = device
        self._learning_rate = torch.zeros((), device=device)
        self._steps_of_shape: Counter[torch.Size] = Counter()
        self._recorded: dict[torch.Size, _RecordedStep] = {}
        for options in optimizer.param_groups:
            options["lr"] = self._learning_rate

    def __call__(self, batch: Batch, learning_rate: float) -> StepResult:
        """Take a step.

        Args:
            batch: A batch with states.
            learning_rate: Learning rate of the step.

        Returns:
            The result; the next step overwrites its states.
        """
        self._learning_rate.fill_(learning_rate)
        shape = batch.inputs.shape
        self._steps_of_shape[shape] += 1
        if shape not in self._recorded:
            is_early = self._steps_of_shape[shape] <= _STEPS_BEFORE_RECORDING
            if is_early or len(self._recorded) == _MAX_GRAPHS:
                return self._take_step(batch)
            self._recorded[shape] = self._record_step(batch)
        return _replay(self._recorded[shape], batch)

    def _take_step(self, batch: Batch) -> StepResult:
        result = self._forward_backward(batch)
        self._optimizer.step()
        return result

    def _record_step(self, batch: Batch) -> _RecordedStep:
        states = tuple(tuple(tensor.clone() for tensor in layer) for layer in batch.states or ())
        own_batch = Batch(
            inputs=batch.inputs.clone(),
            targets=batch.targets.clone(),
            tokens=batch.tokens.clone(),
            states=states,
            restarts=None if batch.restarts is None else batch.restarts.clone(),
            global_batch_size=batch.global_batch_size,
        )

        def take_step_in_place() -> StepResult:
            result = self._take_step(own_batch)
            for before, after in zip(states, result.states, strict=True):
                for tensor, new in zip(before, after, strict=True):
                    tensor.copy_(new)
            return result

        self._set_capturable(True)
        result, launch = self._record(take_step_in_place, self._device)
        self._set_capturable(False)
        return _RecordedStep(batch=own_batch, result=result, launch=launch)

    def _set_capturable(self, capturable: bool) -> None:
        """Set the option that torch requires while it records, and warns about at other times."""
        for options in self._optimizer.param_groups:
            options["capturable"] = capturable


def _replay(recorded: _RecordedStep, batch: Batch) -> StepResult:
    """Copy a batch into the memory of a recorded step, and launch the step."""
    for own, given in zip(recorded.batch.tensors(), batch.tensors(), strict=True):
        if own is not given:
            own.copy_(given)
    recorded.launch()
    return replace(recorded.result.copy_metrics(), states=recorded.batch.states or ())
