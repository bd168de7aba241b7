"""Embeddings in two dimensions, and the nearest neighbours of each token."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from charlm.data.tokenizer import EOS, UNK
from charlm.errors import CharlmError
from charlm.evaluation.probes.passage import token_labels
from charlm.evaluation.static_model import Floats, Integers
from charlm.model.embedding import OneHot
from charlm.storage.results import Result
from charlm.trained_model import Trained, provenance

TOKENS = 200  # Number of most frequent tokens; more labels would cover each other.
NEIGHBOURS = 5


@dataclass(frozen=True)
class Neighbour(Result):
    """A token near another one.

    Attributes:
        label: Text of the token.
        cosine: Cosine of the angle between the two vectors.
    """

    label: str
    cosine: float


@dataclass(frozen=True)
class EmbeddedToken(Result):
    """A token in the plane of the first two principal components.

    Attributes:
        token: Id of the token.
        label: Text of the token.
        count: Number of occurrences in the training text.
        x: First principal component.
        y: Second principal component.
        neighbours: Nearest tokens by the cosine in all dimensions, the nearest one first.
    """

    token: int
    label: str
    count: int
    x: float
    y: float
    neighbours: list[Neighbour]


@dataclass(frozen=True)
class Embeddings(Result):
    """Embeddings of the most frequent tokens.

    Attributes:
        tokens: The tokens, the most frequent one first.
        variance: Fraction of the variance that each of the two components has.
        size: Number of dimensions of an embedding.
        settings: Run, version and so on.
    """

    tokens: list[EmbeddedToken]
    variance: list[float]
    size: int
    settings: dict[str, Any]


def measure_embeddings(trained: Trained[Any], *, tokens: int = TOKENS) -> Embeddings:
    """Return the embeddings of the most frequent tokens of a run's training text.

    Args:
        trained: The model, of any task.
        tokens: Largest number of tokens.

    Raises:
        CharlmError: The model has one-hot embeddings, or too few tokens.
    """
    embedding = vectors_of(trained)
    counts = np.array(trained.origin.corpus["train_token_counts"], dtype=np.int64)
    chosen = _most_frequent(counts, tokens)
    if len(chosen) < 3:
        raise CharlmError(f"{trained.folder}: the training text has {len(chosen)} different tokens")
    vectors = embedding.detach().double().numpy(force=True)[chosen]
    places, variance = principal_components(vectors)
    labels = token_labels(trained.tokenizer)
    neighbours = _neighbours(vectors, [labels[token] for token in chosen.tolist()])
    return Embeddings(
        tokens=[
            EmbeddedToken(
                token=token,
                label=labels[token],
                count=int(counts[token]),
                x=float(x),
                y=float(y),
                neighbours=near,
            )
            for token, (x, y), near in zip(chosen.tolist(), places, neighbours, strict=True)
        ],
        variance=variance,
        size=vectors.shape[1],
        settings=provenance(trained),
    )


def vectors_of(trained: Trained[Any]) -> Tensor:
    """Return the embedding of each token, (vocabulary, size).

    Raises:
        CharlmError: The embeddings are one-hot.
    """
    embedding = trained.model.encoder.embedding
    if isinstance(embedding, OneHot):
        raise CharlmError(f"{trained.folder}: one-hot tokens are all at the same distance")
    weight: Tensor = embedding.weight
    return weight


def principal_components(vectors: Floats) -> tuple[Floats, list[float]]:
    """Return the first two principal components, (tokens, 2), and their fractions of variance.

    The sign of a component is such that its largest value is positive, so that two drawings of the
    same vectors are equal.
    """
    centered = vectors - vectors.mean(axis=0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    places = np.zeros((len(vectors), 2))
    fractions = [0.0, 0.0]
    total = float((singular**2).sum())
    for component in range(min(2, len(singular))):
        column = left[:, component] * singular[component]
        places[:, component] = column * np.sign(column[np.argmax(np.abs(column))])
        fractions[component] = float(singular[component] ** 2) / total if total else 0.0
    return places, fractions


def _most_frequent(counts: Integers, tokens: int) -> Integers:
    """Return the ids of the most frequent tokens that occur, without <EOS> and <UNK>."""
    order = np.argsort(-counts, kind="stable")
    is_shown = (counts[order] > 0) & ~np.isin(order, (EOS, UNK))
    frequent: Integers = order[is_shown][:tokens]
    return frequent


def _neighbours(vectors: Floats, labels: list[str]) -> list[list[Neighbour]]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(labels) - 1)]
    return [
        [Neighbour(labels[other], float(row[other])) for other in others]
        for row, others in zip(cosines, order.tolist(), strict=True)
    ]
