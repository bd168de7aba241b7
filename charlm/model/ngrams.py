"""Embeddings of a token's last n-grams: rows of hash tables, joined with the token's embedding."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.model.dropout import dropout_scale

# The largest prime below 2^26, and about that prime divided by the golden ratio. A product of two
# numbers below the prime, plus an id, is below 2^53: JavaScript, whose integers are floating-point
# numbers, computes the hash exactly.
PRIME = 67_108_859
FACTOR = 41_475_557
_INITIAL_DEVIATION = 0.05


class NgramEmbedding(nn.Module):
    """Rows of hash tables for the last 2, 3, ... tokens, as in BLT.

    Pagnoni et al. 2024 (arXiv:2412.09871), section 3.2.1, with another hash, tokens instead of
    bytes, and rows that are joined with the embedding instead of added to it:

        k_1 = x_t; k_n = (FACTOR k_(n-1) + x_(t-n+1)) mod PRIME; row_n = k_n mod buckets

    The hash depends on ids alone, so an id keeps its rows when a vocabulary grows. No n-gram
    crosses the start of a sequence: what stands before an <EOS>, id 0, counts as <EOS>.

    The last tokens are a part of the model's state, (batch, order - 1), the oldest one first. They
    are floating-point numbers, which hold ids below 2^24 exactly, so that every state of a model
    has one type.

    Attributes:
        order: Length of the longest n-grams.
        buckets: Number of rows for the n-grams of one length.
        width: Width of all rows of a token together.
        dropout: Fraction of the rows that is dropped in training.
        has_sparse_gradient: Whether the gradient holds the rows in use alone.
        weight: Rows of the 2-grams, then of the 3-grams and so on, (rows, row width).
    """

    def __init__(self, order: int, buckets: int, row_width: int, dropout: float = 0.0) -> None:
        """Create tables with random rows.

        Args:
            order: Length of the longest n-grams, at least 2.
            buckets: Number of rows for the n-grams of one length.
            row_width: Number of units of a row.
            dropout: Fraction of the rows that is dropped in training.
        """
        super().__init__()
        self.order = order
        self.buckets = buckets
        self.width = (order - 1) * row_width
        self.dropout = dropout
        self.has_sparse_gradient = False
        self.weight = nn.Parameter(torch.empty((order - 1) * buckets, row_width))
        nn.init.normal_(self.weight, std=_INITIAL_DEVIATION)

    def forward(self, ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Look up the rows of a window.

        Args:
            ids: Ids of the window, (time, batch).
            last: Last ids before the window, (batch, order - 1).

        Returns:
            Rows of the n-grams that end with each token, side by side, (time, batch, width), and
            the last ids of the window, (batch, order - 1).
        """
        history = torch.cat([last.t().to(ids.dtype), ids])
        rows = functional.embedding(
            self.rows(history), self.weight, sparse=self.has_sparse_gradient and self.training
        )
        if self.training and self.dropout:  # (time, batch, order - 1, row width)
            one_per_row = torch.Size([*rows.shape[:-1], 1])
            rows = rows * dropout_scale(one_per_row, self.dropout, like=rows)
        after = history[len(ids) :].t().to(last.dtype)
        return rows.flatten(2), after

    def rows(self, history: Tensor) -> Tensor:
        """Return the rows of n-grams.

        Args:
            history: Ids, (order - 1 + time, batch); n-grams end with those after the first
                order - 1.

        Returns:
            Numbers of rows of `weight`, (time, batch, order - 1).
        """
        first = self.order - 1
        newer = keys = history[first:]
        rows = []
        for distance in range(1, self.order):
            # The sign of an id is 0 for <EOS> and 1 for the others.
            older = history[first - distance : len(history) - distance] * newer.sign()
            keys = (keys * FACTOR + older) % PRIME
            rows.append(keys % self.buckets + (distance - 1) * self.buckets)
            newer = older
        return torch.stack(rows, dim=-1)
