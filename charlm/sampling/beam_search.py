"""Beam search: the most probable texts, compared by normalized log-probability."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.model.recurrence import States
from charlm.sampling.batch import Step
from charlm.sampling.drawing import without_unknown
from charlm.sampling.filters import forbid_repeated_ngrams
from charlm.sampling.generator import Constraint
from charlm.sampling.prompt_reader import read_once
from charlm.sampling.stepper import Stepper
from charlm.sampling.threads import num_weights, threads_for_step


class SearchConstraint(Constraint, Protocol):
    """A constraint whose sequences can continue one another."""

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i continue what was sequence rows[i]; their number may change."""
        ...


class Start(NamedTuple):
    """Where new texts begin.

    Attributes:
        ids: Last id before each text, (batch,).
        states: States before these ids.
        step: Function that advances the batch by a token.
        num_weights: Number of weights of the model, about the multiplications per sequence.
    """

    ids: Tensor
    states: States
    step: Step
    num_weights: int


@dataclass(frozen=True)
class BeamOptions:
    """Extent of a beam search.

    Attributes:
        beams: Number of texts that are extended side by side.
        length: Maximum number of tokens per text.
        length_penalty: Exponent of the length normalization, see `normalize`; at least 0.
        no_repeat_ngram: Length of the n-grams that may not occur twice, in tokens; None is off.
    """

    beams: int
    length: int
    length_penalty: float
    no_repeat_ngram: int | None = None


@dataclass(frozen=True)
class Hypothesis:
    """A candidate for the most probable text.

    Attributes:
        ids: Tokens.
        log_probabilities: Log-probability of each token, in nats.
        ended: Whether the text ended before the maximum length.
    """

    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    ended: bool = False

    def score(self, length_penalty: float) -> float:
        """Return the normalized log-probability."""
        return normalize(sum(self.log_probabilities), len(self.ids), length_penalty)


def normalize(log_probability: float, length: int, length_penalty: float) -> float:
    """Return a log-probability by which texts of different lengths can be compared.

    Wu et al. 2016 (arXiv:1609.08144), equation 14 without its coverage penalty:
    log P / ((5 + length) / 6)^alpha.

    Args:
        log_probability: Log-probability of the text, in nats.
        length: Number of tokens, with <EOS>.
        length_penalty: Exponent alpha; 0 returns the log-probability, 1 nearly that per token.
    """
    try:
        return float(log_probability / ((5 + length) / 6) ** length_penalty)
    except OverflowError:
        return -0.0  # The limit for large exponents.


@torch.inference_mode()
def beam_search(
    model: LanguageModel,
    prompt: Sequence[int],
    options: BeamOptions,
    *,
    is_end: Callable[[list[int]], bool],
    constraints: Sequence[SearchConstraint] = (),
) -> list[Hypothesis]:
    """Return the texts of highest normalized log-probability that the search finds.

    Each step extends the beams by the most probable tokens. Texts that end are set aside. The
    search ends when no beam can become better than the best of these.

    Args:
        model: Model in evaluation mode.
        prompt: Ids that every text begins with; the model reads <EOS> before them.
        options: Extent of the search.
        is_end: Whether new ids are a complete text.
        constraints: Rules on what may be written, each with the state of one sequence.

    Returns:
        At most `options.beams` texts, the best first.

    Raises:
        CharlmError: The constraints leave nothing to write.
    """
    context = [EOS, *prompt]
    start = Start(
        ids=torch.tensor(context[-1:], device=next(model.parameters()).device),
        states=read_once(model, context[:-1]),
        step=Stepper(model),
        num_weights=num_weights(model),
    )
    return search_from(start, options, is_end=is_end, prompt=prompt, constraints=constraints)


@torch.inference_mode()
def search_from(
    start: Start,
    options: BeamOptions,
    *,
    is_end: Callable[[list[int]], bool],
    prompt: Sequence[int] = (),
    constraints: Sequence[SearchConstraint] = (),
) -> list[Hypothesis]:
    """Search from a start of one sequence; the rest is as for `beam_search`."""
    with threads_for_step(options.beams * start.num_weights):
        return _search(start, options, is_end, prompt, constraints)


