"""From a model and token ids to log-probabilities: the only path."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.model.language_model import PADDING, LanguageModel
from charlm.model.projection import AdaptiveSoftmax
from charlm.model.recurrence import States
from charlm.model.translation_model import TokenModel

# Largest number of logits computed at once: 4 MB in fp32, which a processor's caches hold, and
# 16 MB on a GPU.
_MAX_LOGITS_CPU = 2**20
_MAX_LOGITS_GPU = 2**22
_TOKENS_PER_WINDOW = 4096  # Tokens of a window, in all sequences of a batch together.


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


@contextmanager
def without_tf32() -> Iterator[None]:
    """Multiply fp32 in fp32, and restore the settings of the process afterwards.

    By default cuDNN multiplies fp32 as TF32, with 10 bits of mantissa instead of 23, and so does
    cuBLAS during training.
    """
    allow_tf32 = torch.backends.cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allow_tf32
        torch.set_float32_matmul_precision(products)


@contextmanager
def scoring(device: torch.device, precision: torch.dtype) -> Iterator[None]:
    """Compute products in `precision`, and fp32 without TF32."""
    with without_tf32(), autocast(device, precision):
        yield


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and restore its mode afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def predict_window(
    model: TokenModel,
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
        Predictions, which together cover all targets in order, and the states after the window.
    """
    with scoring(inputs.device, precision):
        features, targets, states = model.read(inputs, targets, states)
        adapted = model.adapt(features).flatten(0, 1)

    def predictions() -> Iterator[Prediction]:
        max_logits = _MAX_LOGITS_CPU if inputs.device.type == "cpu" else _MAX_LOGITS_GPU
        for rows, ids in split_tokens(
            model.projection, adapted, targets.flatten(), max_logits=max_logits
        ):
            with scoring(inputs.device, precision):
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


@without_tf32()
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


@torch.inference_mode()
def sequence_log_probabilities(
    model: LanguageModel,
    sequences: Sequence[Sequence[int]],
    *,
    eos: int,
    device: torch.device,
    batch_size: int = 64,
) -> list[float]:
    """Return the natural logarithm of each sequence's probability, each token predicted once.

    Every sequence is read from the initial state with <EOS> as the first input, as a record is. A
    `backward` model reads it from its last token to its first; an <EOS> at the end stays there.
    With `both` the result is the sum of both directions: a score to rank by, not a probability.

    Args:
        model: Model on `device`; it is put into evaluation mode and back.
        sequences: Ids of each sequence, with <EOS> at the end if the end is to be predicted too.
        eos: Id of <EOS>.
        device: Device of the model.
        batch_size: Number of sequences read side by side; they are sorted by length.

    Returns:
        Nats, at most zero, in the order of `sequences`; zero for an empty sequence.
    """
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    totals = [0.0] * len(sequences)
    with evaluation_mode(model):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            columns = _directed(model.direction, [sequences[number] for number in batch], eos)
            sums = _column_log_probabilities(model, columns, eos, device)
            nats = sums.view(-1, len(batch)).sum(dim=0).tolist()  # Summed over the directions.
            for number, of_sequence in zip(batch, nats, strict=True):
                totals[number] = of_sequence
    return totals


def _directed(direction: str, sequences: list[Sequence[int]], eos: int) -> list[Sequence[int]]:
    """Return the sequences in reading order; with `both`, all forward ones, then all backward."""
    forward = sequences if direction != "backward" else []
    backward = [_reverse(ids, eos) for ids in sequences] if direction != "forward" else []
    return [*forward, *backward]


def _reverse(ids: Sequence[int], eos: int) -> Sequence[int]:
    end = len(ids) - 1 if len(ids) and ids[-1] == eos else len(ids)
    return [*ids[:end][::-1], *ids[end:]]


def _column_log_probabilities(
    model: LanguageModel, columns: list[Sequence[int]], eos: int, device: torch.device
) -> Tensor:
    """Return the log-probability of each column, (columns,), in float64."""
    inputs, targets = _pad(columns, eos)
    # In float64, because a long sum of small terms loses digits in fp32.
    sums = torch.zeros(len(columns), dtype=torch.float64, device=device)
    states = None
    size = max(1, _TOKENS_PER_WINDOW // len(columns))
    for first in range(0, len(targets), size):
        window = slice(first, first + size)
        log_p, states = target_log_probabilities(
            model, inputs[window].to(device), targets[window].to(device), states
        )
        sums += log_p.double().sum(dim=0)
    return sums


def _pad(columns: list[Sequence[int]], eos: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (time, columns), padded at the end."""
    targets = torch.full((max(map(len, columns)), len(columns)), PADDING)
    for number, ids in enumerate(columns):
        targets[: len(ids), number] = torch.tensor(ids, dtype=torch.int64)
    inputs = targets.roll(1, dims=0)
    inputs[:1] = eos
    return inputs.masked_fill(targets == PADDING, eos), targets


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
