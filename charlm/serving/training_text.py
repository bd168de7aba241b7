"""The training text of a run: passages that a text copies from it, and records that are new."""

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
from torch import Tensor

from charlm.data.suffix_index import SuffixIndex
from charlm.data.tokenizer import EOS
from charlm.data.utf8 import character_bounds
from charlm.errors import CharlmError
from charlm.model_texts import training_texts
from charlm.sampling.constraints.copy_limit import CopyLimit
from charlm.trained_model import TrainedModel

MAX_BYTES = 64 << 20  # A longer training text is not searched: its index takes five times as much.
_UNKNOWN = b"\xff"  # No UTF-8 text contains it.
_LIMITS = 4  # Copy limits that are kept for other values of `max_copy`.


class TrainingText:
    """The training text of a run, which is read when it is first needed. Thread-safe."""

    def __init__(self, trained: TrainedModel, make_index: Callable[[], SuffixIndex]) -> None:
        """Read nothing yet.

        Args:
            trained: Model of the run.
            make_index: Function that returns the index of the training text.
        """
        self._trained = trained
        self._make_index = make_index
        self._lock = Lock()
        self._index: SuffixIndex | CharlmError | None = None
        self._limits: dict[int, CopyLimit] = {}
        records = trained.writes_records
        end = (b"\n" if trained.record_separator == "\n" else b"\0") if records else None
        self._token_texts = trained.tokenizer.token_texts(eos=end, unknown=_UNKNOWN)

    def index(self) -> SuffixIndex:
        """Return the index of the text.

        Raises:
            CharlmError: The text cannot be read, is too large, or pydivsufsort is not installed.
        """
        with self._lock:
            if self._index is None:
                try:
                    _check_size(self._trained)
                    self._index = self._make_index()
                except CharlmError as error:
                    self._index = error
            if isinstance(self._index, CharlmError):
                # Without it, the error would keep the frames, and so the texts, of all requests.
                raise self._index.with_traceback(None)
            return self._index

    def copied_tokens(self, ids: Sequence[int], min_characters: int) -> list[bool]:
        """Return which tokens are part of a copy.

        A copy is a passage of at least `min_characters` characters that the training text has,
        too.

        Raises:
            CharlmError: As for `index`.
        """
        texts = [self._token_texts[token] for token in ids]
        joined = b"".join(texts)
        bounds = np.array(character_bounds(joined))
        lengths = self.index().match_lengths(joined, bounds.tolist())
        is_copied = np.zeros(len(joined) + 1, dtype=bool)
        for last in np.flatnonzero(lengths >= min_characters).tolist():
            is_copied[bounds[last + 1 - lengths[last]] : bounds[last + 1]] = True
        ends = np.cumsum([len(text) for text in texts])
        return [
            bool(is_copied[end - len(text) : end].all()) and bool(text)
            for text, end in zip(texts, ends.tolist(), strict=True)
        ]

    def mask_copies(self, logits: Tensor, ids: Sequence[int], max_copy: int) -> Tensor:
        """Return logits, (1, vocabulary), minus infinity for tokens that make a copy too long.

        Raises:
            CharlmError: As for `index`.
        """
        limit = self._limit(max_copy)
        with self._lock:
            start = limit.save()
            # A longer run does not matter. A character has at most four tokens, one for each byte.
            for token in ids[-4 * (max_copy + 1) :]:
                limit.update([token])
            masked = limit.mask(logits)
            limit.restore(start)
        return masked

    def is_new_record(self, ids: Sequence[int]) -> bool:
        """Return whether a record, given without its <EOS>, is not in the training text.

        Raises:
            CharlmError: As for `index`.
        """
        index, end = self.index(), self._token_texts[EOS]
        record = b"".join(self._token_texts[token] for token in ids) + end
        return not (index.text.startswith(record) or index.occurs(end + record))

    def _limit(self, max_copy: int) -> CopyLimit:
        index = self.index()
        with self._lock:
            if max_copy not in self._limits:
                while len(self._limits) >= _LIMITS:
                    del self._limits[next(iter(self._limits))]
                trained = self._trained
                texts = trained.tokenizer.token_texts(eos=b"" if trained.writes_records else None)
                self._limits[max_copy] = CopyLimit(index, texts, max_copy)
            return self._limits[max_copy]


def _check_size(trained: TrainedModel) -> None:
    size = training_texts(trained)["train"].size
    if size > MAX_BYTES:
        raise CharlmError(
            f"{trained.folder}: the training text has {size:,} bytes; the page searches texts of "
            f"at most {MAX_BYTES:,}"
        )
