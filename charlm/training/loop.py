"""The training loop: a generator of `Progress`. The caller prints, evaluates and saves."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from charlm.config.training import Training as TrainingSection
from charlm.data.windows.window import Position, Window
from charlm.errors import DivergenceError
from charlm.model.language_model import named_weights
from charlm.model.recurrence import States
from charlm.training.averaging import Average
from charlm.training.clipping import Clipping, gradient_group, group_norms
from charlm.training.cuda_graph import OPTIMIZERS, CudaGraphStep
from charlm.training.durations import Durations
from charlm.training.objective import Objective
from charlm.training.process_group import SINGLE_PROCESS, AnyObjective, Group, unwrap
from charlm.training.schedule import learning_rate
from charlm.training.step import Batch, StepResult, forward_backward

# Steps between two checks of the loss on a GPU: each check waits for the device.
_STEPS_BETWEEN_CHECKS = 32


@dataclass
class TrainingState:
    """Everything that changes during training except weights, optimizer and random generators.

    Attributes:
        step: Number of steps taken.
        seconds: Seconds spent in steps, without evaluations and saves.
        tokens: Number of tokens predicted.
        epochs: Passes over the training text, a fraction.
        position: Position in the text of the next window.
        states: States of the recurrence there, of the columns of this process; None for the
            initial states.
        global_batch_size: Number of streams or records with such states in all processes together.
        best_loss_nats: Lowest validation loss so far; None before the first one.
        evaluations_since_best: Number of evaluations since then.
        stalls: Number of evaluations without a new best in all.
        halvings: Number of times that training went back after a divergence and halved the rate.
        due_metrics: Metrics of the steps before an evaluation that is due and not done yet; None if
            none is due.
        validation_part: N if an evaluation scores one N-th of the validation split; None before the
            first evaluation.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    epochs: float = 0.0
    position: Position = field(default_factory=Position)
    states: States | None = None
    global_batch_size: int = 0
    best_loss_nats: float | None = None
    evaluations_since_best: int = 0
    stalls: int = 0
    halvings: int = 0
    due_metrics: dict[str, Any] | None = None
    validation_part: int | None = None

    def fraction_done(self, section: TrainingSection) -> float:
        """Return the spent fraction of the budget."""
        unit, amount = section.budget
        return self.used(unit) / amount

    def used(self, unit: str) -> float:
        """Return the spent budget in minutes, steps or epochs."""
        return {"minutes": self.seconds / 60, "steps": self.step, "epochs": self.epochs}[unit]

    def is_out_of_patience(self, section: TrainingSection) -> bool:
        """Return whether too many evaluations had no new best."""
        return section.patience is not None and self.evaluations_since_best >= section.patience

    def has_ended(self, section: TrainingSection) -> bool:
        """Return whether nothing is left to train or to evaluate."""
        is_spent = self.fraction_done(section) >= 1
        return self.due_metrics is None and (is_spent or self.is_out_of_patience(section))

    def advance(self, window: Window, states: States, *, tokens: int, seconds: float) -> None:
        """Record a step.

        Args:
            window: Window of the step.
            states: States after the window.
            tokens: Number of tokens predicted by all processes.
            seconds: Seconds that the step took.
        """
        self.step += 1
        self.seconds += seconds
        self.tokens += tokens
        self.epochs = window.epochs
        self.position = window.next
        self.states = states
        self.global_batch_size = window.global_batch_size


@dataclass(frozen=True)
class Progress:
    """The outcome of one step.

    Attributes:
        loss: Nats per token, a scalar on the device. Reading it waits for the device.
        step: Number of the step, the first being 1.
        clipping: Norms of the gradient, and the effect of clipping, on the device.
        previous_norms: Norm of each parameter's gradient in the step before; None in the first
            step of the loop.
        groups: Group under which the gradient norm of each parameter is reported.
        learning_rate: Learning rate of the step.
        fraction_done: Spent fraction of the budget, this step included.
        state: State of the training after the step, the same object in every step.
        tokens: Number of tokens predicted in the step by all processes.
        suspended_seconds: Seconds of the step that do not count, because the process was suspended.
    """

    loss: Tensor
    step: int
    clipping: Clipping
    previous_norms: Tensor | None
    groups: Sequence[str]
    learning_rate: float
    fraction_done: float
    state: TrainingState
    tokens: int = 0
    suspended_seconds: float = 0.0

    def check_finite(self) -> None:
        """Raise DivergenceError if the loss or the norm of the gradient is not finite."""
        loss, norm = float(self.loss), float(self.clipping.norm)
        if not math.isfinite(loss + norm):
            raise DivergenceError(
                f"step {self.step}: the loss is {loss:.4g} and the gradient norm {norm:.4g}, "
                f"{self._largest_gradient()}, at a learning rate of {self.learning_rate:.2g}"
            )

    def _largest_gradient(self) -> str:
        """Describe the group with the largest gradient.

        Where no norm of this step is finite, the groups cannot be compared, and the norms of the
        step before are described.
        """
        for norms, when in ((self.clipping.norms, ""), (self.previous_norms, " one step before")):
            if norms is not None and norms.isfinite().any():
                by_group = group_norms(norms, self.groups)
                group = max(by_group, key=by_group.__getitem__)
                return f"the largest in {group}{when} with {by_group[group]:.4g}"
        return "not finite in any group"


