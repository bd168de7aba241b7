"""A limit on copying: no run of more than N characters of the text is in the training text.

The limit forbids, token by token, what would make a run too long. If little of the model's
probability remains, masking would force the text into improbable letters: a `Backtracker` then
removes some tokens and draws again with other random numbers, so that the text leaves the copied
passage at a position where the model had a choice.
"""

import codecs
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import Tokenizer
from charlm.errors import UnsupportedOptionError

_MIN_PROBABILITY = 0.1  # The text backtracks if all allowed tokens together have less.
_MAX_BACKTRACK = 32  # Tokens removed at once: 1, then 2, 4, ... if a position is reached again.
# Tokens removed per token that stays. If more are removed, the text takes what the mask leaves.
_MAX_REMOVED_PER_TOKEN = 2


@dataclass(frozen=True)
class _Tail:
    """The end of a text.

    Attributes:
        text: Last characters, at most as many as a run may have.
        partial: Bytes of an incomplete character after them.
        copied: Length of the longest run of last characters that is in the training text.
    """

    text: str = ""
    partial: bytes = b""
    copied: int = 0


class CopyLimit:
    """Forbids each token that would end a too long run of characters of the training text.

    A constraint of one sequence. A run may begin in the prompt, but must end in new text. A
    character counts when its last byte is written. The state is replaced, never changed in place,
    so that `save` costs nothing.

    Attributes:
        max_copy: Maximum number of characters in a run.
        remaining: Probability of the tokens that the last mask allowed.
    """

    def __init__(
        self,
        index: SuffixIndex,
        token_texts: Sequence[bytes],
        max_copy: int,
        *,
        before: bytes = b"",
    ) -> None:
        """Compute what does not depend on the text.

        Args:
            index: Index of the training text.
            token_texts: Bytes that each id adds to a text; empty for an id that adds nothing.
            max_copy: Maximum number of characters in a run, at least 1.
            before: The text so far: the prompt.
        """
        self.max_copy = max_copy
        self.remaining = 1.0
        self._index = index
        self._texts = token_texts
        characters = [_decode(text)[0] for text in token_texts]
        self._max_characters = max(map(len, characters), default=0)
        # A run within a single token is copied by that token alone.
        self._never = {
            token
            for token, text in enumerate(characters)
            if any(index.occurs(_encode(run)) for run in _windows(text, max_copy + 1))
        }
        self._prefixes = _tokens_by_prefix(characters, max_copy)
        self._tail = self._extend(_Tail(), before)
        self._cached: tuple[_Tail, npt.NDArray[np.int64]] | None = None

    def forbidden(self) -> npt.NDArray[np.int64]:
        """Return the sorted ids that may not come next."""
        tail = self._tail
        if self._cached is None or self._cached[0] is not tail:
            ids = sorted(self._never | self._too_long_after(tail))
            self._cached = tail, np.array(ids, dtype=np.int64)
        return self._cached[1]

    def is_stuck(self) -> bool:
        """Return whether no token may come next, except <UNK>, which is never drawn."""
        return len(self.forbidden()) >= len(self._texts) - 1

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (1, vocabulary), minus infinity for forbidden tokens."""
        masked = logits.clone()
        masked[:, torch.from_numpy(self.forbidden()).to(logits.device)] = -torch.inf
        log_remaining = masked.double().logsumexp(dim=-1) - logits.double().logsumexp(dim=-1)
        self.remaining = float(log_remaining.exp())
        return masked

    def update(self, tokens: Sequence[int | None]) -> None:
        """Take in the next token, None if the sequence has ended."""
        (token,) = tokens
        if token is not None:
            self._tail = self._extend(self._tail, self._texts[token])

    def save(self) -> _Tail:
        """Return the state, for `restore`."""
        return self._tail

    def restore(self, saved: _Tail) -> None:
        """Return to a saved state."""
        self._tail = saved

    def _extend(self, tail: _Tail, added: bytes) -> _Tail:
        characters, partial = _decode(tail.partial + added)
        text = tail.text
        copied = tail.copied
        for character in characters:
            text = (text + character)[-self.max_copy :]
            bounds = _character_bounds(text)
            last = len(bounds) - 1
            # A run can be at most one character longer than the run before it.
            first = max(0, last - copied - 1)
            copied = last - self._index.earliest_start(_encode(text), bounds, first, last)
        return _Tail(text, partial, copied)

    def _too_long_after(self, tail: _Tail) -> set[int]:
        if tail.partial:
            return {
                token for token, text in enumerate(self._texts) if self._is_too_long(tail, text)
            }
        tokens: set[int] = set()
        for size in range(max(1, self.max_copy + 1 - self._max_characters), tail.copied + 1):
            run = _encode(tail.text[len(tail.text) - size :])
            tokens.update(self._tokens_that_continue(run, self.max_copy + 1 - size))
        return tokens

    def _is_too_long(self, tail: _Tail, added: bytes) -> bool:
        characters, _ = _decode(tail.partial + added)
        text = tail.text + characters
        if tail.copied + len(characters) <= self.max_copy:
            return False
        # Only runs that end in what is added.
        first = max(len(tail.text) + 1, self.max_copy + 1) - (self.max_copy + 1)
        runs = _windows(text[first:], self.max_copy + 1)
        return any(self._index.occurs(_encode(run)) for run in runs)

    def _tokens_that_continue(self, run: bytes, length: int) -> Iterator[int]:
        """Yield the tokens whose first `length` characters follow a run in the training text."""
        prefixes = self._prefixes.get(length, {})
        low, high = self._index.interval(run)
        if high - low > len(prefixes):  # Search for whichever are fewer: prefixes or occurrences.
            for prefix, tokens in prefixes.items():
                first, last = self._index.interval(run + prefix, low, high)
                if first < last:
                    yield from tokens
            return
        text = self._index.text
        for position in self._index.positions(low, high).tolist():
            start = position + len(run)
            following, _ = _decode(text[start : start + 4 * length])  # At most 4 bytes each.
            yield from prefixes.get(_encode(following[:length]), ())


class ReversibleGenerator(Protocol):
    """The part of `Generator` that backtracking needs, for one sequence.

    Attributes:
        tokens: New tokens, in a list of one.
    """

    tokens: list[list[int]]

    def save(self) -> Any:
        """Return the state, for `restore`."""
        ...

    def restore(self, saved: Any) -> None:
        """Return to a saved state, constraints included, but not in the random numbers."""
        ...


class Backtracking:
    """Decides when a text backtracks, and how far; the total is bounded, so that texts end."""

    def __init__(self) -> None:
        """Start with no tokens."""
        self._furthest = -1
        self._distance = 1
        self._removed = 0

    def tokens_to_remove(self, position: int, remaining: float, most: int) -> int:
        """Return the number of tokens to remove before a position; 0 to go on.

        Args:
            position: Number of tokens before the one that was just drawn.
            remaining: Probability of the tokens that it was drawn from.
            most: Number of tokens that can be removed.
        """
        if remaining >= _MIN_PROBABILITY:
            return 0
        if position > self._furthest:
            self._furthest = position
            self._distance = 1
        count = min(self._distance, most)
        max_removed = _MAX_REMOVED_PER_TOKEN * (position + _MAX_BACKTRACK)
        if self._distance > _MAX_BACKTRACK or self._removed + count > max_removed:
            return 0
        self._distance *= 2
        self._removed += count
        return count


class Backtracker:
    """Takes one sequence back from dead ends, before and after each step that it is generated by.

    Attributes:
        num_final: Number of tokens that can no longer be removed.
    """

    def __init__(self, generator: ReversibleGenerator, limit: CopyLimit) -> None:
        """Begin before the first token.

        Args:
            generator: Generator of one sequence, with `limit` among its constraints.
            limit: The copy limit.
        """
        self.num_final = 0
        self._generator = generator
        self._limit = limit
        self._decisions = Backtracking()
        self._saved = deque[Any](maxlen=_MAX_BACKTRACK + 1)

    def prepare(self) -> None:
        """Before a step: go back to where some token may come next.

        Raises:
            UnsupportedOptionError: No token may come next, and backtracking has not helped.
        """
        self._saved.append(self._generator.save())
        while self._limit.is_stuck():
            position = len(self._generator.tokens[0])
            if not self._go_back(position, 0.0):
                raise UnsupportedOptionError(
                    "max_copy",
                    f"after {position} tokens every token continues a copy; allow longer copies",
                    value=self._limit.max_copy,
                )
            self._saved.append(self._generator.save())

    def finish(self) -> None:
        """After a step: remove tokens if the last one was drawn from too few."""
        position = len(self._generator.tokens[0]) - 1
        self._go_back(position, self._limit.remaining)
        self.num_final = max(self.num_final, len(self._generator.tokens[0]) - _MAX_BACKTRACK)

    def _go_back(self, position: int, remaining: float) -> bool:
        """Remove tokens before a position if that is necessary; return whether it was."""
        count = self._decisions.tokens_to_remove(position, remaining, len(self._saved) - 1)
        if count:
            self._generator.restore(self._saved[-1 - count])
            for _ in range(count + 1):
                self._saved.pop()
        return count > 0


def text_to_index(written: bytes, tokenizer: Tokenizer) -> bytes:
    """Return the training text in the form in which joined token texts can be found in it.

    If tokens are separated by spaces, each token text begins with a space, also at the start of a
    line. A line end then counts as two characters, so that a run is never longer than it counts.

    Args:
        written: Training text as the model writes it.
        tokenizer: Tokenizer of the model, for `Tokenizer.token_texts`.
    """
    return b" " + written.replace(b"\n", b"\n ") if tokenizer.separates_by_space else written


def _tokens_by_prefix(
    texts: Sequence[str], max_length: int
) -> Mapping[int, dict[bytes, list[int]]]:
    """Return, by length up to `max_length`, each prefix with the ids of the texts that have it."""
    prefixes: dict[int, dict[bytes, list[int]]] = {}
    for token, text in enumerate(texts):
        for length in range(1, min(len(text), max_length) + 1):
            by_prefix = prefixes.setdefault(length, {})
            by_prefix.setdefault(_encode(text[:length]), []).append(token)
    return prefixes


def _windows(text: str, size: int) -> Iterator[str]:
    """Yield every run of `size` characters of a text."""
    for start in range(len(text) - size + 1):
        yield text[start : start + size]


def _decode(data: bytes) -> tuple[str, bytes]:
    """Return the complete characters, and the bytes of an incomplete one.

    A byte that is not UTF-8 is a character.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    return decoder.decode(data), decoder.getstate()[0]


def _character_bounds(text: str) -> list[int]:
    """Return the byte offset of each character, and the end of the text."""
    return [0, *np.cumsum([len(_encode(character)) for character in text]).tolist()]


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
