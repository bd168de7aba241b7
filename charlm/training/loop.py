"""The loop, a generator of Progress. It prints nothing and writes nothing: the caller reports and saves."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from charlm.config import Training as TrainingSection
from charlm.data.windows import Position, Window
from charlm.errors import DivergenceError
from charlm.model.language_model import LanguageModel, detach
from charlm.model.recurrence import States
from charlm.training.averaging import Average
from charlm.training.hardware import autocast
from charlm.training.loss import regularization, summed_loss
from charlm.training.optimizer import Clipping, clip, gradient_group, learning_rate

_STEPS_IN_FLIGHT = 32  # On a GPU, steps between two looks at the loss: each look waits for the device.
REMEDY = (
    "lower training.learning_rate, set a lower training.clipnorm, lengthen training.warmup_steps, or let "
    "--on-divergence halve do it"
)


@dataclass
class TrainingState:
    """All that changes while training, beside weights, optimizer and random generators.

    Attributes:
        step: Steps taken.
        seconds: Time spent in them, without evaluating and saving.
        tokens: Tokens predicted.
        epochs: Passes over the training text, a fraction.
        position: Where reading goes on.
        states: State of the recurrence there; None where it starts from zero.
        best_loss_nats: Lowest validation loss so far; None before the first.
        evaluations_since_best: Evaluations since then.
        stalls: Evaluations that were no new best, all told.
        halvings: How often training went back after a divergence, each time to go on with half the rate.
    """

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0
    epochs: float = 0.0
    position: Position = field(default_factory=Position)
    states: States | None = None
    best_loss_nats: float | None = None
    evaluations_since_best: int = 0
    stalls: int = 0
    halvings: int = 0

    def share(self, section: TrainingSection) -> float:
        """Return the share of the budget that is spent."""
        if section.steps is not None:
            return self.step / section.steps
        if section.epochs is not None:
            return self.epochs / section.epochs
        return self.seconds / (60 * (section.minutes or 1.0))


@dataclass(frozen=True)
class Progress:
    """What one step tells.

    Attributes:
        loss: Nats per token, a scalar on the device: reading it waits for the device.
        step: This step's number, the first being 1.
        clipping: What the gradient of J was before clipping, and what that did, on the device.
        before: Of the step before, the norm of each parameter tensor's gradient; None if there was none.
        groups: The group that each parameter tensor is told with.
        learning_rate: Of this step.
        share: Share of the budget spent, this step included.
        state: The training's state after this step, the same object every time.
    """

    loss: Tensor
    step: int
    clipping: Clipping
    before: Tensor | None
    groups: Sequence[str]
    learning_rate: float
    share: float
    state: TrainingState

    def check(self) -> None:
        """Raise DivergenceError if the loss or its gradient is not a finite number."""
        loss, norm = float(self.loss), float(self.clipping.norm)
        if not math.isfinite(loss + norm):
            raise DivergenceError(
                f"step {self.step}: the loss is {loss:.4g} and its gradient's norm {norm:.4g}, "
                f"{self._largest_gradient()}, at a learning rate of {self.learning_rate:.2g}; {REMEDY}"
            )

    def _largest_gradient(self) -> str:
        """Say which group has the largest gradient; of the step before, where this one tells no group from another."""
        for norms, when in ((self.clipping.norms, ""), (self.before, " a step before")):
            if norms is not None and norms.isfinite().any():
                by_group = group_norms(norms, self.groups)
                group = max(by_group, key=by_group.__getitem__)
                return f"the largest that of {group}{when} with {by_group[group]:.4g}"
        return "in no group a finite number"


def group_norms(norms: Tensor, groups: Sequence[str]) -> dict[str, float]:
    """Return the norm of each group's gradient, infinite where it is no number.

    Args:
        norms: Of each parameter tensor's gradient, (tensors,).
        groups: The group of each.
    """
    squares = dict.fromkeys(groups, 0.0)
    for group, norm in zip(groups, norms.nan_to_num(nan=math.inf, posinf=math.inf).tolist(), strict=True):
        squares[group] += norm**2
    return {group: math.sqrt(square) for group, square in squares.items()}


def steady(clock: Callable[[], float]) -> Callable[[], float]:
    """Return a clock of the seconds from now on, which stands still where `clock` goes back."""
    last, elapsed = clock(), 0.0

    def seconds() -> float:
        nonlocal last, elapsed
        now = clock()
        last, elapsed = now, elapsed + max(0.0, now - last)
        return elapsed

    return seconds


def train(
    model: LanguageModel,
    windows: Iterator[Window],
    optimizer: torch.optim.Optimizer,
    section: TrainingSection,
    *,
    state: TrainingState,
    average: Average | None = None,
    device: torch.device,
    precision: torch.dtype,
    clock: Callable[[], float],
) -> Iterator[Progress]:
    """Take steps until the budget is spent, yielding a `Progress` after each.

    Args:
        model: On `device`.
        windows: The training text from `state.position` on, without end.
        optimizer: Of the model's parameters.
        section: Budget, schedule and clipping.
        state: Where to begin; advanced in place.
        average: Takes in the model's weights after each step.
        device: Where to compute.
        precision: What matrix products are computed in.
        clock: Seconds, such as `time.perf_counter`. What the caller does between steps is not counted.

    Raises:
        DivergenceError: The loss is not finite; on a CPU the weights are then still those of the step before.
    """
    model.train()
    groups, before = [gradient_group(name) for name, _ in model.named_parameters()], None
    while (share := state.share(section)) < 1:
        began = clock()
        rate = learning_rate(section, step=state.step, share=share, stalls=state.stalls)
        rate *= 0.5**state.halvings
        for group in optimizer.param_groups:
            group["lr"] = rate
        window = next(windows)
        loss, clipping = _gradient(model, window, section, state, device=device, precision=precision)
        looks = device.type == "cpu" or state.step % _STEPS_IN_FLIGHT == 0
        progress = Progress(loss, state.step + 1, clipping, before, groups, rate, share, state)
        if looks:
            progress.check()
        optimizer.step()
        if average is not None:
            average.add()
        state.step += 1
        state.tokens += window.tokens
        state.epochs, state.position = window.epochs, window.next
        state.seconds += clock() - began
        before = clipping.norms
        yield replace(progress, share=state.share(section))


def _gradient(
    model: LanguageModel,
    window: Window,
    section: TrainingSection,
    state: TrainingState,
    *,
    device: torch.device,
    precision: torch.dtype,
) -> tuple[Tensor, Clipping]:
    """Leave the clipped gradient of J in the parameters; return nats per token and what clipping did."""
    inputs, targets = (ids.to(device, non_blocking=True) for ids in (window.inputs, window.targets))
    with autocast(device, precision):
        features, states = model.features(inputs, None if window.fresh else state.states)
        read = model.read(features)
        objective, nats = summed_loss(read, targets, projection=model.projection, smoothing=section.label_smoothing)
        objective = objective + regularization(section, features, read)
    # Gradients stop at the window's edge: truncated backpropagation through time (Williams and Peng 1990).
    state.states = detach(states)
    model.zero_grad(set_to_none=True)
    objective.backward()  # type: ignore[no-untyped-call]
    clipping = clip(model.parameters(), clipnorm=section.clipnorm, clipvalue=section.clipvalue)
    return nats / window.tokens, clipping
