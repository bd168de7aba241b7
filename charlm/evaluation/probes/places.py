"""Places of a text that a probe measures: windows, and tokens that are named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from charlm.config.corpus import Mode
from charlm.config.tokenizer import TOKEN_NAMES
from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import record_spans
from charlm.data.windows.scoring import WARM_UP
from charlm.errors import CorpusError, OptionError
from charlm.evaluation.static_model import Integers
from charlm.trained_model import TrainedModel

# Tokens from the beginning of a record, if the window is not smaller: a half-life is then the slope
# of a line through distances 1 to 3.
_MIN_RECORD = 4


@dataclass(frozen=True)
class Windows:
    """Windows of a text.

    Attributes:
        starts: Position of each first token, (windows,).
        lengths: Number of tokens of each window, (windows,).
        warm_up: Number of tokens read before each window.
    """

    starts: Integers
    lengths: Integers
    warm_up: int

    def split(self, size: int) -> "Iterator[Windows]":
        """Yield batches of at most `size` windows."""
        for first in range(0, len(self.starts), size):
            batch = slice(first, first + size)
            yield Windows(self.starts[batch], self.lengths[batch], self.warm_up)


def tokens_named(trained: TrainedModel, names: Sequence[str]) -> tuple[list[int], str]:
    """Return the ids of tokens, with and without blanks around them, and the names as a text.

    Args:
        trained: The model.
        names: Texts of tokens, or one of them; none means all tokens, without ids.

    Raises:
        OptionError: The model has no such token.
    """
    words = [names] if isinstance(names, str) else names
    ids = [token for word in words for token in _ids_of(trained, word)]
    return ids, ", ".join(words) if words else "all tokens"


def _ids_of(trained: TrainedModel, word: str) -> list[int]:
    text = word.encode()
    names = enumerate(trained.tokenizer.token_bytes)
    ids = [token for token, name in names if text and text in (name, name.strip())]
    if not ids:
        level = trained.config.tokenizer.level
        problem = f"must be a token of the model, whose tokens are {TOKEN_NAMES[level]}"
        raise OptionError("at", problem, value=word)
    return ids


def choose_windows(
    ids: Ids, mode: Mode, window: int, windows: int, targets: Sequence[int]
) -> Windows:
    """Return windows that are evenly spaced over a text.

    Args:
        ids: Text in its own order, (tokens,).
        mode: `stream`, or `records`: a window is then the beginning of a record.
        window: Number of tokens of a window; in records mode the largest one.
        windows: Largest number of windows.
        targets: Ids of the tokens that a window may end with; none means all.

    Raises:
        CorpusError: The text has no such window.
    """
    if mode == "records":
        return _choose_records(ids, window, windows, targets)
    last = len(ids) - window
    if last < 0:
        raise CorpusError(
            f"the text has {len(ids)} tokens, fewer than a window of {window}; use a smaller "
            "window, or a longer text"
        )
    warm_up = min(WARM_UP, last)
    if targets:
        starts = np.flatnonzero(np.isin(ids[warm_up + window - 1 :], targets)) + warm_up
        starts = _spread(starts, windows)
    else:
        starts = evenly_spaced(warm_up, last, windows)
    return Windows(starts, np.full_like(starts, window), warm_up)


def _choose_records(ids: Ids, window: int, windows: int, targets: Sequence[int]) -> Windows:
    """Return beginnings of records, each up to a target."""
    spans = record_spans(ids)
    shortest = min(_MIN_RECORD, window)
    if not (spans[:, 1] - spans[:, 0] >= shortest).any():
        raise CorpusError(
            f"the text has no record of {shortest} tokens, <EOS> included; give a text with longer "
            "records"
        )
    positions = np.flatnonzero(np.isin(ids, targets)) if targets else np.arange(len(ids))
    record = np.searchsorted(spans[:, 0], positions, side="right") - 1
    starts = spans[record, 0]
    lengths = positions - starts + 1
    is_in_record = (record >= 0) & (positions < spans[record, 1])
    is_candidate = is_in_record & (lengths >= shortest) & (lengths <= window)
    chosen = _spread(np.flatnonzero(is_candidate), windows)
    return Windows(starts[chosen], lengths[chosen], warm_up=0)


def _spread(candidates: Integers, count: int) -> Integers:
    """Return at most `count` of the candidates, evenly spaced among them."""
    if len(candidates) == 0:
        raise CorpusError(
            "the text has no such token with enough tokens before it; name other tokens, or give "
            "a longer text or a larger window"
        )
    return candidates[evenly_spaced(0, len(candidates) - 1, count)]


def evenly_spaced(first: int, last: int, count: int) -> Integers:
    """Return `count` different whole numbers from `first` to `last`, or all that there are."""
    return np.unique(np.linspace(first, last, count).round().astype(np.int64))
