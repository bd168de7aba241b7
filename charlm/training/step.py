"""One training step up to the clipped gradient: forward and backward pass over a batch."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from charlm.config.training import Training as TrainingSection
from charlm.data.windows.window import Shard
from charlm.model.recurrence import States
from charlm.training.clipping import Clipping, clip
from charlm.training.objective import Objective, ObjectiveValue
from charlm.training.process_group import AnyObjective, Group, unsynchronized, unwrap


@dataclass(frozen=True)
class Batch:
    """A window on the device, with the states before it.

    Attributes:
        inputs: Ids, (time, columns). The columns of each network stand side by side.
        targets: Targets of the ids, (time, columns).
        tokens: Number of targets that are not padding, a scalar.
        states: States before the window; None for the initial states.
        global_batch_size: Number of streams or records in the batches of all processes together.
        restarts: Columns that have the initial state instead, (columns,); None if there are none.
    """

    inputs: Tensor
    targets: Tensor
    tokens: Tensor
    states: States | None
    global_batch_size: int
    restarts: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Return all tensors, always in the same order."""
        states = [tensor for layer in self.states or () for tensor in layer]
        restarts = [] if self.restarts is None else [self.restarts]
        return [self.inputs, self.targets, self.tokens, *restarts, *states]

    def select(self, columns: slice, objective: Objective) -> tuple[Tensor, Tensor, States | None]:
        """Return inputs, targets and states of some columns of each network."""
        num_networks = objective.num_networks
        states = self.states and tuple(
            tuple(tensor[columns] for tensor in layer) for layer in self.states
        )
        inputs = _select_columns(self.inputs, columns, num_networks)
        if states and self.restarts is not None:
            restarts = _select_columns(self.restarts[None], columns, num_networks)[0]
            initial = objective.initial_states(inputs.shape[1])
            states = _restarted(states, initial, restarts.chunk(num_networks))
        return inputs, _select_columns(self.targets, columns, num_networks), states


@dataclass(frozen=True)
class StepResult:
    """Results of a forward and backward pass besides the gradient, on the device.

    Attributes:
        loss: Nats per token, a scalar.
        clipping: Norms of the gradient, and the effect of clipping.
        states: States after the window.
    """

    loss: Tensor
    clipping: Clipping
    states: States

    def copy_metrics(self) -> "StepResult":
        """Return the same result with loss and clipping in new memory."""
        values = vars(self.clipping).items()
        copies = {name: value.clone() for name, value in values if value is not None}
        return replace(self, loss=self.loss.clone(), clipping=replace(self.clipping, **copies))


def forward_backward(
    objective: AnyObjective,
    section: TrainingSection,
    batch: Batch,
    *,
    group: Group,
    loss_scale: float,
) -> StepResult:
    """Compute the gradient of J over a batch, and leave it, clipped, in the parameters.

    Args:
        objective: Objective, or what `group` made of it.
        section: Number of parts that the batch is computed in, and limits of the gradient.
        batch: Window and states.
        group: Processes that compute the gradient together.
        loss_scale: Factor of J in the backward pass; the gradient is divided by it.
    """
    parameters = list(unwrap(objective).model.parameters())
    unwrap(objective).model.zero_grad(set_to_none=True)
    values = _accumulate(objective, section.accumulation, batch, group, loss_scale)
    if loss_scale != 1:
        gradients = [tensor.grad for tensor in parameters if tensor.grad is not None]
        torch._foreach_mul_(gradients, 1 / loss_scale)
    nats = torch.zeros((), dtype=torch.float64, device=batch.inputs.device)
    for value in values:
        nats += value.nats
    nats, tokens = group.all_reduce_tensor(torch.stack([nats, batch.tokens.to(nats.dtype)]))
    return StepResult(
        loss=(nats / tokens).float(),
        clipping=clip(parameters, clipnorm=section.clipnorm, clipvalue=section.clipvalue),
        states=_join_columns([value.states for value in values]),
    )


def _accumulate(
    objective: AnyObjective,
    accumulation: int,
    batch: Batch,
    group: Group,
    loss_scale: float,
) -> list[ObjectiveValue]:
    """Add up the gradients of the parts of a batch; return the value of each part.

    A group averages the gradients of its processes, so J of each process is divided by the mean
    number of columns of a process.
    """
    num_networks = unwrap(objective).num_networks
    columns = batch.inputs.shape[1] // num_networks
    batch_size = batch.global_batch_size * num_networks / group.size
    parts = min(accumulation, columns)
    values = []
    for number in range(parts):
        part = Shard(number, parts).columns(columns)
        with nullcontext() if number == parts - 1 else unsynchronized(objective):
            value = objective(*batch.select(part, unwrap(objective)), batch_size)
            (value.objective * loss_scale).backward()
        values.append(value._replace(objective=value.objective.detach()))
    return values


def _select_columns(ids: Tensor, columns: slice, num_networks: int) -> Tensor:
    """Return some columns of each network's part of a window, (time, columns)."""
    return torch.cat([part[:, columns] for part in ids.chunk(num_networks, dim=1)], dim=1)


def _restarted(states: States, initial: States, restarts: Sequence[Tensor]) -> States:
    """Return the states, with the initial ones in the columns that restart.

    Args:
        states: States of all layers, network by network.
        initial: Initial states in the same order.
        restarts: Columns of each network that restart, (columns,).
    """
    num_layers = len(states) // len(restarts)
    return tuple(
        tuple(
            torch.where(restarts[number // num_layers][:, None], new, old)
            for new, old in zip(initial[number], layer, strict=True)
        )
        for number, layer in enumerate(states)
    )


def _join_columns(parts: Sequence[States]) -> States:
    """Return the states of all columns from those of parts of the columns."""
    return tuple(
        tuple(torch.cat(tensors) for tensors in zip(*layers, strict=True))
        for layers in zip(*parts, strict=True)
    )