def steady_clock(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock of the seconds from now on that stands still where `clock` goes back."""
    last, elapsed = clock(), 0.0

    def seconds() -> float:
        nonlocal last, elapsed
        now = clock()
        elapsed += max(0.0, now - last)
        last = now
        return elapsed

    return seconds


class _Steps:
    """Takes steps, each as one CUDA graph where that is possible.

    Attributes:
        between_checks: Number of steps between two checks of the loss.
    """

    def __init__(
        self,
        objective: AnyObjective,
        optimizer: torch.optim.Optimizer,
        section: TrainingSection,
        group: Group,
    ) -> None:
        self._objective = unwrap(objective)
        self._optimizer = optimizer
        self._section = section
        self._groups = [gradient_group(name) for name, _ in named_weights(self._objective.model)]
        self._previous_norms: Tensor | None = None
        hardware = self._objective.hardware
        self.between_checks = 1 if hardware.device.type == "cpu" else _STEPS_BETWEEN_CHECKS
        loss_scale = hardware.loss_scale(section.batch_size)
        self._compute = partial(
            forward_backward, objective, section, group=group, loss_scale=loss_scale
        )
        self._graph: CudaGraphStep | None = None
        if can_use_cuda_graph(objective, section):
            self._graph = CudaGraphStep(self._compute, optimizer, hardware.device)

    def take(self, window: Window, state: TrainingState) -> tuple[Progress, States]:
        """Take a step; return its outcome before the state advances, and the new states.

        Raises:
            DivergenceError: The loss is not finite.
        """
        rate = _learning_rate(self._section, state)
        result = self._computed(window, state.states, rate)
        progress = Progress(
            loss=result.loss,
            step=state.step + 1,
            clipping=result.clipping,
            previous_norms=self._previous_norms,
            groups=self._groups,
            learning_rate=rate,
            fraction_done=state.fraction_done(self._section),
            state=state,
        )
        if state.step % self.between_checks == 0:
            progress.check_finite()
        if self._graph is None:  # A graph has changed the weights already.
            _step_optimizer(self._optimizer, rate)
        self._previous_norms = result.clipping.norms
        return progress, result.states

    def _computed(self, window: Window, states: States | None, rate: float) -> StepResult:
        """Compute loss and gradient of a window. A CUDA graph also changes the weights."""
        needs_states = self._graph is not None
        batch = _make_batch(self._objective, window, states, needs_states=needs_states)
        return self._compute(batch) if self._graph is None else self._graph(batch, rate)


def train(
    objective: AnyObjective,
    windows: Iterator[Window],
    optimizer: torch.optim.Optimizer,
    section: TrainingSection,
    *,
    state: TrainingState,
    average: Average | None = None,
    group: Group = SINGLE_PROCESS,
    clock: Callable[[], float],
) -> Iterator[Progress]:
    """Take steps until the budget is spent, yielding a `Progress` after each.

    Args:
        objective: Model and objective, as `group.wrap` returns them.
        windows: Windows of the training text from `state.position` on, without end.
        optimizer: Optimizer of the model's parameters.
        section: Budget, schedule and clipping.
        state: State to start from; advanced in place.
        average: Average of the weights, updated after each step.
        group: Processes that train together, each on its columns of every window.
        clock: Function that returns seconds, such as `time.perf_counter`. The time between steps
            is not counted, nor a gap far beyond the usual time of a step.

    Raises:
        DivergenceError: The loss is not finite. On a CPU the weights are those of the step before.
    """
    unwrap(objective).model.train()
    steps = _Steps(objective, optimizer, section, group)
    durations = Durations(factor=steps.between_checks)
    while state.fraction_done(section) < 1:
        began = clock()
        window = next(windows)
        progress, states = steps.take(window, state)
        if average is not None:
            average.update()
        elapsed = clock() - began
        counted = durations.counted(elapsed)
        tokens, seconds = group.all_reduce(window.tokens, counted * group.is_first)
        state.advance(window, states, tokens=int(tokens), seconds=seconds)
        yield replace(
            progress,
            fraction_done=state.fraction_done(section),
            tokens=int(tokens),
            suspended_seconds=elapsed - counted,
        )


def _learning_rate(section: TrainingSection, state: TrainingState) -> float:
    return learning_rate(
        section,
        step=state.step,
        fraction_done=state.fraction_done(section),
        stalls=state.stalls,
        halvings=state.halvings,
    )


def can_use_cuda_graph(objective: AnyObjective, section: TrainingSection) -> bool:
    """Return whether a step is configured as a CUDA graph, and can be one.

    It can in a single process, with an optimizer that does not wait for the device, and if no
    parameter is without a gradient in some windows.
    """
    return (
        section.cuda_graph
        and section.optimizer in OPTIMIZERS
        and unwrap(objective) is objective
        and unwrap(objective).hardware.device.type == "cuda"
        and unwrap(objective).uses_every_parameter
    )


def _make_batch(
    objective: Objective, window: Window, states: States | None, *, needs_states: bool
) -> Batch:
    """Return a window on the device, with the states before it.

    Args:
        objective: Objective with the device and the initial states.
        window: The window.
        states: States after the window before.
        needs_states: Whether the batch must hold the initial states and the restarts instead of
            None.
    """
    device = objective.hardware.device
    restarts = window.restarts
    if window.resets_state:
        states = None
    if states is None and needs_states:
        states = objective.initial_states(window.inputs.shape[1])
    if restarts is None and needs_states:
        restarts = torch.zeros(window.inputs.shape[1], dtype=torch.bool)
    return Batch(
        inputs=_copy_to(device, window.inputs),
        targets=_copy_to(device, window.targets),
        tokens=torch.full((), window.tokens, device=device),  # A copy would wait for the device.
        states=states,
        restarts=None if restarts is None else _copy_to(device, restarts),
        global_batch_size=window.global_batch_size,
    )


def _copy_to(device: torch.device, tensor: Tensor) -> Tensor:
    """Return a tensor of a window on a device.

    A copy to a GPU waits for the steps before, unless it is made from pinned memory.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _step_optimizer(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for options in optimizer.param_groups:
        options["lr"] = rate
    optimizer.step()