def _search(
    start: Start,
    options: BeamOptions,
    is_end: Callable[[list[int]], bool],
    prompt: Sequence[int],
    constraints: Sequence[SearchConstraint],
) -> list[Hypothesis]:
    ids, states, step, _ = start
    beams = [Hypothesis()]
    ended = list[Hypothesis]()
    for _ in range(options.length):
        logits, states = step(ids, states)
        forbidden = _forbidden(logits, prompt, beams, options, constraints)
        extended = _extend(beams, logits, forbidden, options.beams, is_end)
        beams = extended.beams
        ended = _best([*ended, *extended.ended], options)
        if not beams or _is_decided(beams, ended, options):
            break
        for constraint in constraints:
            constraint.select(extended.rows)
            constraint.update([beam.ids[-1] for beam in beams])
        states = tuple(tuple(part[extended.rows] for part in state) for state in states)
        ids = torch.tensor([beam.ids[-1] for beam in beams], device=ids.device)
    texts = _best([*ended, *(beam for beam in beams if beam.ids)], options)
    if not texts:
        raise CharlmError(
            "the banned texts and constraints leave the beams no token to write; relax them, or "
            "use more beams"
        )
    return texts


class _Extended(NamedTuple):
    """The most probable continuations of all beams.

    Attributes:
        beams: Those that go on.
        rows: Number of the beam that each of them continues.
        ended: Those that end.
    """

    beams: list[Hypothesis]
    rows: list[int]
    ended: list[Hypothesis]


def _forbidden(
    logits: Tensor,
    prompt: Sequence[int],
    beams: Sequence[Hypothesis],
    options: BeamOptions,
    constraints: Sequence[Constraint],
) -> Tensor:
    """Return which tokens may not continue each beam, (beams, vocabulary)."""
    allowed = without_unknown(logits)
    for constraint in constraints:
        allowed = constraint.mask(allowed)
    if options.no_repeat_ngram is not None:
        rows = [[*prompt, *beam.ids] for beam in beams]
        history = torch.tensor(rows, dtype=torch.int64, device=logits.device)
        allowed = forbid_repeated_ngrams(allowed, history, options.no_repeat_ngram)
    return allowed == -torch.inf


def _extend(
    beams: Sequence[Hypothesis],
    logits: Tensor,
    forbidden: Tensor,
    max_beams: int,
    is_end: Callable[[list[int]], bool],
) -> _Extended:
    """Return the most probable continuations.

    Twice as many continuations as beams are considered, so that continuations that end do not leave
    the beams empty; but a continuation only ends if it is among the first `max_beams`.
    """
    log_probabilities = logits.double().log_softmax(dim=-1)
    totals = torch.tensor(
        [sum(beam.log_probabilities) for beam in beams], dtype=torch.float64, device=logits.device
    )
    scores = (totals[:, None] + log_probabilities).masked_fill(forbidden, -torch.inf).flatten()
    values, indices = scores.topk(min(2 * max_beams, len(scores)))
    extended = _Extended([], [], [])
    for rank, (value, index) in enumerate(zip(values.tolist(), indices.tolist(), strict=True)):
        if value == -torch.inf or len(extended.beams) == max_beams:
            break
        row, token = divmod(index, log_probabilities.shape[-1])
        ids = [*beams[row].ids, token]
        scored = [*beams[row].log_probabilities, float(log_probabilities[row, token])]
        if not is_end(ids):
            extended.rows.append(row)
            extended.beams.append(Hypothesis(ids, scored))
        elif rank < max_beams:
            extended.ended.append(Hypothesis(ids, scored, ended=True))
    return extended


def _best(texts: Sequence[Hypothesis], options: BeamOptions) -> list[Hypothesis]:
    """Return at most `options.beams` texts, the best first."""
    return sorted(texts, key=lambda text: -text.score(options.length_penalty))[: options.beams]


def _is_decided(
    beams: Sequence[Hypothesis], ended: Sequence[Hypothesis], options: BeamOptions
) -> bool:
    """Return whether no beam can become better than the texts that have ended."""
    if len(ended) < options.beams:
        return False
    # A log-probability can only fall, and its divisor is largest at the maximum length.
    bound = max(
        normalize(sum(beam.log_probabilities), options.length, options.length_penalty)
        for beam in beams
    )
    return bound <= ended[-1].score(options.length_penalty)
