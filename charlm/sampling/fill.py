"""Filling a gap with a model that reads both ways: what fits what stands before it and what stands after."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from charlm.data.tokenizer import EOS
from charlm.model.language_model import LanguageModel
from charlm.sampling.generator import Settings, generate

_PROPOSALS = 32  # Sequences that each direction writes into the gap.
_PROPOSAL_SETTINGS = Settings()


@dataclass(frozen=True)
class Filling:
    """What may stand in a gap.

    Attributes:
        ids: Tokens of the gap.
        log_probability: Of the whole text with it, in nats: the mean of both directions.
    """

    ids: list[int]
    log_probability: float


def fill(
    model: LanguageModel,
    before: Sequence[int],
    after: Sequence[int],
    *,
    length: int,
    count: int,
    temperature: float,
    seed: int,
    fits: Callable[[list[int]], bool],
    score: Callable[[list[list[int]]], list[float]],
) -> list[Filling]:
    """Draw what stands between two texts.

    Each direction writes proposals into the gap, the forward network from the left, the backward one from the right.
    Any beginning of the first and any end of the second is a candidate, of any length up to `length`. The whole text
    with each is scored from both sides, and from the candidates so many are drawn, no two alike, by the geometric mean
    of the two probabilities to the power 1 / temperature: with 0, the most probable come first.

    Args:
        model: Of direction `both`, in evaluation mode.
        before: Ids before the gap.
        after: Ids after it.
        length: Most tokens in the gap.
        count: How many to draw.
        temperature: 0 or more.
        seed: Of proposals and draws.
        fits: Whether a candidate may be taken.
        score: Log-probabilities of whole texts in nats, of both directions together.

    Returns:
        At most `count`; fewer where there are no more candidates.
    """
    forward, backward = model.split_directions()
    left = _written(forward, before, length, seed)
    right = _written(backward, [*reversed(after)], length, seed)
    candidates = [ids[:end] for ids in left for end in range(1, len(ids) + 1)]
    candidates += [[*reversed(ids[:end])] for ids in right for end in range(1, len(ids) + 1)]
    candidates = [list(ids) for ids in dict.fromkeys(map(tuple, candidates)) if fits(list(ids))]
    scores = np.array(score([[*before, *ids, *after] for ids in candidates])) / 2
    drawn = scores
    if (
        temperature > 0
    ):  # The largest of log p + Gumbel noise are a draw without putting back (Kool et al. 2019).
        drawn = scores / temperature + np.random.default_rng(seed).gumbel(size=len(scores))
    order = np.argsort(-drawn, kind="stable")[:count]
    return [Filling(candidates[index], float(scores[index])) for index in order]


def _written(
    model: LanguageModel, prompt: Sequence[int], length: int, seed: int
) -> Iterator[list[int]]:
    """Yield what a network that reads one way writes after `prompt`, each up to its <EOS>."""
    steps = list(
        generate(
            model,
            prompt,
            numbers=range(_PROPOSALS),
            length=length,
            settings=_PROPOSAL_SETTINGS,
            seed=seed,
            stops_at_eos=True,
        )
    )
    for column in zip(*steps, strict=True):
        yield [token for token in column if token is not None and token != EOS]
