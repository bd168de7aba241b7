"""Cross-entropy summed over time, and the score of a text."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.training import Training as TrainingSection
from charlm.data.windows.window import PADDING, Window
from charlm.model.any_model import AnyModel
from charlm.model.label_model import LabelModel, predict_labels
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import (
    Prediction,
    evaluation_mode,
    predict_window,
    split_tokens,
)
from charlm.model.projection import AdaptiveSoftmax

# Logits per chunk: 16 megabytes in fp32. More do not stay in the caches between two operations.
_MAX_LOGITS = 2**22


@dataclass(frozen=True)
class Score:
    """Sums over the predicted tokens of a text.

    Attributes:
        nats: Cross-entropy, summed over the tokens.
        tokens: Number of predicted tokens, <EOS> included.
        correct: Number of tokens that were the most probable ones.
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
        """Return bits per unit, where `units` is the text's number of characters or bytes."""
        return self.nats / (math.log(2) * max(units, 1))


class CrossEntropy(NamedTuple):
    """The cross-entropy of some tokens.

    Attributes:
        objective: What is minimized: with label smoothing, and with a gradient.
        nats: The plain cross-entropy, summed over the tokens, without a gradient.
    """

    objective: Tensor
    nats: Tensor


# Inputs of the projection, (tokens, width), and targets, (tokens,) → their cross-entropy.
_SumLoss = Callable[[Tensor, Tensor], CrossEntropy]


def summed_cross_entropy(
    inputs: Tensor,
    targets: Tensor,
    *,
    projection: nn.Module,
    smoothing: float = 0.0,
    batch_size: float | None = None,
) -> CrossEntropy:
    """Return J = Σ_t L_t, the cross-entropy summed over time and averaged over the batch.

    Large logits are computed in chunks of tokens together with their gradients, so that no tensor
    of shape (time, batch, vocabulary) is ever in memory.

    Args:
        inputs: Inputs of the projection, (time, batch, width).
        targets: Target ids, (time, batch); padding does not count.
        projection: Module that returns logits or log-probabilities.
        smoothing: Part of a target's probability that is spread evenly over the vocabulary (Szegedy
            et al. 2016, arXiv:1512.00567, section 7). An adaptive softmax ignores it.
        batch_size: Size of the batch that these columns are a part of; by default their number.
    """

    def sum_loss(inputs: Tensor, targets: Tensor) -> CrossEntropy:
        return _cross_entropy(projection, inputs, targets, smoothing)

    chunks = list(
        split_tokens(projection, inputs.flatten(0, 1), targets.flatten(), max_logits=_MAX_LOGITS)
    )
    if len(chunks) == 1:
        objective, nats = sum_loss(*chunks[0])
    else:
        objective, nats = _sum_in_chunks(sum_loss, inputs.flatten(0, 1), chunks, projection)
    return CrossEntropy(objective=objective / (batch_size or targets.shape[1]), nats=nats)


def regularization(
    section: TrainingSection, features: Tensor, projected: Tensor, is_predicted: Tensor
) -> Tensor | float:
    """Return the penalty on large and on changing activations: AR and TAR of Merity et al. 2018.

    With z the features, y the inputs of the projection, T the time, and means over the units:

        (1 / columns) Σ_columns (a Σ_t mean(y_t²) + b T / (T − 1) Σ_t mean((z_t − z_{t−1})²))

    Without padding it is T (a mean(y²) + b mean((z_t − z_{t−1})²)): that of arXiv:1708.02182,
    section 4.6, which is added to a mean over tokens, times T, because J is a sum over time.

    Args:
        section: Weights of AR and TAR, a and b.
        features: Output of the recurrence, (time, columns, hidden).
        projected: Inputs of the projection, after dropout, (time, columns, width).
        is_predicted: Whether a token is predicted after a position, (time, columns): the sums are
            over these positions, and over the changes between two of them.
    """
    penalty: Tensor | float = 0.0
    if section.activation_regularization:
        size = _mean_square(projected, is_predicted)
        penalty = penalty + section.activation_regularization * size
    if section.temporal_regularization and len(features) > 1:
        are_predicted = is_predicted[1:] & is_predicted[:-1]
        change = _mean_square(features.float().diff(dim=0), are_predicted)
        penalty = penalty + section.temporal_regularization * change
    return len(features) * penalty


def _mean_square(values: Tensor, is_counted: Tensor) -> Tensor:
    """Return the mean square of values, (time, columns, units); those not counted are zero."""
    return (values.float().square() * is_counted[..., None]).mean()


@torch.inference_mode()
def predict_windows(
    model: AnyModel, windows: Iterable[Window], *, device: torch.device, precision: torch.dtype
) -> Iterator[Prediction]:
    """Predict the tokens of a text window by window, with the state carried between windows.

    A model of labels reads whole records, and predicts their labels.

    Args:
        model: Model, in evaluation mode during the iteration.
        windows: Windows of the text.
        device: Device of the model.
        precision: Type of the matrix products.

    Yields:
        Logits in fp32, (tokens, vocabulary), and their targets, (tokens,), padding included.
    """
    states = None
    with evaluation_mode(model):
        for window in windows:
            inputs, targets = window.inputs.to(device), window.targets.to(device)
            if isinstance(model, LabelModel):
                yield predict_labels(model, inputs, targets, precision=precision)
                continue
            states = None if window.resets_state else states
            parts, states = predict_window(model, inputs, targets, states, precision=precision)
            yield from parts


