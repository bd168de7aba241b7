"""Additive attention: a weighted mean of the features of a source for each token of a target."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Entries of the largest tensor, (target, source, batch, units); more are computed in parts.
_MAX_ENTRIES = 2**24


class Memory(NamedTuple):
    """What a decoder attends to.

    Attributes:
        features: Features of the source tokens, (source, batch, features).
        keys: Their part of the scores, U h, (source, batch, units).
        is_read: Whether a token is one of the source and no padding, (source, batch).
    """

    features: Tensor
    keys: Tensor
    is_read: Tensor


class AdditiveAttention(nn.Module):
    """Attention with a network of one hidden layer: Bahdanau et al. 2015 (arXiv:1409.0473).

    e_ij = v · tanh(W s_i + U h_j), a_i = softmax_j(e_ij), c_i = Σ_j a_ij h_j (section 3.1 and
    appendix A.1.2), and s_i + C c_i is what the projection sees.

    There s_i is the state before target token i is written, and c_i is an input of the recurrence.
    Here s_i is the output of the recurrence, which does not see c_i, as in Luong et al. 2015
    (arXiv:1508.04025, section 3.1): so the recurrence reads a whole target at once.

    Attributes:
        query: W, (units, target features).
        key: U, (units, source features).
        score: v, (1, units).
        output: C, (target features, source features).
    """

    def __init__(self, target_size: int, source_size: int, num_units: int) -> None:
        """Create an attention with initial weights from torch's global generator.

        Args:
            target_size: Width of the features of a target.
            source_size: Width of the features of a source.
            num_units: Width of the hidden layer.
        """
        super().__init__()
        self.query = nn.Linear(target_size, num_units)
        self.key = nn.Linear(source_size, num_units, bias=False)
        self.score = nn.Linear(num_units, 1, bias=False)
        self.output = nn.Linear(source_size, target_size, bias=False)

    def remember(self, features: Tensor, is_read: Tensor) -> Memory:
        """Return what is attended to, from features of a source; see `Memory`."""
        return Memory(features, self.key(features), is_read)

    def forward(self, features: Tensor, memory: Memory) -> Tensor:
        """Add the context of each target token to its features, (target, batch, features)."""
        queries = self.query(features)
        size = max(1, _MAX_ENTRIES // memory.keys.numel())
        parts = queries.split(size)
        if len(parts) == 1 or not torch.is_grad_enabled():
            contexts = [self._context(part, *memory) for part in parts]
        else:  # The backward pass computes each part again, instead of keeping its scores.
            contexts = [
                checkpoint(self._context, part, *memory, use_reentrant=False) for part in parts
            ]
        added: Tensor = self.output(torch.cat(contexts))
        return features + added

    def weights(self, features: Tensor, memory: Memory) -> Tensor:
        """Return the weights a_ij of the source tokens, (target, source, batch)."""
        return self._weights(self.query(features), memory.keys, memory.is_read)

    def _weights(self, queries: Tensor, keys: Tensor, is_read: Tensor) -> Tensor:
        scores = self.score(torch.tanh(queries[:, None] + keys)).squeeze(-1).float()
        weights: Tensor = scores.masked_fill(~is_read, -torch.inf).softmax(dim=1)
        return weights

    def _context(self, queries: Tensor, features: Tensor, keys: Tensor, is_read: Tensor) -> Tensor:
        weights = self._weights(queries, keys, is_read).to(features.dtype)
        return torch.einsum("tsb,sbf->tbf", weights, features)
