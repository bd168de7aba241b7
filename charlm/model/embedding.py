"""Token ids to vectors: learned, one-hot, or read from a file of vectors."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.config.model import Model as ModelSection


class OneHot(nn.Module):
    """The unit vector of a token, as wide as the vocabulary.

    The first layer's input matrix then takes the place of the embedding.

    Attributes:
        embedding_dim: Number of ids, which is the width of a vector.
    """

    def __init__(self, vocabulary_size: int) -> None:
        """Create an embedding of `vocabulary_size` ids."""
        super().__init__()
        self.embedding_dim = vocabulary_size
        # A buffer has the type and device that the module is moved to.
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return unit vectors: (...) → (..., vocabulary)."""
        return functional.one_hot(ids, self.embedding_dim) * cast(Tensor, self.one)


def make_embedding(section: ModelSection, vocabulary_size: int) -> nn.Embedding | OneHot:
    """Create the embedding that `section` describes.

    A pretrained embedding is random until `put_vectors`.
    """
    if section.embedding == "one_hot":
        return OneHot(vocabulary_size)
    embedding = nn.Embedding(vocabulary_size, section.embedding_size)
    embedding.weight.requires_grad_(not section.freeze_embedding)
    return embedding


@torch.no_grad()
def put_vectors(embedding: nn.Embedding, vectors: Tensor, is_known: Tensor) -> None:
    """Put vectors that were read from a file into an embedding.

    The other rows are drawn with the mean and the standard deviation of the known ones, so that a
    network cannot recognize them by their size.

    Args:
        embedding: Embedding of the same shape as `vectors`.
        vectors: Vectors in the order of the ids, (vocabulary, embedding).
        is_known: Whether the vector of an id is known, (vocabulary,).
    """
    known = vectors[is_known]
    deviation, mean = torch.std_mean(known, dim=0, correction=0)
    drawn = torch.randn(vectors.shape) * deviation + mean
    embedding.weight.copy_(torch.where(is_known[:, None], vectors, drawn))
