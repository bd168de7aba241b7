"""Token ids → vectors: learned, one-hot, or read from elsewhere."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.schema import Model as ModelSection


class OneHot(nn.Module):
    """A token's unit vector, as wide as the vocabulary: the first layer's input matrix is then what is learnt of it."""

    def __init__(self, vocabulary_size: int) -> None:
        """Make one for `vocabulary_size` ids."""
        super().__init__()
        self.embedding_dim = vocabulary_size
        self.register_buffer(
            "one", torch.ones(()), persistent=False
        )  # Of the type that is asked for.

    def forward(self, ids: Tensor) -> Tensor:
        """Return unit vectors: (...) → (..., vocabulary)."""
        return functional.one_hot(ids, self.embedding_dim) * cast(Tensor, self.one)


def make_embedding(section: ModelSection, vocabulary_size: int) -> nn.Embedding | OneHot:
    """Return the embedding that `section` names; one that is pretrained is random until `put_vectors`."""
    if section.embedding == "one_hot":
        return OneHot(vocabulary_size)
    embedding = nn.Embedding(vocabulary_size, section.embedding_size)
    embedding.weight.requires_grad_(not section.freeze_embedding)
    return embedding


@torch.no_grad()
def put_vectors(embedding: nn.Embedding, rows: Tensor, found: Tensor) -> None:
    """Put vectors read from elsewhere into an embedding.

    Rows that were not found stay random, drawn anew with the mean and the spread of those that were, so that a network
    cannot tell them by their size.

    Args:
        embedding: Of the same shape as `rows`.
        rows: (vocabulary, embedding).
        found: Which of them are known, (vocabulary,).
    """
    known = rows[found]
    spread, mean = torch.std_mean(known, dim=0, correction=0)
    drawn = torch.randn(rows.shape) * spread + mean
    embedding.weight.copy_(torch.where(found[:, None], rows, drawn))
