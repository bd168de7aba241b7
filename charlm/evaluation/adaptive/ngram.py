"""N-gram models of token ids with Kneser-Ney smoothing, computed exactly.

The index of an n-gram is its rank among the sorted n-grams of its length. Its key combines the
index of its suffix, one token shorter, with the token before the suffix, so that n-grams with the
same suffix are neighbors. Look-ups use binary search on whole arrays; no loop runs over tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from charlm.data.tokenizer import EOS, Ids
from charlm.errors import ConfigError
from charlm.evaluation.static_model import Floats, Integers

Discounts = tuple[float, float, float]  # For n-grams counted once, twice, and more often.
_UNSEEN = -1
# Used where counts are few. Chen and Goodman found 0.7 to 0.8 close to the best discount.
_FALLBACK_DISCOUNT = 0.75


class _Counts(NamedTuple):
    """The n-grams of one length in order of their keys.

    Attributes:
        keys: Index of the suffix x vocabulary size + first token, ascending, (n-grams,).
        contexts: Index of the context, which is the n-gram without its last token, (n-grams,).
        unextended: Number of occurrences that no longer n-gram contains, (n-grams,).
    """

    keys: Integers
    contexts: Integers
    unextended: Integers


_NO_COUNTS = _Counts(*(np.zeros(0, dtype=np.int64) for _ in range(3)))


@dataclass(frozen=True)
class _Level:
    """Smoothed counts of the n-grams of one length, in order of their keys.

    Attributes:
        keys: As in `_Counts`, (n-grams,).
        discounted: (count - discount) / count of all n-grams with the same context, (n-grams,).
        backoff: Probability mass left to shorter contexts, by index of the context, (contexts,).
    """

    keys: Integers
    discounted: Floats
    backoff: Floats


class KneserNey:
    """Interpolated modified Kneser-Ney: Chen and Goodman 1998 (TR-10-98), sections 2.7 and 3.

    With a(hw) the count of a token w after its context h, and h' the context without its first
    token:

        p(w | h) = (a(hw) - D(a(hw)) + p(w | h') Σ_v D(a(hv))) / Σ_v a(hv)

    and p(w | h) = p(w | h') where h was not seen. The empty context is interpolated with 1 / V.
    For n-grams of the greatest length, a is the number of occurrences. For shorter n-grams, a is
    the number of different tokens before them; an occurrence at the beginning of the text, which
    has no token before it, counts as one more, as in Heafield et al. 2013 (P13-2121), section 3.2.

    The text begins after one <EOS>, which is context and is not predicted. With `records` every
    record does.

    Attributes:
        order: N: each token is predicted from the N - 1 tokens before it.
        discounts: D by length of the n-grams, from 1 to N.
    """

    def __init__(
        self, train_ids: Ids, order: int, vocabulary_size: int, *, records: bool = False
    ) -> None:
        """Count the n-grams of a text.

        Args:
            train_ids: Training text, (tokens,).
            order: Length of the longest n-grams, at least 1.
            vocabulary_size: V; all ids are smaller.
            records: Whether contexts end at <EOS> instead of crossing it.

        Raises:
            ConfigError: The order is below 1.
        """
        if order < 1:
            raise ConfigError(f"n-gram model: order must be at least 1, got {order}")
        self.order = order
        self.discounts: list[Discounts] = []
        self._vocabulary_size = vocabulary_size
        self._records = records
        self._levels: list[_Level] = []
        num_contexts = 1  # The empty context.
        counts_by_length = _count(train_ids, order, vocabulary_size, records=records)
        for ngrams, longer in pairwise(chain(counts_by_length, [_NO_COUNTS])):
            counts = _add_extensions(ngrams, longer.keys // vocabulary_size)
            discounts = _estimate_discounts(counts)
            self.discounts.append(discounts)
            self._levels.append(_smooth(ngrams, counts, num_contexts, discounts))
            num_contexts = len(ngrams.keys)

    def log_probabilities(self, ids: Ids) -> Floats:
        """Return the natural logarithm of each token's probability after its context, (tokens,).

        Args:
            ids: Text, (tokens,); like the training text it begins after <EOS>.
        """
        tokens, max_lengths = _begin(ids, self.order, records=self._records)
        p = np.full(len(ids), 1 / self._vocabulary_size)
        indices = np.zeros(len(tokens), dtype=np.int64)
        for length, level in enumerate(self._levels, start=1):
            contexts = indices[:-1]
            candidates = np.flatnonzero((max_lengths >= length) & (indices != _UNSEEN))
            keys = indices[candidates] * self._vocabulary_size + tokens[candidates - length + 1]
            indices = np.full(len(tokens), _UNSEEN)
            indices[candidates] = _look_up(level.keys, keys)
            known = np.flatnonzero((max_lengths[1:] >= length) & (contexts != _UNSEEN))
            p[known] *= level.backoff[contexts[known]]
            seen = np.flatnonzero(indices[1:] != _UNSEEN)
            p[seen] += level.discounted[indices[1:][seen]]
        log_p: Floats = np.log(p)
        return log_p


def _begin(ids: Ids, order: int, *, records: bool) -> tuple[Integers, Integers]:
    """Return a text after one <EOS>, and the length of the longest n-gram that ends at each token.

    Both have shape (1 + tokens,); lengths are from 1 to `order`.
    """
    tokens = np.concatenate([[EOS], ids]).astype(np.int64)
    positions = np.arange(len(tokens))
    starts = np.zeros_like(positions)
    if records:
        starts[1:] = np.maximum.accumulate(np.where(tokens == EOS, positions, 0))[:-1]
    return tokens, np.minimum(positions - starts + 1, order)


def _count(train_ids: Ids, order: int, vocabulary_size: int, *, records: bool) -> Iterator[_Counts]:
    """Yield the n-grams of each length, from 1 to `order`."""
    tokens, max_lengths = _begin(train_ids, order, records=records)
    # Index of the n-gram that ends at each token; the empty n-gram has index 0.
    indices = np.zeros(len(tokens), dtype=np.int64)
    for length in range(1, order + 1):
        ends = np.flatnonzero(max_lengths >= length)
        keys, ranks = np.unique(
            indices[ends] * vocabulary_size + tokens[ends - length + 1], return_inverse=True
        )
        contexts = np.empty(len(keys), dtype=np.int64)
        contexts[ranks] = indices[ends - 1]
        # An occurrence is not extended if it has no token before it or has the greatest length.
        # The <EOS> before the text is not predicted, so it does not count.
        is_unextended = (max_lengths[ends] == length) & (ends > 0)
        unextended = np.bincount(ranks[is_unextended], minlength=len(keys))
        indices = np.full(len(tokens), _UNSEEN)
        indices[ends] = ranks
        yield _Counts(keys, contexts, unextended)


def _add_extensions(ngrams: _Counts, suffixes: Integers) -> Integers:
    """Return the counts of n-grams, given the suffix of each n-gram that is one token longer.

    Every different token before an n-gram makes one longer n-gram, whose suffix it is.
    """
    extensions = np.bincount(suffixes, minlength=len(ngrams.keys))
    counts: Integers = ngrams.unextended + extensions
    return counts


def _estimate_discounts(counts: Integers) -> Discounts:
    """Return the discounts of the n-grams of one length.

    Chen and Goodman 1998, section 3, from the numbers of n-grams counted 1, 2, 3 and 4 times. If
    one of the three discounts would not be positive, the discount of Kneser and Ney 1995 replaces
    them; if that is not defined either, 0.75.
    """
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == count)) for count in (1, 2, 3, 4))
    if not n1 or not n2:
        return _FALLBACK_DISCOUNT, _FALLBACK_DISCOUNT, _FALLBACK_DISCOUNT
    y = n1 / (n1 + 2 * n2)
    if n3 and n4:
        twice = 2 - 3 * y * n3 / n2
        more = 3 - 4 * y * n4 / n3
        if twice > 0 and more > 0:
            return y, twice, more
    return y, y, y


def _smooth(ngrams: _Counts, counts: Integers, num_contexts: int, discounts: Discounts) -> _Level:
    discount = np.array([0, *discounts])[np.minimum(counts, 3)]
    totals = np.bincount(ngrams.contexts, weights=counts, minlength=num_contexts)
    removed = np.bincount(ngrams.contexts, weights=discount, minlength=num_contexts)
    # A context that no token follows, as at the end of the text, leaves all mass to shorter ones.
    backoff = np.divide(removed, totals, out=np.ones(num_contexts), where=totals > 0)
    discounted = (counts - discount) / np.maximum(totals[ngrams.contexts], 1)
    return _Level(ngrams.keys, discounted, backoff)


def _look_up(keys: Integers, wanted: Integers) -> Integers:
    """Return the rank of each wanted key among sorted keys; -1 where there is no such key."""
    ranks = np.searchsorted(keys, wanted)
    inside = np.flatnonzero(ranks < len(keys))
    same = inside[keys[ranks[inside]] == wanted[inside]]
    result = np.full(len(wanted), _UNSEEN)
    result[same] = ranks[same]
    return result
