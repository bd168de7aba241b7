"""From a model and token ids to log-probabilities: the only path.

Targets are padded with −100, the index that torch's cross-entropy ignores.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.model.language_model import LanguageModel
from charlm.model.projection import AdaptiveSoftmax
from charlm.model.recurrence import States

# Largest number of logits computed at once: 4 MB in fp32, which a processor's caches hold, and
# 16 MB on a GPU.
_MAX_LOGITS_CPU = 2**20
_MAX_LOGITS_GPU = 2**22


class Prediction(NamedTuple):
    """Predictions of some tokens of a window.

    Attributes:
        logits: Logits in fp32, (tokens, vocabulary).
        targets: Ids that they predict, (tokens,), padding included.
    """

    logits: Tensor
    targets: Tensor


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the context in which a model on `device` computes its products in `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


def predict_window(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    states: States | None = None,
    *,
    precision: torch.dtype = torch.float32,
) -> tuple[Iterator[Prediction], States]:
    """Predict the tokens of a window, some at a time.

    The predictions are computed while they are iterated over, so that the logits of the whole
    window, (time x batch, vocabulary), are never in memory together.

    Args:
        model: Model in evaluation mode.
        inputs: Ids of the window, (time, batch).
        targets: Ids to predict, (time, batch).
        states: State of each layer before the window; None for the initial states.
        precision: Type in which matrix products are computed.

    Returns:
        Predictions, which together cover all tokens in order, and the states after the window.
    """
    with autocast(inputs.device, precision):
        features, states = model.encoder(inputs, states)
        adapted = model.adapt(features).flatten(0, 1)

    def predictions() -> Iterator[Prediction]:
        max_logits = _MAX_LOGITS_CPU if inputs.device.type == "cpu" else _MAX_LOGITS_GPU
        for rows, ids in split_tokens(
            model.projection, adapted, targets.flatten(), max_logits=max_logits
        ):
            with autocast(inputs.device, precision):
                logits = model.projection(rows)
            yield Prediction(logits.float(), ids)

    return predictions(), states


def target_log_probabilities(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    states: States | None = None,
    *,
    precision: torch.dtype = torch.float32,
    temperature: float = 1.0,
) -> tuple[Tensor, States]:
    """Compute the log-probability of each target of a window.

    Args:
        model: Model in evaluation mode.
        inputs: Ids of the window, (time, batch).
        targets: Ids to predict, (time, batch).
        states: State of each layer before the window; None for the initial states.
        precision: Type in which matrix products are computed.
        temperature: Number that logits are divided by.

    Returns:
        Natural logarithms in fp32, (time, batch), zero at padding, and the states after the window.
    """
    predictions, states = predict_window(model, inputs, targets, states, precision=precision)
    log_p = [log_probabilities_of(*prediction, temperature) for prediction in predictions]
    return torch.cat(log_p).view_as(targets), states


def differentiable_log_probabilities(
    model: LanguageModel,
    inputs: Tensor,
    targets: Tensor,
    states: States | None = None,
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, States]:
    """Compute the same as `target_log_probabilities` in fp32, with the graph for gradients.

    All logits are computed at once, because the graph keeps them in memory. An adaptive softmax
    computes only those of the targets' clusters. Targets must not be padded.
    """
    features, states = model.encoder(inputs, states)
    adapted = model.adapt(features).flatten(0, 1)
    if isinstance(model.projection, AdaptiveSoftmax) and temperature == 1:
        log_p = model.projection.target_log_probabilities(adapted, targets.flatten())
    else:
        log_p = log_probabilities_of(model.projection(adapted), targets.flatten(), temperature)
    return log_p.view_as(targets), states


def log_probabilities_of(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the targets' log-probabilities: (tokens, vocabulary), (tokens,) → (tokens,).

    Logits are divided by `temperature`; the result is zero at padding.
    """
    scaled = logits if temperature == 1 else logits / temperature
    return -functional.cross_entropy(scaled, targets, reduction="none")


def split_tokens(
    projection: nn.Module, *rows: Tensor, max_logits: int
) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors, each (tokens, ...), so that each piece has at most `max_logits` logits.

    A mixture computes the logits of each of its softmaxes. A piece has at least one token.
    """
    width = getattr(projection, "out_features", 1) * getattr(projection, "softmaxes", 1)
    tokens = max(1, max_logits // width)
    return zip(*(torch.split(tensor, tokens) for tensor in rows), strict=True)
