"""A text that is edited, read token by token: from the edited position, with saved states."""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import EOS
from charlm.evaluation.probes.passage import PassageToken, describe_token, token_labels
from charlm.model.log_probabilities import predict_window
from charlm.model.recurrence import States
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel

_WINDOW = 64  # Tokens that are read at once; a state is saved after each window.
_KEY_BYTES = 16


class Interrupted(Exception):
    """The result of a reading is not needed any more."""


@dataclass(frozen=True)
class Reading(Result):
    """The predictions of a text from a position on.

    Attributes:
        start: Character at which the first token begins; all earlier tokens are the same as
            before the edit.
        tokens: Tokens from there. The texts of the tokens, joined, are the text of the request. A
            token that ends within a character has no text: it belongs to the next one with text.
        rest: End of the text that is no token yet, because the next token may begin with it.
    """

    start: int
    tokens: list[PassageToken]
    rest: str


class Pieces(NamedTuple):
    """A text as tokens.

    Attributes:
        ids: Ids, <EOS> where a record ends.
        ends: Character after each token in the text.
    """

    ids: list[int]
    ends: list[int]


class StateCache:
    """States at positions of texts; the least recently used ones are dropped. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        """Start empty; the states together take at most `max_bytes`."""
        self._states: OrderedDict[bytes, States] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of states."""
        return len(self._states)

    def get(self, key: bytes) -> States | None:
        """Return the states of a key, or None."""
        with self._lock:
            if key in self._states:
                self._states.move_to_end(key)
            return self._states.get(key)

    def put(self, key: bytes, states: States) -> None:
        """Keep the states of a key."""
        with self._lock:
            self._drop(key)
            self._states[key] = states
            self._bytes += _size(states)
            while self._bytes > self._max_bytes and self._states:
                self._drop(next(iter(self._states)))

    def _drop(self, key: bytes) -> None:
        states = self._states.pop(key, None)
        self._bytes -= 0 if states is None else _size(states)


