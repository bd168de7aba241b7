"""Neural cache: recent tokens are likely again where the hidden state is similar.

Grave et al. 2017 (arXiv:1612.04426), section 3. The cache has no trained parameters.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import Ids
from charlm.data.windows.scoring import windows_to_score
from charlm.evaluation.adaptive.interpolation import fit_pair_weight, interpolate_pair
from charlm.evaluation.static_model import Floats
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import scoring

WINDOWS = (100, 500, 2000)  # From the paper's figures, for words.
# Candidates for θ times the mean squared norm of a hidden state, so that they suit any cell.
_SCALED_FLATNESSES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_BLOCK = 256  # Tokens compared with their windows together: two megabytes at window 2000.


@dataclass(frozen=True)
class CacheSettings:
    """Settings of a neural cache.

    Attributes:
        window: Number of tokens in the cache.
        flatness: θ, the factor of the product of two hidden states; with 0 all tokens of the
            window have the same weight.
    """

    window: int
    flatness: float


class _Block(NamedTuple):
    """The caches of consecutive tokens, each (tokens, window), oldest token of a cache first.

    Attributes:
        scores: h_t · h_i.
        is_present: Whether the cache holds a token i.
        is_match: Whether token i equals the token to predict.
    """

    scores: Tensor
    is_present: Tensor
    is_match: Tensor

    def log_probabilities(self, settings: CacheSettings) -> Tensor:
        """Return log p of the tokens, (tokens,); NaN where the cache is empty."""
        last = slice(-settings.window, None)
        scaled = self.scores[:, last] * settings.flatness
        matching = scaled.masked_fill(~self.is_match[:, last], -torch.inf).logsumexp(dim=1)
        present = scaled.masked_fill(~self.is_present[:, last], -torch.inf).logsumexp(dim=1)
        return matching - present


def cache_log_probabilities(
    model: LanguageModel,
    ids: Ids,
    settings: CacheSettings,
    *,
    device: torch.device,
    precision: torch.dtype,
) -> Floats:
    """Return log p of each token by the cache, (tokens,); minus infinity for a token not in it.

    p(w) ∝ Σ_i 1[w_i = w] exp(θ h_t · h_i) over the `window` tokens w_i before; h is the input of
    the projection (Grave et al. 2017, equation 3). With an empty cache p is uniform.

    Args:
        model: Model on `device`, in evaluation mode.
        ids: Text in reading order, (tokens,).
        settings: Window and flatness.
        device: Device of the model.
        precision: Type in which the model's matrix products are computed.
    """
    blocks = _blocks(_hidden_states(model, ids, device, precision), ids, settings.window)
    parts = [block.log_probabilities(settings) for block in blocks]
    return _concatenate(parts, model.vocabulary_size)


def fit_cache(
    model: LanguageModel,
    ids: Ids,
    log_p: Floats,
    *,
    device: torch.device,
    precision: torch.dtype,
    windows: Sequence[int] = WINDOWS,
) -> tuple[CacheSettings, Floats]:
    """Return the cache of a grid that predicts a text best, interpolated with another predictor.

    Args:
        model: Model on `device`, in evaluation mode.
        ids: Text in reading order, (tokens,).
        log_p: log p of each token by the other predictor, (tokens,).
        device: Device of the model.
        precision: Type in which the model's matrix products are computed.
        windows: Candidates for the number of tokens in the cache.

    Returns:
        The settings of the cache, and log p of each token by it, (tokens,).
    """
    states = list(_hidden_states(model, ids, device, precision))
    grid = _grid(states, windows)
    parts: dict[CacheSettings, list[Tensor]] = {settings: [] for settings in grid}
    for block in _blocks(states, ids, max(windows)):
        for settings in grid:
            parts[settings].append(block.log_probabilities(settings))

    def loss(settings: CacheSettings) -> float:
        log_q = _concatenate(parts[settings], model.vocabulary_size)
        return -float(interpolate_pair(log_p, log_q, fit_pair_weight(log_p, log_q)).sum())

    best = min(grid, key=loss)
    return best, _concatenate(parts[best], model.vocabulary_size)


def _grid(states: list[Tensor], windows: Sequence[int]) -> list[CacheSettings]:
    """Return all candidates, given the hidden states of the text, each (tokens, width)."""
    square = float(torch.cat(states).square().sum(dim=1).mean()) if states else 0.0
    return [
        CacheSettings(window, float(f"{scaled / max(square, 1e-6):.3g}"))
        for window in windows
        for scaled in _SCALED_FLATNESSES
    ]


@torch.inference_mode()
def _hidden_states(
    model: LanguageModel, ids: Ids, device: torch.device, precision: torch.dtype
) -> Iterator[Tensor]:
    """Yield the input of the projection before each token, (tokens, width), window by window."""
    states = None
    for window in windows_to_score(ids, mode="stream"):
        with scoring(device, precision):
            features, states = model.encoder(window.inputs.to(device), states)
            yield model.adapt(features).flatten(0, 1).float()


@torch.inference_mode()
def _blocks(windows: Iterable[Tensor], ids: Ids, size: int) -> Iterator[_Block]:
    """Yield the caches, of `size` tokens, before each token of a text.

    Args:
        windows: Hidden states before each token of the text, each (tokens, width).
        ids: The text, (tokens,).
        size: Number of tokens in a cache.
    """
    keys = values = None
    first = 0
    for states in (part for window in windows for part in torch.split(window, _BLOCK)):
        block_ids = ids[first : first + len(states)].astype(np.int64)
        targets = torch.from_numpy(block_ids).to(states.device)
        if keys is None or values is None:
            keys = states.new_zeros(size, states.shape[1])
            values = targets.new_full((size,), -1)
        keys = torch.cat([keys, states])
        values = torch.cat([values, targets])
        cached = values[:-1].unfold(0, size, 1)
        # (tokens, size + tokens - 1): the cache of token t is the columns from t on.
        products = states @ keys[:-1].T
        scores = products.as_strided(cached.shape, (products.shape[1] + 1, 1))
        yield _Block(scores, is_present=cached >= 0, is_match=cached == targets[:, None])
        keys, values = keys[-size:], values[-size:]
        first += len(states)


def _concatenate(parts: list[Tensor], vocabulary_size: int) -> Floats:
    """Return log p of the whole text; the first token, with an empty cache, has 1 / V."""
    log_p: Floats = torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)
    log_p[:1] = -np.log(vocabulary_size)
    return log_p
