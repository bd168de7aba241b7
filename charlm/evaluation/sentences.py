"""How probable a model holds whole sequences, each by itself: what a ranking or a minimal pair is decided by."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from charlm.data.tokenizer import EOS
from charlm.data.windows import PADDING
from charlm.model.language_model import LanguageModel

_TOKENS_AT_ONCE = 4096  # Their logits over a large vocabulary take a few hundred megabytes.


@torch.inference_mode()
def log_probabilities(
    model: LanguageModel, sequences: Sequence[Sequence[int]], *, device: torch.device, batch_size: int = 64
) -> list[float]:
    """Return the natural logarithm of each sequence's probability, each token predicted once.

    Every sequence is read from the initial state with <EOS> as first input, as a record is. A `backward` model reads
    it reversed, from its last token to its first; <EOS> at its end ends it still. With `both`, the logarithms of the
    two directions are added up: a score to rank by, no probability.

    Args:
        model: On `device`; put into evaluation mode, and back.
        sequences: Ids, with <EOS> at the end where that the sequence ends there is to be predicted too.
        device: Where to compute.
        batch_size: Sequences read side by side, those of like length together.

    Returns:
        Nats, at most zero, in the order of `sequences`; zero for an empty one.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
    found = [0.0] * len(sequences)
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        columns = _columns(model.direction, [sequences[number] for number in batch])
        sums = _summed(model, columns, device).view(-1, len(batch)).sum(dim=0)  # (directions, batch) → (batch,)
        for number, nats in zip(batch, sums.tolist(), strict=True):
            found[number] = nats
    model.train(was_training)
    return found


def _columns(direction: str, sequences: list[Sequence[int]]) -> list[Sequence[int]]:
    """Return what the model reads side by side; with `both`, every sequence and then every one reversed."""
    forward = sequences if direction != "backward" else []
    backward = [_reversed(ids) for ids in sequences] if direction != "forward" else []
    return [*forward, *backward]


def _reversed(ids: Sequence[int]) -> Sequence[int]:
    end = len(ids) - 1 if len(ids) and ids[-1] == EOS else len(ids)
    return [*ids[:end][::-1], *ids[end:]]


def _summed(model: LanguageModel, columns: list[Sequence[int]], device: torch.device) -> Tensor:
    """Return each column's log-probability, (columns,), in float64: a long sum of small terms loses digits in less."""
    inputs, targets = _padded(columns, device)
    sums = torch.zeros(len(columns), dtype=torch.float64, device=device)
    window, states = max(1, _TOKENS_AT_ONCE // len(columns)), None
    for first in range(0, len(targets), window):
        asked = targets[first : first + window]
        logits, states = model(inputs[first : first + window], states)
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), asked.flatten(), ignore_index=PADDING, reduction="none"
        )
        sums -= losses.view_as(asked).double().sum(dim=0)
    return sums


def _padded(columns: list[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (time, columns), padded at the end."""
    targets = torch.full((max(map(len, columns)), len(columns)), PADDING)
    for number, ids in enumerate(columns):
        targets[: len(ids), number] = torch.tensor(ids, dtype=torch.int64)
    inputs = targets.roll(1, dims=0)
    inputs[:1] = EOS
    return inputs.masked_fill(targets == PADDING, EOS).to(device), targets.to(device)
