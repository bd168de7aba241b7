"""What the recurrence gives → logits over the vocabulary: a plain softmax's, a mixture's, or an adaptive one's.

A mixture and an adaptive softmax give log-probabilities, which are logits too: a softmax leaves them as they are.
"""

import torch
from torch import Tensor, nn

from charlm.config.schema import Model as ModelSection
from charlm.errors import ConfigError

_CLUSTER_SHRINKAGE = 4.0  # Each cluster of rarer tokens reads a fourth of the units of the one before (Grave et al.).


class MixtureOfSoftmaxes(nn.Linear):
    """A mixture of softmaxes: Yang et al. 2018 (arXiv:1711.03953), equation 1.

    p = Σ_k π_k softmax(W tanh(V_k h) + b), π = softmax(U h): of higher rank than one softmax can be.
    """

    def __init__(
        self, hidden_size: int, inner_size: int, vocabulary_size: int, softmaxes: int
    ) -> None:
        """Make one of so many softmaxes over a shared matrix, (vocabulary, inner)."""
        super().__init__(inner_size, vocabulary_size)
        self.softmaxes = softmaxes
        self.prior = nn.Linear(hidden_size, softmaxes, bias=False)
        self.latent = nn.Linear(hidden_size, softmaxes * inner_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities: (..., hidden) → (..., vocabulary)."""
        prior = torch.log_softmax(self.prior(hidden).float(), dim=-1)
        latent = torch.tanh(self.latent(hidden)).view(
            *hidden.shape[:-1], self.softmaxes, self.in_features
        )
        each = torch.log_softmax(super().forward(latent).float(), dim=-1)
        return torch.logsumexp(prior.unsqueeze(-1) + each, dim=-2)


class AdaptiveSoftmax(nn.Module):
    """An adaptive softmax: Grave et al. 2017 (arXiv:1609.04309), by torch's module.

    Frequent tokens are scored at once, rarer ones in clusters, only where a target lies in them. Ids must be in the
    order of frequency, as words' and subwords' are.
    """

    def __init__(self, hidden_size: int, vocabulary_size: int, cutoffs: tuple[int, ...]) -> None:
        """Make one whose clusters begin at `cutoffs`.

        Raises:
            ConfigError: A cutoff is not below the vocabulary's size, or there are too many.
        """
        super().__init__()
        self.out_features = vocabulary_size
        if cutoffs[-1] >= vocabulary_size - 1:
            raise ConfigError(
                f"model.adaptive_cutoffs: {cutoffs[-1]} is not below the vocabulary's last id, {vocabulary_size - 1}; "
                "lower it, or leave adaptive_cutoffs out"
            )
        if hidden_size < _CLUSTER_SHRINKAGE ** len(cutoffs):
            raise ConfigError(
                f"model.adaptive_cutoffs: {len(cutoffs)} are too many for {hidden_size} units, of which each cluster "
                "reads a fourth of what the one before reads; give fewer, or a larger model.hidden_size"
            )
        self.layers = nn.AdaptiveLogSoftmaxWithLoss(
            hidden_size,
            vocabulary_size,
            list(cutoffs),
            div_value=_CLUSTER_SHRINKAGE,
            head_bias=True,
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities: (..., hidden) → (..., vocabulary)."""
        # Its products are small, and what it puts together must be of one type.
        with torch.autocast(hidden.device.type, enabled=False):
            found: Tensor = self.layers.log_prob(hidden.flatten(0, -2).float())
        return found.view(*hidden.shape[:-1], -1)

    def target_log_probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return what the targets alone have, without the others: (tokens, hidden) and (tokens,) → (tokens,)."""
        with torch.autocast(hidden.device.type, enabled=False):
            found: Tensor = self.layers(hidden.float(), targets).output
        return found


def make_projection(
    section: ModelSection, hidden_size: int, embedding_size: int, vocabulary_size: int
) -> nn.Linear | MixtureOfSoftmaxes | AdaptiveSoftmax:
    """Return the projection that `section` names, with its initial weights.

    Args:
        section: Options.
        hidden_size: Width of what it reads.
        embedding_size: Width of a token's vector, and so of what a mixture's matrix reads.
        vocabulary_size: Number of ids.
    """
    if section.adaptive_cutoffs:
        return AdaptiveSoftmax(hidden_size, vocabulary_size, section.adaptive_cutoffs)
    projection = (
        nn.Linear(hidden_size, vocabulary_size)
        if section.mixture == 1
        else MixtureOfSoftmaxes(hidden_size, embedding_size, vocabulary_size, section.mixture)
    )
    nn.init.zeros_(projection.bias)
    return projection
