"""The loop, a generator of Progress. It prints nothing and writes nothing: the caller reports and saves."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from charlm.config.schema import Training as TrainingSection
from charlm.data.windows import Position, Shard, Window
from charlm.errors import DivergenceError
from charlm.model.language_model import LanguageModel, named_weights
from charlm.model.recurrence import States
from charlm.training.averaging import Average
from charlm.training.clipping import Clipping, clip, gradient_group
from charlm.training.cuda_graph import OPTIMIZERS, Batch, CapturedStep, StepResult
from charlm.training.devices import loss_scale
from charlm.training.objective import Objective
from charlm.training.process_group import SINGLE_PROCESS, Group, unsynchronized
from charlm.training.schedule import learning_rate

_STEPS_IN_FLIGHT = (
    32  # On a GPU, steps between two looks at the loss: each look waits for the device.
)
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
        states: State of the recurrence there, of this process's columns; None where it starts from zero.
        global_batch_size: Number of streams or records whose states these are, in all processes together.
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
    global_batch_size: int = 0
    best_loss_nats: float | None = None
    evaluations_since_best: int = 0
    stalls: int = 0
    halvings: int = 0

    def fraction_done(self, section: TrainingSection) -> float:
        """Return the spent fraction of the budget."""
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
        fraction_done: Spent fraction of the budget, this step included.
        state: The training's state after this step, the same object every time.
    """

    loss: Tensor
    step: int
    clipping: Clipping
    before: Tensor | None
    groups: Sequence[str]
    learning_rate: float
    fraction_done: float
    state: TrainingState

    def check_finite(self) -> None:
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
    for group, norm in zip(
        groups, norms.nan_to_num(nan=math.inf, posinf=math.inf).tolist(), strict=True
    ):
        squares[group] += norm**2
    return {group: math.sqrt(square) for group, square in squares.items()}


def steady_clock(clock: Callable[[], float]) -> Callable[[], float]:
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
    group: Group = SINGLE_PROCESS,
    objective: nn.Module | None = None,
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
        group: The processes that train together, each with its share of every window.
        objective: The model's `Objective` as `group` wraps it; by default one that is not wrapped.
        device: Where to compute.
        precision: What matrix products are computed in.
        clock: Seconds, such as `time.perf_counter`. What the caller does between steps is not counted.

    Raises:
        DivergenceError: The loss is not finite; on a CPU the weights are then still those of the step before.
    """
    model.train()
    objective = objective or Objective(model, section, device=device, precision=precision)
    scale = loss_scale(device, precision, section.batch_size)
    descend = partial(_descend, objective, model, section, group=group, scale=scale)
    captured = (
        CapturedStep(descend, optimizer, device)
        if _can_be_captured(objective, section, device)
        else None
    )
    groups, before = [gradient_group(name) for name, _ in named_weights(model)], None
    while (fraction_done := state.fraction_done(section)) < 1:
        began = clock()
        rate = learning_rate(
            section, step=state.step, fraction_done=fraction_done, stalls=state.stalls
        )
        rate *= 0.5**state.halvings
        window = next(windows)
        batch = _batch(model, window, state, device, whole=captured is not None)
        descent = descend(batch) if captured is None else captured(batch, rate)
        progress = Progress(
            descent.loss,
            state.step + 1,
            descent.clipping,
            before,
            groups,
            rate,
            fraction_done,
            state,
        )
        if device.type == "cpu" or state.step % _STEPS_IN_FLIGHT == 0:
            progress.check_finite()
        if captured is None:
            for options in optimizer.param_groups:
                options["lr"] = rate
            optimizer.step()
        if average is not None:
            average.update()
        state.step += 1
        state.epochs, state.position = window.epochs, window.next
        state.states, state.global_batch_size = descent.states, window.global_batch_size
        tokens, seconds = group.all_reduce(window.tokens, (clock() - began) * group.is_first)
        state.tokens += int(tokens)
        state.seconds += seconds
        before = descent.clipping.norms
        yield replace(progress, fraction_done=state.fraction_done(section))


def _batch(
    model: LanguageModel, window: Window, state: TrainingState, device: torch.device, *, whole: bool
) -> Batch:
    """Return a window on the device, with the states before it: the initial ones, if all is to be `whole`."""
    inputs, targets = (ids.to(device, non_blocking=True) for ids in (window.inputs, window.targets))
    states = None if window.resets_state else state.states
    if states is None and whole:
        states = model.initial_states(inputs.shape[1])
    tokens = torch.full(
        (), window.tokens, device=device
    )  # Filled there: a copy would wait for the device.
    return Batch(inputs, targets, tokens, states, window.global_batch_size)


def _descend(
    objective: nn.Module,
    model: LanguageModel,
    section: TrainingSection,
    batch: Batch,
    *,
    group: Group,
    scale: float,
) -> StepResult:
    """Leave the gradient of J in the parameters, formed part by part of the batch, and clipped.

    Args:
        objective: Of the model.
        model: Whose parameters.
        section: In how many parts, and the limits of the gradient.
        batch: A window.
        group: The processes that do so together.
        scale: What J is multiplied by on the way back.
    """
    networks, states = len(model.encoder.recurrences), batch.states
    columns = batch.inputs.shape[1] // networks
    mine = group.shard.columns(batch.global_batch_size)
    parts = min(section.accumulation, columns)
    shares = [Shard(number, parts).columns(columns) for number in range(parts)]
    divisor = (
        batch.global_batch_size * networks / group.size
    )  # A group takes the mean of its processes' gradients.
    nats, after = torch.zeros((), dtype=torch.float64, device=batch.inputs.device), []
    model.zero_grad(set_to_none=True)
    for share in shares:
        counted = (
            min(share.stop, mine.stop - mine.start) - share.start
        )  # Not a column that is there for padding.
        with nullcontext() if share is shares[-1] else unsynchronized(objective):
            j, added, advanced = objective(
                _columns(batch.inputs, share, networks),
                _columns(batch.targets, share, networks),
                states and tuple(tuple(part[share] for part in layer) for layer in states),
                divisor,
                max(counted, 0) * networks,
            )
            (j if scale == 1 else j * scale).backward()
        nats += added
        after.append(advanced)
    if scale != 1:
        torch._foreach_mul_(
            [tensor.grad for tensor in model.parameters() if tensor.grad is not None], 1 / scale
        )
    sums = group.all_reduce_tensor(torch.stack([nats, batch.tokens.to(nats.dtype)]))
    return StepResult(
        (sums[0] / sums[1]).float(),
        clip(model.parameters(), clipnorm=section.clipnorm, clipvalue=section.clipvalue),
        tuple(
            tuple(map(torch.cat, zip(*layer, strict=True))) for layer in zip(*after, strict=True)
        ),
    )


def _can_be_captured(objective: nn.Module, section: TrainingSection, device: torch.device) -> bool:
    """Return whether a step is to be one CUDA graph, and can be: alone, and with nothing that waits for the device."""
    return (
        section.cuda_graph
        and device.type == "cuda"
        and section.optimizer in OPTIMIZERS
        and isinstance(objective, Objective)
        and objective.uses_every_parameter
    )


def _columns(ids: Tensor, share: slice, networks: int) -> Tensor:
    """Return some columns of a window, (time, batch), of each of the networks that stand side by side in it."""
    return torch.cat([part[:, share] for part in ids.chunk(networks, dim=1)], dim=1)
