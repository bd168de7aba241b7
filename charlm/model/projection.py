"""Features to logits over the vocabulary: a linear map, a mixture, or an adaptive softmax.

A mixture and an adaptive softmax return log-probabilities. These are logits as well: a softmax
leaves them unchanged.
"""

import torch
from torch import Tensor, nn

from charlm.config.model import Model as ModelSection
from charlm.errors import ConfigError

# Each cluster of rarer tokens uses a fourth of the units of the cluster before (Grave et al.).
_CLUSTER_SHRINKAGE = 4.0


class MixtureOfSoftmaxes(nn.Linear):
    """A mixture of softmaxes: Yang et al. 2018 (arXiv:1711.03953), equation 1.

    p = Σ_k π_k softmax(W tanh(V_k h + v_k) + b), π = softmax(U h)

    Its log-probabilities can have a higher rank than those of one softmax.

    Attributes:
        softmaxes: Number of softmaxes, K.
        prior: Weights U of the mixture, (K, hidden).
        latent: Weights V and biases v of all softmaxes, (K x inner, hidden) and (K x inner,).
        product: Module that computes W z + b in place of the layer, such as one in int8, or None.
    """

    def __init__(
        self, hidden_size: int, inner_size: int, vocabulary_size: int, softmaxes: int
    ) -> None:
        """Create `softmaxes` softmaxes that share the matrix W, (vocabulary, inner)."""
        super().__init__(inner_size, vocabulary_size)
        self.softmaxes = softmaxes
        self.prior = nn.Linear(hidden_size, softmaxes, bias=False)
        self.latent = nn.Linear(hidden_size, softmaxes * inner_size)
        self.product: nn.Module | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """Return log-probabilities: (..., hidden) → (..., vocabulary)."""
        prior = torch.log_softmax(self.prior(hidden).float(), dim=-1)
        latent = torch.tanh(self.latent(hidden)).view(
            *hidden.shape[:-1], self.softmaxes, self.in_features
        )
        scores = super().forward(latent) if self.product is None else self.product(latent)
        components = torch.log_softmax(scores.float(), dim=-1)
        return torch.logsumexp(prior.unsqueeze(-1) + components, dim=-2)


class AdaptiveSoftmax(nn.Module):
    """The adaptive softmax of Grave et al. 2017 (arXiv:1609.04309), by torch's module.

    Frequent tokens are scored for every target; clusters of rarer tokens are scored only for the
    targets in them. Ids must be in the order of frequency, as those of words and subwords are.

    Attributes:
        out_features: Number of ids.
        layers: Head and clusters.
    """

    def __init__(self, hidden_size: int, vocabulary_size: int, cutoffs: tuple[int, ...]) -> None:
        """Create an adaptive softmax whose clusters begin at the ids `cutoffs`.

        Raises:
            ConfigError: A cutoff is not below the last id, or there are too many cutoffs.
        """
        super().__init__()
        self.out_features = vocabulary_size
        if cutoffs[-1] >= vocabulary_size - 1:
            raise ConfigError(
                "model.adaptive_cutoffs: must be below the vocabulary's last id, "
                f"{vocabulary_size - 1}, got {cutoffs[-1]}; lower it, or remove adaptive_cutoffs"
            )
        if hidden_size < _CLUSTER_SHRINKAGE ** len(cutoffs):
            raise ConfigError(
                "model.adaptive_cutoffs: each cluster uses a fourth of the units of the one "
                f"before, so {hidden_size} units are too few for {len(cutoffs)} clusters; give "
                "fewer cutoffs, or a larger model.hidden_size"
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
        # The products are small, and torch's module needs results of one type.
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = self._as_weights(hidden)
            head = torch.log_softmax(self.layers.head(hidden), dim=-1)
            frequent = self.layers.shortlist_size
            clusters = [
                torch.log_softmax(cluster(hidden), dim=-1) + head[..., frequent + number, None]
                for number, cluster in enumerate(self.layers.tail)
            ]
        return torch.cat([head[..., :frequent], *clusters], dim=-1)

    def target_log_probabilities(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Return log-probabilities of targets alone: (tokens, hidden), (tokens,) → (tokens,)."""
        with torch.autocast(hidden.device.type, enabled=False):
            log_p: Tensor = self.layers(self._as_weights(hidden), targets).output
        return log_p

    def _as_weights(self, hidden: Tensor) -> Tensor:
        """Return a tensor in the type of the weights: fp32, or fp64 to measure gradients."""
        return hidden.to(self.layers.head.weight.dtype)


def make_projection(
    section: ModelSection, hidden_size: int, embedding_size: int, vocabulary_size: int
) -> nn.Linear | MixtureOfSoftmaxes | AdaptiveSoftmax:
    """Create the projection that `section` describes, with its initial weights.

    Args:
        section: Options of the network.
        hidden_size: Width of the projection's input.
        embedding_size: Width of an embedded token, and of the input of a mixture's matrix.
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
