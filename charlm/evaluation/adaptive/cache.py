"""The neural cache: what was read lately is likely again where the hidden state is like the one it was read after.

After Grave et al. 2017 (arXiv:1612.04426), section 3. Nothing is trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import Ids
from charlm.data.windows import scoring_windows
from charlm.evaluation.adaptive.mixing import Floats, fit_weight, mix
from charlm.model.language_model import LanguageModel
from charlm.training.devices import autocast

WINDOWS = (100, 500, 2000)  # Those of the paper's figures, for words.
_SHARPNESS = (
    0.0,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
)  # θ times the mean square length of a hidden state, so for any cell.
_BLOCK = (
    256  # Tokens that are compared with their windows at once: with window 2000, two megabytes.
)


@dataclass(frozen=True)
class Cache:
    """The settings of a cache.

    Attributes:
        window: Tokens that it holds.
        flatness: θ: what the product of two hidden states is multiplied by; 0 counts all of the window alike.
    """

    window: int
    flatness: float


def cache_log_probabilities(
    model: LanguageModel,
    ids: Ids,
    cache: Cache,
    *,
    vocabulary_size: int,
    device: torch.device,
    precision: torch.dtype,
) -> Floats:
    """Return log of the cache's probability of each token, (tokens,); minus infinity where it is not in the window.

    p(w) ∝ Σ_i 1[w_i = w] exp(θ h_t · h_i), over the `window` tokens w_i before; h is what the projection reads of the
    hidden state before the token (Grave et al. 2017, equation 3). With nothing in the window p is uniform.

    Args:
        model: On `device`, in evaluation mode.
        ids: The text, in the order of reading, (tokens,).
        cache: Window and flatness.
        vocabulary_size: Number of ids.
        device: Where to compute.
        precision: What the model's matrix products are computed in.
    """
    blocks = _blocks(_read(model, ids, device, precision), ids, cache.window)
    found = [_log_probabilities(*block, cache) for block in blocks]
    return _from_first(found, vocabulary_size)


def fit_cache(
    model: LanguageModel,
    ids: Ids,
    log_p: Floats,
    *,
    vocabulary_size: int,
    device: torch.device,
    precision: torch.dtype,
    windows: Sequence[int] = WINDOWS,
) -> tuple[Cache, Floats]:
    """Return the cache, of a grid, that predicts a text best when mixed with another predictor by the best weight.

    Args:
        model: As for `cache_log_probabilities`, like what is not named here.
        ids: The text.
        log_p: What the other predictor gives each token.
        vocabulary_size: Number of ids.
        device: Where to compute.
        precision: Of the model's matrix products.
        windows: Sizes to choose from.

    Returns:
        Its settings, and what it gives each token.
    """
    read = list(_read(model, ids, device, precision))
    square = float(torch.cat(read).square().sum(dim=1).mean()) if read else 0.0
    caches = [
        Cache(window, float(f"{sharpness / max(square, 1e-6):.3g}"))
        for window in windows
        for sharpness in _SHARPNESS
    ]
    found: dict[Cache, list[Tensor]] = {cache: [] for cache in caches}
    for scores, present, match in _blocks(iter(read), ids, max(windows)):
        for cache in caches:
            last = slice(-cache.window, None)
            found[cache].append(
                _log_probabilities(scores[:, last], present[:, last], match[:, last], cache)
            )

    def loss(cache: Cache) -> float:
        log_q = _from_first(found[cache], vocabulary_size)
        return -float(mix(log_p, log_q, fit_weight(log_p, log_q)).sum())

    best = min(caches, key=loss)
    return best, _from_first(found[best], vocabulary_size)


@torch.inference_mode()
def _read(
    model: LanguageModel, ids: Ids, device: torch.device, precision: torch.dtype
) -> Iterator[Tensor]:
    """Yield what the projection reads before each token, a window at a time, (tokens, width), in fp32."""
    states = None
    for window in scoring_windows(ids):
        with autocast(device, precision):
            features, states = model.encoder(window.inputs.to(device), states)
            yield model.adapt(features).flatten(0, 1).float()


@torch.inference_mode()
def _blocks(
    read: Iterator[Tensor], ids: Ids, window: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, for some tokens at a time, what the window before each holds, (tokens, window), oldest first.

    Yields:
        h_t · h_i; whether there is a token i; whether it is the one that comes now.
    """
    keys = values = None
    first = 0
    for states in (part for some in read for part in torch.split(some, _BLOCK)):
        asked = torch.from_numpy(ids[first : first + len(states)].astype(np.int64)).to(
            states.device
        )
        if keys is None or values is None:
            keys, values = states.new_zeros(window, states.shape[1]), asked.new_full((window,), -1)
        keys, values = torch.cat([keys, states]), torch.cat([values, asked])
        held = values[:-1].unfold(0, window, 1)
        products = (
            states @ keys[:-1].T
        )  # (tokens, window + tokens - 1): of token t, the window begins at column t.
        scores = products.as_strided(held.shape, (products.shape[1] + 1, 1))
        yield scores, held >= 0, held == asked[:, None]
        keys, values, first = keys[-window:], values[-window:], first + len(states)


def _log_probabilities(scores: Tensor, present: Tensor, match: Tensor, cache: Cache) -> Tensor:
    """Return log p of the tokens of a block, (tokens,); not a number where the window is empty."""
    scaled = scores * cache.flatness
    some, all_ = (
        scaled.masked_fill(~which, -torch.inf).logsumexp(dim=1) for which in (match, present)
    )
    return some - all_


def _from_first(found: list[Tensor], vocabulary_size: int) -> Floats:
    """Put the blocks together; before the first token there is nothing to remember."""
    log_p: Floats = torch.cat(found).double().cpu().numpy() if found else np.zeros(0)
    log_p[:1] = -np.log(vocabulary_size)
    return log_p