class Reader:
    """Predicts the tokens of texts with one model.

    A state is saved after every `_WINDOW` tokens and at the end of what was read, under a hash of
    the tokens before it, so that an edited text is read from a position shortly before the edit.

    Attributes:
        trained: Model of direction forward.
        labels: Text of each id.
    """

    def __init__(self, trained: TrainedModel, cache: StateCache) -> None:
        """Read with a model, and keep states in a cache that other readers may share."""
        self.trained = trained
        self.labels = token_labels(trained.tokenizer)
        self._cache = cache
        self._name = str(trained.folder).encode()

    def read(
        self,
        text: str,
        *,
        start: int = 0,
        alternatives: int = 0,
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> Reading:
        """Predict the tokens of a text from an edited position on.

        Args:
            text: The text.
            start: First character that may have changed since the last reading.
            alternatives: Number of most probable tokens to return with each token.
            is_interrupted: Function that says, between two windows, whether to give up.

        Raises:
            Interrupted: `is_interrupted` returned True.
        """
        pieces = split_text(self.trained, text)
        first = _first_changed(pieces.ends, settled(self.trained, text, start))
        tokens = []
        for at, logits in self._predict(pieces.ids, first, is_interrupted):
            shown = text[pieces.ends[at - 1] if at else 0 : pieces.ends[at]]
            log_p = logits.log_softmax(dim=-1).numpy()
            tokens.append(
                describe_token(pieces.ids[at], shown, log_p, self.labels, alternatives=alternatives)
            )
        begin = pieces.ends[first - 1] if first else 0
        return Reading(begin, tokens, text[pieces.ends[-1] if pieces.ends else 0 :])

    def predict_next(self, ids: Sequence[int]) -> Tensor:
        """Return the logits of the token after the first tokens of a record, (vocabulary,)."""
        (row,) = (row for _, row in self._rows([EOS, *ids], len(ids), lambda: False))
        return row

    def _predict(
        self, ids: Sequence[int], first: int, is_interrupted: Callable[[], bool]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each position from `first` on with the logits of the tokens there."""
        for begin, end in record_bounds(self.trained, ids):
            if end > first:
                inputs = [EOS, *ids[begin : end - 1]]
                for at, row in self._rows(inputs, max(0, first - begin), is_interrupted):
                    yield begin + at, row

    def _rows(
        self, inputs: Sequence[int], first: int, is_interrupted: Callable[[], bool]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each input from `first` on, by number, with the logits after it, (vocabulary,)."""
        states, position = self._resume(inputs, first)
        hashes = _Hashes(self._name, inputs)
        while position < len(inputs):
            if is_interrupted():
                raise Interrupted
            end = min(len(inputs), (position // _WINDOW + 1) * _WINDOW)
            rows, states = self._read_window(inputs[position:end], states, end > first)
            self._cache.put(hashes.of(end), states)
            for at in range(max(first, position), end):
                yield at, rows[at - position]
            position = end

    def _resume(self, inputs: Sequence[int], first: int) -> tuple[States | None, int]:
        """Return the saved states of the last position up to `first`, and the position.

        The states of position k have read k inputs.
        """
        hashes = _Hashes(self._name, inputs)
        keys = [
            (position, hashes.of(position))
            for position in range(1, first + 1)
            if position % _WINDOW == 0 or position > first - _WINDOW
        ]
        for position, key in reversed(keys):
            if (states := self._cache.get(key)) is not None:
                return states, position
        return None, 0

    @torch.inference_mode()
    def _read_window(
        self, inputs: Sequence[int], states: States | None, is_needed: bool
    ) -> tuple[Tensor, States]:
        """Return the logits after each input in float64, (inputs, vocabulary), and the states.

        If the logits are not needed, they are not computed, and the tensor is empty.
        """
        ids = torch.tensor(inputs, device=self.trained.device)[:, None]
        predictions, states = predict_window(self.trained.model, ids, ids, states)
        if not is_needed:
            return torch.zeros(0), states
        return torch.cat([logits.double() for logits, _ in predictions]).cpu(), states


class _Hashes:
    """Hashes of the beginnings of a sequence, computed in ascending order."""

    def __init__(self, name: bytes, ids: Sequence[int]) -> None:
        self._data = np.asarray(ids, dtype=np.int32).tobytes()
        self._hash = hashlib.blake2b(name, digest_size=_KEY_BYTES)
        self._position = 0

    def of(self, position: int) -> bytes:
        """Return the hash of the first ids."""
        self._hash.update(self._data[4 * self._position : 4 * position])
        self._position = position
        return self._hash.digest()


def split_text(trained: TrainedModel, text: str) -> Pieces:
    """Return the tokens of a text.

    In records mode, what separates the records of the corpus ends a record here too, with <EOS>.
    """
    separator = trained.record_separator
    if separator is None:
        return _split_record(trained, text, 0)
    ids: list[int] = []
    ends: list[int] = []
    offset = 0
    records = text.split(separator)
    for number, record in enumerate(records, 1):
        pieces = _split_record(trained, record, offset)
        ids += pieces.ids
        ends += pieces.ends
        if number < len(records):
            offset += len(record) + len(separator)
            ids.append(EOS)
            ends.append(offset)
    return Pieces(ids, ends)


def record_bounds(trained: TrainedModel, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first token of each record, and the one after its last; a stream is one record."""
    begin = 0
    for at, token in enumerate(ids):
        if token == EOS and trained.writes_records:
            yield begin, at + 1
            begin = at + 1
    if begin < len(ids):
        yield begin, len(ids)


def settled(trained: TrainedModel, text: str, start: int) -> int:
    """Return the last position up to which an edit at `start` leaves all tokens as they were.

    A word and the spaces before it may change as a whole; the words before them do not. An accent
    that is typed after a letter may change the letter, and the end of a separator all of it.
    """
    at = max(0, min(start, len(text)) - len(trained.record_separator or " ") + 1)
    section = trained.tokenizer.section
    if section.level in ("char", "byte") and trained.tokenizer.library.normalizer is None:
        return at
    while at > 0 and not text[at - 1].isspace():
        at -= 1
    while at > 0 and text[at - 1].isspace():
        at -= 1
    return at


def _first_changed(ends: Sequence[int], settled: int) -> int:
    """Return the first token that ends after a position, or begins a character that does."""
    first = bisect_right(ends, settled)
    while first > 0 and ends[first - 1] == (ends[first - 2] if first > 1 else 0):
        first -= 1  # A token without text.
    return first


def _split_record(trained: TrainedModel, text: str, offset: int) -> Pieces:
    tokenizer = trained.tokenizer
    if tokenizer.section.level == "char" and tokenizer.library.normalizer is None:
        ends = list(range(offset + 1, offset + len(text) + 1))
        return Pieces(tokenizer.encode(text).tolist(), ends)
    encoding = tokenizer.library.encode(text, add_special_tokens=False)
    spans = encoding.offsets  # The library makes the list anew at each access.
    ends = [offset + end for _, end in spans]
    # Of the tokens of one character only the last one has its text, as a decoder writes it.
    for at, (span, following) in enumerate(pairwise(spans)):
        if span == following:
            ends[at] = offset + span[0]
    return Pieces(encoding.ids, ends)


def _size(states: States) -> int:
    return sum(part.numel() * part.element_size() for state in states for part in state)
