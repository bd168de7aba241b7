"""Drawing tokens: random numbers of each sequence, its text so far, and the choice of a token."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import UNK
from charlm.sampling.filters import apply_filters
from charlm.sampling.options import Filters

_RANDOM_BLOCK = 64  # Random numbers of a sequence that are drawn at once.
_BELOW_ONE = 1 - 2.0**-52


class RandomNumbers:
    """The random numbers of some sequences.

    Attributes:
        num_drawn: How many random numbers each sequence has used.
    """

    def __init__(self, seed: int, numbers: Sequence[int], num_drawn: int = 0) -> None:
        """Begin after the first numbers.

        Args:
            seed: Seed that the sequences have in common.
            numbers: Number of each sequence.
            num_drawn: How many random numbers each sequence has used before.
        """
        self.num_drawn = num_drawn
        # The bit generator and seeds of `numpy.random.default_rng([seed, number])`.
        self._generators = [
            np.random.Generator(np.random.PCG64([seed, number]).advance(num_drawn))
            for number in numbers
        ]
        self._block: Iterator[list[float]] = iter(())

    def draw(self) -> list[float]:
        """Return the next random number of each sequence, in [0, 1)."""
        self.num_drawn += 1
        uniform = next(self._block, None)
        if uniform is None:
            columns = [generator.random(_RANDOM_BLOCK) for generator in self._generators]
            self._block = iter(np.stack(columns, axis=1).tolist())
            uniform = next(self._block)
        return uniform


class History:
    """The ids of every sequence so far, in a buffer that doubles."""

    def __init__(self, ids: Sequence[int], batch: int, device: torch.device) -> None:
        """Begin with the same ids in each of `batch` sequences."""
        self._length = len(ids)
        self._buffer = torch.zeros(batch, max(64, 2 * len(ids)), dtype=torch.int64, device=device)
        self._buffer[:, : len(ids)] = torch.tensor(ids, dtype=torch.int64)

    @property
    def ids(self) -> Tensor:
        """Ids so far, (batch, tokens)."""
        return self._buffer[:, : self._length]

    def append(self, chosen: Tensor) -> None:
        """Add the next token of each sequence, (batch,)."""
        if self._length == self._buffer.shape[1]:
            self._buffer = torch.cat([self._buffer, torch.zeros_like(self._buffer)], dim=1)
        self._buffer[:, self._length] = chosen
        self._length += 1

    def drop(self, tokens: int) -> None:
        """Remove the last tokens; without effect on a history that is not kept."""
        self._length = max(0, self._length - tokens)


def draw(
    logits: Tensor,
    uniform: Tensor,
    filters: Filters,
    history: Tensor,
    *,
    num_earlier: int = 0,
) -> Tensor:
    """Draw a token of each row by inverting the cumulative distribution.

    Args:
        logits: Logits from `without_unknown`, (batch, vocabulary).
        uniform: Random number of each row in [0, 1), float64, (batch,).
        filters: Filters to apply.
        history: Ids of the text so far, (batch, tokens).
        num_earlier: Number of ids of the history that are not new text.

    Returns:
        Ids, (batch,).
    """
    logits = apply_filters(logits, history, filters, num_earlier)
    if filters.temperature == 0:
        return logits.argmax(dim=-1)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    # The sum is 1 up to rounding; the target stays below it, so that no token of probability zero
    # is ever reached.
    target = uniform[:, None] * (cumulative[:, -1:] * _BELOW_ONE)
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def alternatives(log_probabilities: Tensor, chosen: Tensor, count: int) -> list[dict[int, float]]:
    """Return the log-probabilities of the chosen token and of the most probable ones, by id.

    Args:
        log_probabilities: Natural logarithms, (tokens, vocabulary).
        chosen: Ids, (tokens,).
        count: Number of most probable tokens.
    """
    top = log_probabilities.topk(min(count, log_probabilities.shape[-1]), dim=-1)
    ids = torch.cat([top.indices, chosen[:, None]], dim=-1)
    values = log_probabilities.gather(-1, ids)
    return [
        dict(zip(row, scores, strict=True))
        for row, scores in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def without_unknown(logits: Tensor) -> Tensor:
    """Return a copy in float64 from which <UNK> is never drawn."""
    logits = logits.to(torch.float64, copy=True)
    logits.select(-1, UNK).fill_(-torch.inf)
    return logits
