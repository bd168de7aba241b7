"""Logits → tokens: the generation loop."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import EOS, UNK
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.sampling.filters import apply_temperature, keep_top_k, keep_top_p


@dataclass(frozen=True)
class Settings:
    """How a token is drawn.

    Attributes:
        temperature: 0 takes the most probable token.
        top_k: Draw from this many most probable tokens; None from all.
        top_p: Draw from the most probable tokens that together have this probability; None from all.

    Raises:
        CharlmError: One is out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.temperature >= 0:
            raise CharlmError(f"temperature must be 0 or more, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise CharlmError(f"top_k must be 1 or more, got {self.top_k}")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise CharlmError(f"top_p must lie from 0 to 1, got {self.top_p}")


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    numbers: Sequence[int],
    length: int,
    settings: Settings,
    seed: int,
    stops_at_eos: bool,
) -> Iterator[list[int | None]]:
    """Write sequences side by side, yielding the next token of each, None for one that has ended.

    Sequence number k of a seed draws the same random numbers whichever others are written beside it. <UNK> is never
    drawn: it stands for what the model cannot write.

    Args:
        model: In evaluation mode.
        prompt: Ids that every sequence begins with; the model reads <EOS> before them.
        numbers: Numbers of the sequences.
        length: Most tokens of each, the prompt not counted.
        settings: How a token is drawn.
        seed: Of the random numbers.
        stops_at_eos: Whether <EOS> ends a sequence.
    """
    device = next(model.parameters()).device
    randoms = [np.random.default_rng([seed, number]) for number in numbers]
    ids = torch.tensor([EOS, *prompt], device=device)[:, None].expand(-1, len(numbers))
    running = np.ones(len(numbers), dtype=bool)
    states = None
    for _ in range(length):
        logits, states = model(ids, states)
        uniform = torch.tensor([random.random() for random in randoms], dtype=torch.float64, device=device)
        chosen = draw(logits[-1], uniform, settings)
        tokens = chosen.tolist()
        yield [token if alive else None for token, alive in zip(tokens, running, strict=True)]
        if stops_at_eos:
            running &= np.array(tokens) != EOS
        if not running.any():
            return
        ids = chosen[None]


def draw(logits: Tensor, uniform: Tensor, settings: Settings) -> Tensor:
    """Draw a token of each row by inverting the cumulative distribution.

    Args:
        logits: (batch, vocabulary).
        uniform: A number in [0, 1) a row, float64, (batch,).
        settings: Filters, applied in the order temperature, top k, top p.

    Returns:
        Ids, (batch,).
    """
    logits = logits.to(torch.float64, copy=True)
    logits[:, UNK] = -torch.inf
    if settings.temperature == 0:
        return logits.argmax(dim=-1)
    logits = apply_temperature(logits, settings.temperature)
    if settings.top_k is not None:
        logits = keep_top_k(logits, settings.top_k)
    if settings.top_p is not None and settings.top_p < 1:
        logits = keep_top_p(logits, settings.top_p)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # The sum is 1 but for rounding; below it, so that no token of probability zero is ever reached.
    target = torch.minimum(uniform, torch.nextafter(cumulative[:, -1], uniform.new_zeros(())))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
