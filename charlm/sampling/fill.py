"""Filling a gap with a model of direction `both`: what fits the text before and after it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError, UnsupportedOptionError
from charlm.model.language_model import LanguageModel
from charlm.model.log_probabilities import sequence_log_probabilities
from charlm.sampling.generator import GeneratorOptions, generate
from charlm.sampling.options import FillOptions, Filters
from charlm.sampling.prompts import joins_spaces, read_prompt
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel

_PROPOSALS = 32  # Sequences that each direction writes into the gap.


@dataclass(frozen=True)
class Fill(Result):
    """A text whose gap a model filled.

    Attributes:
        text: Whole text.
        gap: Text in the gap.
        log_probability: Log-probability of the whole text in nats, the mean of both directions.
    """

    text: str
    gap: str
    log_probability: float

    def lines(self) -> Iterator[str]:
        """Yield the text."""
        yield self.text


@dataclass(frozen=True)
class Filling:
    """A candidate for the gap.

    Attributes:
        ids: Tokens in the gap.
        log_probability: Log-probability of the whole text in nats, the mean of both directions.
    """

    ids: list[int]
    log_probability: float


def fill(trained: TrainedModel, options: FillOptions) -> list[Fill]:
    """Fill the gap in a text.

    Raises:
        CharlmError: The model reads in one direction only.
        UnsupportedOptionError: The text has characters or words that the model does not know, or
            the model finds no text for the gap.
    """
    if trained.model.direction != "both":
        raise CharlmError(
            f"{trained.folder}: the model reads only {trained.model.direction}, but a gap has two "
            "sides; train a model with --set model.direction=both"
        )
    before, after = options.pieces
    # A token of these levels includes the space before it, which therefore belongs to the gap.
    space = " " if joins_spaces(trained.tokenizer) and before.endswith(" ") else ""
    before = before.removesuffix(space)
    before_ids, after_ids = (
        read_prompt(trained, piece, allow_unknown=options.allow_unknown, option="fill").ids
        for piece in (before, after)
    )
    end = [EOS] if trained.writes_records else []
    fillings = draw_fillings(
        trained.model,
        before_ids,
        after_ids,
        options,
        fits=lambda ids: trained.tokenizer.decode(ids).startswith(space),
        score=lambda texts: sequence_log_probabilities(
            trained.model, [[*ids, *end] for ids in texts], eos=EOS, device=trained.device
        ),
    )
    if not fillings:
        problem = "the model finds no text for the gap; change the text around it"
        raise UnsupportedOptionError("fill", problem, value=options.text)
    gaps = [trained.tokenizer.decode(filling.ids) for filling in fillings]
    return [
        Fill(f"{before}{gap}{after}", gap.removeprefix(space), filling.log_probability)
        for gap, filling in zip(gaps, fillings, strict=True)
    ]


def draw_fillings(
    model: LanguageModel,
    before: Sequence[int],
    after: Sequence[int],
    options: FillOptions,
    *,
    fits: Callable[[list[int]], bool],
    score: Callable[[list[list[int]]], list[float]],
) -> list[Filling]:
    """Draw candidates for the gap between two texts.

    Each direction writes proposals into the gap: the forward network from the left, the backward
    network from the right. Every beginning of a left proposal and every end of a right proposal is
    a candidate. The whole text with each candidate is scored in both directions. The candidates are
    drawn without replacement, with probability proportional to the geometric mean of the two
    probabilities to the power 1 / temperature; temperature 0 returns the most probable ones.

    Args:
        model: Model of direction `both`, in evaluation mode.
        before: Ids before the gap.
        after: Ids after the gap.
        options: Length, number, temperature and seed.
        fits: Whether a candidate may be drawn.
        score: Function from whole texts to their log-probabilities in nats, the sum of both
            directions.

    Returns:
        At most `options.count` candidates; fewer if there are no more.
    """
    forward, backward = model.split_directions()
    left = list(_proposals(forward, before, options))
    right = list(_proposals(backward, [*reversed(after)], options))
    beginnings = [ids[:end] for ids in left for end in range(1, len(ids) + 1)]
    ends = [[*reversed(ids[:end])] for ids in right for end in range(1, len(ids) + 1)]
    unique = dict.fromkeys(map(tuple, [*beginnings, *ends]))
    candidates = [list(ids) for ids in unique if fits(list(ids))]
    scores = np.array(score([[*before, *ids, *after] for ids in candidates])) / 2
    keys = scores
    if options.temperature > 0:
        # The largest values of log p + Gumbel noise are draws without replacement (Kool et al.
        # 2019).
        noise = np.random.default_rng(options.seed).gumbel(size=len(scores))
        keys = scores / options.temperature + noise
    order = np.argsort(-keys, kind="stable")[: options.count]
    return [Filling(candidates[index], float(scores[index])) for index in order]


def _proposals(
    model: LanguageModel, prompt: Sequence[int], options: FillOptions
) -> Iterator[list[int]]:
    """Yield what a model of one direction writes after a prompt, without <EOS>."""
    filters = Filters(temperature=1)
    settings = GeneratorOptions(range(_PROPOSALS), options.seed, filters, stops_at_eos=True)
    steps = list(generate(model, prompt, settings, length=options.length))
    for tokens in zip(*steps, strict=True):
        yield [token for token in tokens if token is not None and token != EOS]
