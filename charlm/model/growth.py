"""Weights for a vocabulary with more tokens: old rows stay, and new rows start from old ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from charlm.config.model import Model as ModelSection
from charlm.errors import ConfigError
from charlm.model.language_model import named_weights
from charlm.model.uninitialized import model_of_shapes


@dataclass(frozen=True)
class NewTokens:
    """Tokens that are appended to a vocabulary.

    Attributes:
        relatives: For each new token the old one whose rows it starts with; None for the mean of
            the old rows.
        frequencies: Fraction of the new text that each new token makes up, (new tokens,).
        old_frequencies: Fraction of the old text that each old token made up, all above zero,
            (old tokens,).
    """

    relatives: Sequence[int | None]
    frequencies: Tensor
    old_frequencies: Tensor


def grown_weights(
    weights: Mapping[str, Tensor], section: ModelSection, new: NewTokens
) -> dict[str, Tensor]:
    """Return the weights of a model whose vocabulary has new tokens at its end.

    Every dimension of a weight that grows with the vocabulary is extended. All other weights, and
    the rows of the old tokens, stay as they are. The old tokens therefore keep their probabilities,
    except for what the new tokens receive: p'(x) = p(x) (1 - m), where m is the probability of all
    new tokens together. In a mixture, that is true of each of its softmaxes; in an adaptive
    softmax, of the last cluster, which the new tokens join, and the others stay as they are.

    The bias of a new token is that of its relative, plus the logarithm of its frequency in the new
    text relative to the relative's frequency in the old text; for a token without a relative, the
    means over all old tokens take the relative's place.

    Args:
        weights: Weights of the old model by their names in files.
        section: Configuration of both models.
        new: The new tokens.

    Raises:
        ConfigError: The old tokens would not keep their probabilities.
    """
    _require_growth(section)
    num_old = len(new.old_frequencies)
    old_shapes = _shapes(section, num_old)
    new_shapes = _shapes(section, num_old + len(new.relatives))
    grown = {}
    for name, weight in weights.items():
        old_shape, new_shape = old_shapes[name], new_shapes[name]
        for dim, (size, new_size) in enumerate(zip(old_shape, new_shape, strict=True)):
            if new_size != size:
                weight = _extended(weight, dim, new)
        if weight.ndim == 1 and new_shape != old_shape:
            weight[num_old:] += _relative_frequencies(new)
        grown[name] = weight
    return grown


def _require_growth(section: ModelSection) -> None:
    """Raise ConfigError if new tokens would change what the network computes of the old ones.

    With one-hot vectors, the stream of blocks, the inner layer of a mixture, and the state of a bag
    are as wide as the vocabulary.
    """
    parts = {
        "block": section.block != "none",
        "mixture": section.mixture > 1,
        "layer_norm": section.cell.kind == "bag" and section.layer_norm,
        "initial_state": section.cell.kind == "bag" and section.initial_state == "learned",
    }
    wide = [part for part, is_wide in parts.items() if is_wide]
    if section.embedding == "one_hot" and wide:
        raise ConfigError(
            f"model.{wide[0]}: with embedding: one_hot, this part is as wide as the vocabulary, "
            f"and no token can be added, got {getattr(section, wide[0])}; use "
            "--from-vocabulary keep"
        )


def _shapes(section: ModelSection, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    model = model_of_shapes(section, vocabulary_size)
    return {name: tuple(parameter.shape) for name, parameter in named_weights(model)}


def _extended(weight: Tensor, dim: int, new: NewTokens) -> Tensor:
    """Return a weight with a row for each new token.

    A cluster of an adaptive softmax has rows of the last ids only. Beside one-hot vectors, rows of
    n-grams follow those of the vocabulary.

    Args:
        weight: Old weight.
        dim: Dimension of the rows.
        new: The new tokens.
    """
    num_old = len(new.old_frequencies)
    rows, rows_of_ngrams = weight.movedim(dim, 0).tensor_split([num_old])
    first_id = num_old - len(rows)
    mean = rows.mean(dim=0)
    added = [
        mean if relative is None or relative < first_id else rows[relative - first_id]
        for relative in new.relatives
    ]
    return torch.cat([rows, torch.stack(added), rows_of_ngrams]).movedim(0, dim).contiguous()


def _relative_frequencies(new: NewTokens) -> Tensor:
    """Return log f(new token) - log f(relative) for each new token, (new tokens,)."""
    old = new.old_frequencies.log()
    mean = old.mean()
    of_relatives = [mean if relative is None else old[relative] for relative in new.relatives]
    return new.frequencies.log() - torch.stack(of_relatives)