@torch.inference_mode()
def score(
    model: AnyModel,
    windows: Iterable[Window],
    *,
    device: torch.device,
    precision: torch.dtype,
    temperature: float = 1.0,
    should_end: Callable[[int], bool] = lambda rows: False,
) -> Score:
    """Score a text, each token once.

    Args:
        model: Model, in evaluation mode during the call.
        windows: Windows of the text.
        device: Device of the model.
        precision: Type of the matrix products.
        temperature: Divisor of the logits.
        should_end: Function that is called with the number of rows of every prediction, padding
            included; if it returns True, the tokens before them are the result.

    Returns:
        Sums over the tokens; for a language model of both directions, the mean of the two.
    """
    nats = torch.zeros((), dtype=torch.float64, device=device)
    correct, tokens = torch.zeros((2,), dtype=torch.int64, device=device)
    for logits, targets in predict_windows(model, windows, device=device, precision=precision):
        if should_end(len(targets)):
            break
        scaled = logits if temperature == 1 else logits / temperature
        nats += functional.cross_entropy(scaled, targets, ignore_index=PADDING, reduction="sum")
        correct += (logits.argmax(dim=-1) == targets).sum()  # Padding equals no id.
        tokens += (targets != PADDING).sum()
    directions = len(model.encoder.recurrences) if isinstance(model, LanguageModel) else 1
    return Score(
        nats=float(nats) / directions,
        tokens=int(tokens) // directions,
        correct=int(correct) / directions,
    )


def _cross_entropy(
    projection: nn.Module, inputs: Tensor, targets: Tensor, smoothing: float
) -> CrossEntropy:
    """Return the cross-entropy summed over tokens, with and without smoothing.

    Args:
        projection: Module that returns logits or log-probabilities.
        inputs: Inputs of the projection, (tokens, width).
        targets: Target ids, (tokens,).
        smoothing: Part of a target's probability that is spread over the vocabulary.
    """
    if isinstance(projection, AdaptiveSoftmax):
        present = targets != PADDING
        nats = -projection.target_log_probabilities(inputs[present], targets[present]).sum()
        return CrossEntropy(objective=nats, nats=nats.detach())
    log_probabilities = functional.log_softmax(projection(inputs).float(), dim=-1)
    nats = functional.nll_loss(log_probabilities, targets, ignore_index=PADDING, reduction="sum")
    if not smoothing:
        return CrossEntropy(objective=nats, nats=nats.detach())
    uniform = -log_probabilities.sum(dim=-1).masked_fill(targets == PADDING, 0).sum()
    objective = (1 - smoothing) * nats + smoothing / log_probabilities.shape[-1] * uniform
    return CrossEntropy(objective=objective, nats=nats.detach())


def _sum_in_chunks(
    sum_loss: _SumLoss, rows: Tensor, chunks: Sequence[tuple[Tensor, ...]], projection: nn.Module
) -> CrossEntropy:
    """Return the loss of all rows, computed with its gradients one chunk after another.

    Args:
        sum_loss: Function that returns the loss of a chunk.
        rows: Inputs of the projection, (tokens, width).
        chunks: Rows and targets of each chunk.
        projection: Module whose parameters have gradients.
    """
    parameters = [parameter for parameter in projection.parameters() if parameter.requires_grad]
    targets = [chunk_targets for _, chunk_targets in chunks]
    apply = cast(Callable[..., tuple[Tensor, Tensor]], _ChunkedLoss.apply)
    return CrossEntropy(*apply(sum_loss, rows, targets, *parameters))


class _ChunkedLoss(torch.autograd.Function):
    """A loss summed over chunks of rows. The forward pass also computes the gradients.

    The gradients of a chunk are computed as soon as its loss, and its logits are freed before the
    next chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, sum_loss: _SumLoss, rows: Tensor, targets: Sequence[Tensor], *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        objective = nats = torch.zeros((), device=rows.device)
        row_gradients = torch.empty_like(rows)
        parameter_gradients = [torch.zeros_like(parameter) for parameter in parameters]
        sizes = [len(chunk) for chunk in targets]
        for chunk, chunk_gradient, chunk_targets in zip(
            torch.split(rows, sizes), torch.split(row_gradients, sizes), targets, strict=True
        ):
            with torch.enable_grad():
                leaf = chunk.detach().requires_grad_()
                loss = sum_loss(leaf, chunk_targets)
                gradient, *increments = torch.autograd.grad(
                    loss.objective, [leaf, *parameters], materialize_grads=True
                )
            chunk_gradient.copy_(gradient)
            torch._foreach_add_(parameter_gradients, increments)
            objective = objective + loss.objective.detach()
            nats = nats + loss.nats
        ctx.gradients = [row_gradients, *parameter_gradients]
        ctx.mark_non_differentiable(nats)
        return objective, nats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # Used once, so they are scaled in place.
        rows, *parameters = (tensor.mul_(gradient) for tensor in gradients)
        return None, rows, None, *parameters
