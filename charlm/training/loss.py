"""Cross-entropy summed over time; what a model scores on a text."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Training as TrainingSection
from charlm.data.windows import PADDING, Window
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import predict_window, split_tokens
from charlm.model.projection import AdaptiveSoftmax

_LOGITS_AT_ONCE = (
    2**22
)  # 16 megabytes in fp32: more falls out of the caches between two operations.

Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Score:
    """Sums over the predicted tokens of a text.

    Attributes:
        nats: Cross-entropy, summed.
        tokens: Predicted tokens, <EOS> included.
        correct: How many of them were the most probable.
    """

    nats: float
    tokens: int
    correct: float

    @property
    def loss_nats(self) -> float:
        """Nats per predicted token."""
        return self.nats / max(self.tokens, 1)

    @property
    def perplexity(self) -> float:
        """The exponential of `loss_nats`."""
        return math.exp(self.loss_nats) if self.loss_nats < 700 else math.inf

    def bits_per(self, units: int) -> float:
        """Return bits per character or byte of the original text, of which there are `units`."""
        return self.nats / (math.log(2) * max(units, 1))


def summed_loss(
    read: Tensor,
    targets: Tensor,
    *,
    projection: nn.Module,
    smoothing: float = 0.0,
    columns: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return J = Σ_t L_t, the cross-entropy summed over time and averaged over the batch, and the window's nats.

    Where all logits together would be large they are computed some rows at a time, and so are their gradients: none of
    (time, batch, vocabulary) is ever in memory.

    Args:
        read: What the projection reads, (time, batch, width).
        targets: (time, batch); padding is not counted.
        projection: To logits or log-probabilities.
        smoothing: Share of a target's probability that is spread evenly over the vocabulary (Szegedy et al. 2016,
            arXiv:1512.00567, section 7). An adaptive softmax has none.
        columns: Of the batch that is averaged over, where these are a part of it; by default theirs.

    Returns:
        J, and the plain cross-entropy summed over time and batch, which has no gradient.
    """

    def compute(read: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return _cross_entropy(projection, read, targets, smoothing)

    chunks = list(
        split_tokens(projection, read.flatten(0, 1), targets.flatten(), max_logits=_LOGITS_AT_ONCE)
    )
    if len(chunks) == 1:
        objective, nats = compute(*chunks[0])
    else:
        parameters = [parameter for parameter in projection.parameters() if parameter.requires_grad]
        found = _InChunks.apply(
            compute, read.flatten(0, 1), [goals for _, goals in chunks], *parameters
        )  # type: ignore[no-untyped-call]
        objective, nats = found
    return objective / (columns or targets.shape[1]), nats


def regularization(section: TrainingSection, features: Tensor, read: Tensor) -> Tensor | float:
    """Return what is added to J for activations that are large, or that change much: AR and TAR of Merity et al. 2018.

    arXiv:1708.02182, section 4.6, there for a mean over tokens: here times the window, as J is a sum over it.

    Args:
        section: The weights of the two.
        features: What the recurrence gave, (time, batch, hidden).
        read: What the projection reads of it, dropout included, (time, batch, width).
    """
    total: Tensor | float = 0.0
    if section.activation_regularization:
        total = total + section.activation_regularization * read.float().square().mean()
    if section.temporal_regularization and len(features) > 1:
        total = (
            total + section.temporal_regularization * features.float().diff(dim=0).square().mean()
        )
    return len(features) * total


@torch.inference_mode()
def predictions(
    model: LanguageModel, windows: Iterable[Window], *, device: torch.device, precision: torch.dtype
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read a text window by window, the state carried between them, in evaluation mode and without gradients.

    Args:
        model: Put into evaluation mode, and back.
        windows: The text, once.
        device: Where the model is.
        precision: What matrix products are computed in.

    Yields:
        Logits in fp32, (tokens, vocabulary), and the targets that they predict, (tokens,); padding is left in.
    """
    was_training, states = model.training, None
    model.eval()
    try:
        for window in windows:
            inputs, targets = window.inputs.to(device), window.targets.to(device)
            states = None if window.resets_state else states
            parts, states = predict_window(model, inputs, targets, states, precision=precision)
            yield from parts
    finally:
        model.train(was_training)


@torch.inference_mode()
def score(
    model: LanguageModel,
    windows: Iterable[Window],
    *,
    device: torch.device,
    precision: torch.dtype,
    temperature: float = 1.0,
) -> Score:
    """Score a text, each token once.

    Args:
        model: As for `predictions`.
        windows: As for `predictions`.
        device: As for `predictions`.
        precision: As for `predictions`.
        temperature: What logits are divided by.

    Returns:
        The sums; of a model that reads both ways, the mean of its two directions.
    """
    nats = torch.zeros((), dtype=torch.float64, device=device)
    correct, tokens = torch.zeros((2,), dtype=torch.int64, device=device)
    for logits, targets in predictions(model, windows, device=device, precision=precision):
        tempered = logits if temperature == 1 else logits / temperature
        nats += functional.cross_entropy(tempered, targets, ignore_index=PADDING, reduction="sum")
        correct += (logits.argmax(dim=-1) == targets).sum()  # Padding is no id.
        tokens += (targets != PADDING).sum()
    directions = len(model.encoder.recurrences)
    return Score(float(nats) / directions, int(tokens) // directions, int(correct) / directions)


def _cross_entropy(
    projection: nn.Module, read: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the sum of the (smoothed) cross-entropy over tokens, and that of the plain one, without gradient.

    Args:
        projection: As for `summed_loss`.
        read: (tokens, width).
        targets: (tokens,).
        smoothing: As for `summed_loss`.
    """
    if isinstance(projection, AdaptiveSoftmax):
        present = targets != PADDING
        nats = -projection.target_log_probabilities(read[present], targets[present]).sum()
        return nats, nats.detach()
    logits = projection(read).float()
    nats = functional.cross_entropy(logits, targets, ignore_index=PADDING, reduction="sum")
    if not smoothing:
        return nats, nats.detach()
    smoothed = functional.cross_entropy(
        logits, targets, ignore_index=PADDING, reduction="sum", label_smoothing=smoothing
    )
    return smoothed, nats.detach()


class _InChunks(torch.autograd.Function):
    """A sum over rows with its gradients, formed chunk by chunk on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, compute: Compute, rows: Tensor, targets: Sequence[Tensor], *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        objective = nats = torch.zeros((), device=rows.device)
        ctx.found = [
            torch.empty_like(rows),
            *(torch.zeros_like(parameter) for parameter in parameters),
        ]
        sizes = [len(goals) for goals in targets]
        for part, place, goals in zip(
            torch.split(rows, sizes), torch.split(ctx.found[0], sizes), targets, strict=True
        ):
            with torch.enable_grad():
                leaf = part.detach().requires_grad_()
                added, added_nats = compute(leaf, goals)
                gradient, *others = torch.autograd.grad(
                    added, [leaf, *parameters], materialize_grads=True
                )
            place.copy_(gradient)
            torch._foreach_add_(ctx.found[1:], others)
            objective, nats = objective + added.detach(), nats + added_nats
        ctx.mark_non_differentiable(nats)
        return objective, nats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.found = ctx.found, None  # Scaled in place: they are not needed again.
        rows, *parameters = (tensor.mul_(gradient) for tensor in found)
        return None, rows, None, *parameters
