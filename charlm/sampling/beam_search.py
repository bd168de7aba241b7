"""Search for probable texts: beams, and what texts of unlike length are compared by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from charlm.data.tokenizer import EOS
from charlm.errors import CharlmError
from charlm.model.language_model import LanguageModel
from charlm.sampling.filters import forbid_repeated_ngrams
from charlm.sampling.generator import Constraint, Step, read_once, without_unknown
from charlm.sampling.stepper import Stepper


class SearchConstraint(Constraint, Protocol):
    """A constraint whose sequences can go on from one another."""

    def select(self, rows: Sequence[int]) -> None:
        """Let sequence i go on from what was sequence rows[i]; their number may change."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """A text that may be the most probable one.

    Attributes:
        ids: Its tokens.
        log_probabilities: Of each of them, in nats.
        ended: Whether it came to its end before the greatest length.
    """

    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    ended: bool = False

    def score(self, length_penalty: float) -> float:
        """Return its normalized log-probability."""
        return normalized(sum(self.log_probabilities), len(self.ids), length_penalty)


def normalized(log_probability: float, length: int, length_penalty: float) -> float:
    """Return a log-probability by which texts of unlike length can be compared.

    Wu et al. 2016 (arXiv:1609.08144), equation 14 without its coverage: log P / ((5 + length) / 6)^alpha.

    Args:
        log_probability: Of the text, in nats.
        length: Its tokens, <EOS> among them.
        length_penalty: Alpha; 0 is the log-probability itself, 1 nearly that of a token.
    """
    return float(log_probability / ((5 + length) / 6) ** length_penalty)


@torch.inference_mode()
def beam_search(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    beams: int,
    length: int,
    length_penalty: float,
    is_end: Callable[[list[int]], bool],
    no_repeat_ngram: int | None = None,
    constraints: Sequence[SearchConstraint] = (),
    step: Step | None = None,
) -> list[Hypothesis]:
    """Search for the texts of highest normalized log-probability.

    At each token the `beams` most probable continuations live on; those among them that end are kept aside, and the
    search is over when no text that lives can become better than the `beams` best of these.

    Args:
        model: In evaluation mode.
        prompt: Ids that every text begins with; the model reads <EOS> before them.
        beams: How many texts live.
        length: Most tokens of each.
        length_penalty: Of `normalized`; 0 or more.
        is_end: Whether written ids are a whole text.
        no_repeat_ngram: As for `Settings`.
        constraints: What may be written, each holding the state of one sequence.
        step: What advances the batch by a token; by default a `Stepper` of the model.

    Returns:
        At most `beams`, the best first.

    Raises:
        CharlmError: Bans and constraints leave nothing to write.
    """
    step = step or Stepper(model)
    read = [EOS, *prompt]
    states = read_once(model, read[:-1], None, 1)
    ids = torch.tensor(read[-1:], device=next(model.parameters()).device)
    living, ended = [Hypothesis()], list[Hypothesis]()
    for _ in range(length):
        logits, states = step(ids, states)
        totals = torch.tensor(
            [sum(one.log_probabilities) for one in living], dtype=torch.float64, device=ids.device
        )
        model_s = logits.double().log_softmax(dim=-1)
        history = torch.tensor(
            [[*prompt, *one.ids] for one in living], dtype=torch.int64, device=ids.device
        )
        forbidden = _allowed(logits, history, no_repeat_ngram, constraints) == -torch.inf
        rows, going_on, stopped = _best(living, model_s, totals, forbidden, beams, is_end)
        ended = sorted([*ended, *stopped], key=lambda one: -one.score(length_penalty))[:beams]
        living = going_on
        if not living or _decided(living, ended, beams, length, length_penalty):
            break
        for constraint in constraints:
            constraint.select(rows)
            constraint.advance([one.ids[-1] for one in living])
        states = tuple(tuple(part[rows] for part in state) for state in states)
        ids = torch.tensor([one.ids[-1] for one in living], device=ids.device)
    found = sorted(
        [*ended, *(one for one in living if one.ids)], key=lambda one: -one.score(length_penalty)
    )
    if not found:
        raise CharlmError(
            "the bans and constraints leave the beams nothing to write; ask for less, or for more beams"
        )
    return found[:beams]


def _allowed(
    logits: Tensor, history: Tensor, no_repeat_ngram: int | None, constraints: Sequence[Constraint]
) -> Tensor:
    allowed = without_unknown(logits)
    for constraint in constraints:
        allowed = constraint.mask(allowed)
    return (
        allowed
        if no_repeat_ngram is None
        else forbid_repeated_ngrams(allowed, history, no_repeat_ngram)
    )


def _best(
    living: Sequence[Hypothesis],
    log_probabilities: Tensor,
    totals: Tensor,
    forbidden: Tensor,
    beams: int,
    is_end: Callable[[list[int]], bool],
) -> tuple[list[int], list[Hypothesis], list[Hypothesis]]:
    """Return the most probable continuations: whose they are, those that go on, and those that end.

    Twice as many as there are beams are looked at, so that those that end do not leave the beams empty; but only one
    that stands among the first `beams` has ended.
    """
    continued = (totals[:, None] + log_probabilities).masked_fill(forbidden, -torch.inf).flatten()
    values, places = continued.topk(min(2 * beams, len(continued)))
    rows, going_on, stopped = list[int](), list[Hypothesis](), list[Hypothesis]()
    for rank, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
        if value == -torch.inf or len(going_on) == beams:
            break
        row, token = divmod(place, log_probabilities.shape[-1])
        ids = [*living[row].ids, token]
        each = [*living[row].log_probabilities, float(log_probabilities[row, token])]
        if not is_end(ids):
            rows.append(row)
            going_on.append(Hypothesis(ids, each))
        elif rank < beams:
            stopped.append(Hypothesis(ids, each, ended=True))
    return rows, going_on, stopped


def _decided(
    living: Sequence[Hypothesis],
    ended: Sequence[Hypothesis],
    beams: int,
    length: int,
    length_penalty: float,
) -> bool:
    """Return whether none that lives can become better than those that have ended."""
    if len(ended) < beams:
        return False
    # A log-probability only falls, and its divisor is largest at the greatest length.
    hope = max(normalized(sum(one.log_probabilities), length, length_penalty) for one in living)
    return hope <= ended[-1].score(length_penalty)
