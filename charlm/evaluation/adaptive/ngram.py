"""The strongest model without a network: n-grams of token ids, smoothed after Kneser and Ney, exact.

An n-gram has one number, its place among the sorted n-grams of its length. Its key is the number of its suffix, one
token shorter, and the token before that, so that whatever ends in the same suffix stands together. What is looked up is
found by halving; there is no loop over tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from charlm.data.tokenizer import EOS, Ids
from charlm.errors import ConfigError

Numbers = npt.NDArray[np.int64]
Discounts = tuple[float, float, float]  # Of what was counted once, twice, more often.
_UNSEEN = -1
_NOTHING_LONGER = (np.zeros(0, dtype=np.int64),) * 3
_FALLBACK = 0.75  # Where too few counts say what to take; Chen and Goodman found 0.7 to 0.8 near the best discount.


@dataclass(frozen=True)
class _Length:
    """What was seen of n-grams of one length, in order of their keys.

    Attributes:
        keys: Number of the suffix x vocabulary + first token, ascending, (n-grams,).
        discounted: (count - discount) / count of all n-grams with that context, (n-grams,).
        left: What the discounts left to shorter contexts, a share of one, by the context's number, (contexts,).
    """

    keys: Numbers
    discounted: npt.NDArray[np.float64]
    left: npt.NDArray[np.float64]


class KneserNey:
    """Interpolated Kneser-Ney, modified or not: Chen and Goodman 1998 (TR-10-98), sections 2.7 and 3.

    With a(hw) the count of a token w after its context h, and h' that context without its first token:

        p(w | h) = (a(hw) - D(a(hw)) + p(w | h') Σ_v D(a(hv))) / Σ_v a(hv)

    and p(w | h) = p(w | h') where h was not seen. The shortest context, of no token, is interpolated with 1 / V. For
    n-grams of the greatest length a is how often they occur; for shorter ones, after how many different tokens, and
    where nothing stands before one, as it begins the text, each occurrence counts. So Heafield et al. 2013 (P13-2121),
    section 3.2, count what begins a sentence.

    The text begins after one <EOS>, a context that is not predicted itself. With `records` each record does.

    Attributes:
        order: N: each token is predicted from the N - 1 before it.
        discounts: D by length of the n-grams, 1 to N.
    """

    def __init__(
        self,
        train_ids: Ids,
        order: int,
        vocabulary_size: int,
        *,
        records: bool = False,
        discounts: Literal["three", "one"] | float = "three",
    ) -> None:
        """Count a text.

        Args:
            train_ids: The training text, (tokens,).
            order: Length of the longest n-grams, at least 1.
            vocabulary_size: V; all ids are smaller.
            records: Whether contexts end at <EOS> instead of reaching over it.
            discounts: `three`: for each length of n-grams one for what was counted once, twice and more often
                (modified Kneser-Ney); `one`: one for each length (Kneser and Ney 1995); both are estimated from the
                counts. Or a number for all lengths, above 0 and at most 1.

        Raises:
            ConfigError: The order or the discount is out of its range.
        """
        if order < 1:
            raise ConfigError(f"the order of an n-gram model must be at least 1, got {order}")
        if isinstance(discounts, float | int) and not 0 < discounts <= 1:
            raise ConfigError(
                f"the discount of an n-gram model must be above 0 and at most 1, got {discounts}"
            )
        self.order, self._vocabulary_size, self._records = order, vocabulary_size, records
        self.discounts: list[Discounts] = []
        self._lengths: list[_Length] = []
        contexts_seen = 1  # The empty one.
        counted = _count(*_begin(train_ids, order, records=records), order, vocabulary_size)
        for (keys, contexts, unextended), (longer, *_) in pairwise(
            chain(counted, [_NOTHING_LONGER])
        ):
            # Each longer n-gram is its suffix after one more token.
            counts = unextended + np.bincount(longer // vocabulary_size, minlength=len(keys))
            discount = _discounts(counts, discounts)
            self.discounts.append(discount)
            self._lengths.append(_smooth(keys, contexts, counts, contexts_seen, discount))
            contexts_seen = len(keys)

    def log_probabilities(self, ids: Ids) -> npt.NDArray[np.float64]:
        """Return the natural logarithm of each token's probability, given those before it in the text, (tokens,).

        Args:
            ids: A text, (tokens,); like the training text it begins after <EOS>.
        """
        tokens, reach = _begin(ids, self.order, records=self._records)
        p = np.full(len(ids), 1 / self._vocabulary_size)
        numbers = np.zeros(len(tokens), dtype=np.int64)
        for length, seen in enumerate(self._lengths, start=1):
            contexts = numbers[:-1]
            numbers = _find(seen.keys, numbers, tokens, reach, length, self._vocabulary_size)
            known = np.flatnonzero((reach[1:] >= length) & (contexts != _UNSEEN))
            p[known] *= seen.left[contexts[known]]
            found = np.flatnonzero(numbers[1:] != _UNSEEN)
            p[found] += seen.discounted[numbers[1:][found]]
        log_p: npt.NDArray[np.float64] = np.log(p)
        return log_p


def _begin(ids: Ids, order: int, *, records: bool) -> tuple[Numbers, Numbers]:
    """Return the text after its first <EOS>, and how long the longest n-gram is that ends at each token: 1 to order."""
    tokens = np.concatenate([[EOS], ids]).astype(np.int64)
    at = np.arange(len(tokens))
    begins = np.zeros_like(at)
    if records:
        begins[1:] = np.maximum.accumulate(np.where(tokens == EOS, at, 0))[:-1]
    return tokens, np.minimum(at - begins + 1, order)


def _count(
    tokens: Numbers, reach: Numbers, order: int, vocabulary_size: int
) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Yield for each length the n-grams' keys, the numbers of their contexts, and how often each is not extended.

    An occurrence is not extended if nothing stands before it, or if it has the greatest length.
    """
    numbers = np.zeros(
        len(tokens), dtype=np.int64
    )  # Of the n-gram that ends at each token; the empty one is 0.
    for length in range(1, order + 1):
        ends = np.flatnonzero(reach >= length)
        keys, found = np.unique(
            numbers[ends] * vocabulary_size + tokens[ends - length + 1], return_inverse=True
        )
        contexts = np.empty(len(keys), dtype=np.int64)
        contexts[found] = numbers[ends - 1]
        # The <EOS> before the text was not predicted.
        counts = np.bincount(found[(reach[ends] == length) & (ends > 0)], minlength=len(keys))
        numbers = np.full(len(tokens), _UNSEEN)
        numbers[ends] = found
        yield keys, contexts, counts


def _discounts(counts: Numbers, chosen: Literal["three", "one"] | float) -> Discounts:
    """Return the discounts of n-grams of one length, from how many were counted once, twice, 3 and 4 times.

    Chen and Goodman 1998, section 3; where a discount would not be above zero, as after too few counts, the one of
    Kneser and Ney 1995; where that has no ground either, 0.75.
    """
    if isinstance(chosen, float | int):
        return float(chosen), float(chosen), float(chosen)
    once, twice, thrice, four_times = (
        int(np.count_nonzero(counts == count)) for count in (1, 2, 3, 4)
    )
    if not once or not twice:
        return _FALLBACK, _FALLBACK, _FALLBACK
    y = once / (once + 2 * twice)
    if chosen == "three" and thrice and four_times:
        two, three = 2 - 3 * y * thrice / twice, 3 - 4 * y * four_times / thrice
        if two > 0 and three > 0:
            return y, two, three
    return y, y, y


def _smooth(
    keys: Numbers, contexts: Numbers, counts: Numbers, contexts_seen: int, discounts: Discounts
) -> _Length:
    discount = np.array([0, *discounts])[np.minimum(counts, 3)]
    totals = np.bincount(contexts, weights=counts, minlength=contexts_seen)
    removed = np.bincount(contexts, weights=discount, minlength=contexts_seen)
    # A context that nothing follows, as at the end of the text, leaves all to the shorter one.
    left = np.divide(removed, totals, out=np.ones(contexts_seen), where=totals > 0)
    return _Length(keys, (counts - discount) / np.maximum(totals[contexts], 1), left)


def _find(
    keys: Numbers,
    suffixes: Numbers,
    tokens: Numbers,
    reach: Numbers,
    length: int,
    vocabulary_size: int,
) -> Numbers:
    """Return the number of the n-gram that ends at each token, from that of its suffix; -1 where it was not seen."""
    ends = np.flatnonzero((reach >= length) & (suffixes != _UNSEEN))
    wanted = suffixes[ends] * vocabulary_size + tokens[ends - length + 1]
    at = np.searchsorted(keys, wanted)
    inside = np.flatnonzero(at < len(keys))
    same = inside[keys[at[inside]] == wanted[inside]]
    numbers = np.full(len(tokens), _UNSEEN)
    numbers[ends[same]] = at[same]
    return numbers
