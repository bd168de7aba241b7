"""No long copies: what may be written so that no run of characters longer than so many is in the training text.

The limit is kept by forbidding, token by token, what would make a run too long. Where that leaves little of what the
model holds probable, going on would force it into odd letters: `without_long_copies` goes back some tokens instead and
draws again, with other random numbers, so that the text leaves the copied passage where there was a choice.
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
from charlm.errors import CharlmError

_ENOUGH = 0.1  # Of the probability must be left, or the text goes back.
_FARTHEST = 32  # Tokens to go back at once; 1, then 2, 4, ... where a place is reached again.
_DROPPED_PER_TOKEN = (
    2  # Tokens dropped, for each one kept, after which the text takes what is left.
)


@dataclass(frozen=True)
class _End:
    """The end of a text.

    Attributes:
        tail: Its last characters, as many as a run may have.
        begun: Bytes after them that are no whole character yet.
        copied: How many of the last characters are in the training text as they stand.
    """

    tail: str = ""
    begun: bytes = b""
    copied: int = 0


class CopyLimit:
    """Forbids each token that would end a run of characters, longer than so many, that is in the training text.

    A constraint of `generate`. A run may begin in the prompt, but must end in what is written. A character counts when
    its last byte is written. A row's state is never changed but replaced, so that `mark` costs nothing.

    Attributes:
        most: Characters that a run may have.
        left: Of each row, the share of the probability that the last mask left, (batch,).
    """

    def __init__(
        self,
        index: SuffixIndex,
        token_texts: Sequence[bytes],
        most: int,
        *,
        before: bytes = b"",
        batch: int = 1,
    ) -> None:
        """Begin.

        Args:
            index: Of the training text.
            token_texts: The bytes that each id adds to a text; none for what adds nothing.
            most: Characters that a run may have.
            before: The text so far: the prompt.
            batch: Sequences that go on from it.

        Raises:
            CharlmError: `most` is less than 1.
        """
        if most < 1:
            raise CharlmError(f"--max-copy must be 1 or more, got {most}")
        self.most = most
        self.left: npt.NDArray[np.float64] = np.ones(batch)
        self._index, self._texts = index, token_texts
        whole = [_whole_characters(text)[0] for text in token_texts]
        self._longest = max(map(len, whole), default=0)
        # A window that lies within one token is copied wherever that token is written.
        self._never = {
            token
            for token, text in enumerate(whole)
            if any(
                index.occurs(_encoded(text[at : at + most + 1])) for at in range(len(text) - most)
            )
        }
        self._beginnings = _beginnings(whole, most)
        self._ends = [self._after(_End(), before)] * batch
        self._known: tuple[_End, npt.NDArray[np.int64]] | None = None

    def forbidden(self, row: int = 0) -> npt.NDArray[np.int64]:
        """Return the ids that may not come next in a row, in order."""
        end = self._ends[row]
        if self._known is None or self._known[0] is not end:
            self._known = end, np.array(sorted(self._never | self._too_long(end)), dtype=np.int64)
        return self._known[1]

    def is_stuck(self, row: int = 0) -> bool:
        """Return whether no token may come next, but for <UNK>, which is never drawn."""
        return len(self.forbidden(row)) >= len(self._texts) - 1

    def mask(self, logits: Tensor) -> Tensor:
        """Return logits, (batch, vocabulary), with those of forbidden tokens minus infinity."""
        masked = logits.clone()
        for row in range(len(logits)):
            masked[row, torch.from_numpy(self.forbidden(row)).to(logits.device)] = -torch.inf
        left = (masked.double().logsumexp(dim=-1) - logits.double().logsumexp(dim=-1)).exp()
        self.left = left.cpu().numpy()
        return masked

    def advance(self, tokens: Sequence[int | None]) -> None:
        """Learn the next token of each row, None for one that has ended."""
        self._ends = [
            end if token is None else self._after(end, self._texts[token])
            for end, token in zip(self._ends, tokens, strict=True)
        ]

    def select(self, rows: Sequence[int]) -> None:
        """Let row i go on from what was row rows[i]."""
        self._ends = [self._ends[row] for row in rows]

    def mark(self) -> list[_End]:
        """Return what `back` needs to come back to this place."""
        return self._ends

    def back(self, mark: list[_End]) -> None:
        """Go back to a place."""
        self._ends = mark

    def _after(self, end: _End, added: bytes) -> _End:
        characters, begun = _whole_characters(end.begun + added)
        tail, copied = end.tail, end.copied
        for character in characters:
            tail = (tail + character)[-self.most :]
            data = _encoded(tail)
            bounds = _bounds(tail)
            last = len(bounds) - 1
            copied = last - self._index.earliest_start(
                data, bounds, max(0, last - copied - 1), last
            )
        return _End(tail, begun, copied)

    def _too_long(self, end: _End) -> set[int]:
        if end.begun:
            return {token for token, text in enumerate(self._texts) if self._is_too_long(end, text)}
        found: set[int] = set()
        for kept in range(max(1, self.most + 1 - self._longest), end.copied + 1):
            found.update(
                self._continuing(_encoded(end.tail[len(end.tail) - kept :]), self.most + 1 - kept)
            )
        return found

    def _is_too_long(self, end: _End, added: bytes) -> bool:
        characters, _ = _whole_characters(end.begun + added)
        text = end.tail + characters
        if end.copied + len(characters) <= self.most:
            return False
        lasts = range(max(len(end.tail) + 1, self.most + 1), len(text) + 1)
        return any(
            self._index.occurs(_encoded(text[last - self.most - 1 : last])) for last in lasts
        )

    def _continuing(self, context: bytes, characters: int) -> Iterator[int]:
        """Yield the tokens whose first characters, so many, follow a context somewhere in the training text."""
        beginnings = self._beginnings.get(characters, {})
        low, high = self._index.interval(context)
        if high - low > len(beginnings):  # Look for the fewer: what follows, or what may follow.
            for beginning, tokens in beginnings.items():
                first, last = self._index.interval(context + beginning, low, high)
                if first < last:
                    yield from tokens
            return
        text = self._index.text
        for at in self._index.positions(low, high).tolist():
            begin = at + len(context)
            following, _ = _whole_characters(
                text[begin : begin + 4 * characters]
            )  # A character has up to 4 bytes.
            yield from beginnings.get(_encoded(following[:characters]), ())


class Reversible(Protocol):
    """One sequence that is being written, and can go back to where it was.

    Attributes:
        written: Its tokens, in a list of one.
        running: Whether it goes on, of length one.
    """

    written: list[list[int]]
    running: npt.NDArray[np.bool_]

    def advance(self) -> Any:
        """Write the next token: draw it with the next random number, and tell the constraints."""
        ...

    def mark(self) -> Any:
        """Return what `back` needs to come back to this place."""
        ...

    def back(self, mark: Any) -> None:
        """Go back to a place, its constraints too, but on in the random numbers."""
        ...


class Retreats:
    """Decides when a text goes back, and how far. What it takes in all is bounded, so that every text ends."""

    def __init__(self) -> None:
        """Begin with a text of no tokens."""
        self._deepest = -1
        self._step = 1
        self._dropped = 0

    def tokens_back(self, position: int, left: float, most: int) -> int:
        """Return how many tokens before this place to drop; 0 to go on.

        Args:
            position: Tokens written before the one that was drawn now.
            left: Share of the probability that it was drawn from.
            most: How many tokens can be dropped.
        """
        if left >= _ENOUGH:
            return 0
        if position > self._deepest:
            self._deepest, self._step = position, 1
        back = min(self._step, most)
        if self._step > _FARTHEST or self._dropped + back > _DROPPED_PER_TOKEN * (
            position + _FARTHEST
        ):
            return 0
        self._step *= 2
        self._dropped += back
        return back


def without_long_copies(writing: Reversible, limit: CopyLimit, *, length: int) -> Iterator[int]:
    """Write one sequence to its end, going back from dead ends; yield each token when it is sure to stay.

    Args:
        writing: The sequence; `limit` is one of its constraints.
        limit: Of batch one.
        length: Most tokens.

    Raises:
        CharlmError: No token may come next, and going back has not helped.
    """
    retreats, marks, told = Retreats(), deque[Any](maxlen=_FARTHEST + 1), 0
    while writing.running[0] and len(writing.written[0]) < length:
        position = len(writing.written[0])
        marks.append(writing.mark())
        stuck = limit.is_stuck()
        if not stuck:
            writing.advance()
        back = retreats.tokens_back(
            position, 0.0 if stuck else float(limit.left[0]), len(marks) - 1
        )
        if back:
            writing.back(marks[-1 - back])
            for _ in range(back + 1):
                marks.pop()
        elif stuck:
            raise CharlmError(
                f"--max-copy {limit.most}: after {position} tokens every token goes on with a copy; allow longer ones"
            )
        while told < len(writing.written[0]) - _FARTHEST:
            yield writing.written[0][told]
            told += 1
    yield from writing.written[0][told:]


def text_to_index(written: bytes, tokenizer: Tokenizer) -> bytes:
    """Return the training text so that the texts of `Tokenizer.token_texts` in a row are found in it.

    Args:
        written: As a model writes it.
        tokenizer: Where tokens are what stands between spaces, each has the space before it, a line's first too: a
            line's end counts as two characters there, so that a run is never longer than it is said to be.
    """
    return b" " + written.replace(b"\n", b"\n ") if tokenizer.separates_by_space else written


def _beginnings(texts: Sequence[str], most: int) -> Mapping[int, Mapping[bytes, list[int]]]:
    """Return by length, up to `most`, the beginnings of texts, each with the texts that have it."""
    found: dict[int, dict[bytes, list[int]]] = {}
    for number, text in enumerate(texts):
        for length in range(1, min(len(text), most) + 1):
            found.setdefault(length, {}).setdefault(_encoded(text[:length]), []).append(number)
    return found


def _whole_characters(data: bytes) -> tuple[str, bytes]:
    """Return the characters that are whole, and the bytes that begin another; a byte that is no UTF-8 is one."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    return decoder.decode(data), decoder.getstate()[0]


def _bounds(text: str) -> list[int]:
    """Return where the characters of a text begin, in bytes, and where the last ends."""
    return [0, *np.cumsum([len(_encoded(character)) for character in text]).tolist()]


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
