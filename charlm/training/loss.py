"""Cross-entropy summed over time; what a model scores on a text."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from charlm.data.windows import PADDING, Window
from charlm.model.language_model import LanguageModel
from charlm.training.hardware import autocast


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


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return J = Σ_t L_t, the cross-entropy summed over time and averaged over the batch.

    Args:
        logits: (time, batch, vocabulary).
        targets: (time, batch); padding is not counted.
    """
    return _summed(logits, targets) / targets.shape[1]


@torch.inference_mode()
def score(model: LanguageModel, windows: Iterable[Window], *, device: torch.device, precision: torch.dtype) -> Score:
    """Score a text window by window, the state carried between them.

    Args:
        model: Put into evaluation mode, and back.
        windows: The text, once.
        device: Where the model is.
        precision: What matrix products are computed in.

    Returns:
        The sums; of a model that reads both ways, the mean of its two directions.
    """
    was_training = model.training
    model.eval()
    nats = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    tokens, states = 0, None
    for window in windows:
        inputs, targets = window.inputs.to(device), window.targets.to(device)
        with autocast(device, precision):
            logits, states = model(inputs, None if window.fresh else states)
        nats += _summed(logits, targets)
        correct += (logits.argmax(dim=-1) == targets).sum()
        tokens += window.tokens
    model.train(was_training)
    directions = len(model.recurrences)
    return Score(float(nats) / directions, tokens // directions, int(correct) / directions)


def _summed(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=PADDING, reduction="sum"
    )
