"""Old text that is mixed into every pass over a new one, so that a model does not forget it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.config.corpus import Mode
from charlm.data.restarts import eos_ends
from charlm.data.tokenizer import EOS, Ids

_MAX_UNSCORED = 16


class Records(NamedTuple):
    """Sequences that are read independently of each other.

    Attributes:
        ids: Ids of all sequences, (tokens,).
        targets: What is predicted at the position of each id, (tokens,): the ids themselves, or
            those of a task.
        spans: First position of each sequence and the one after its last token, (sequences, 2).
        unscored: Number of tokens at the beginning of each sequence that are not predicted,
            (sequences,).
    """

    ids: Ids
    targets: Ids
    spans: npt.NDArray[np.int64]
    unscored: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each sequence, (sequences,)."""
        return self.spans[:, 1] - self.spans[:, 0]


@dataclass(frozen=True)
class Replay:
    """An old text, of which every pass over the new one reads the next part.

    Attributes:
        ids: Ids of the old text, (tokens,).
        mode: How the old text is read.
        fraction: Fraction of the trained tokens that are of the old text, below 1.
        window: Tokens of a piece of an old stream that is read among records.
    """

    ids: Ids
    mode: Mode
    fraction: float
    window: int

    @property
    def num_unscored(self) -> int:
        """Number of tokens at the beginning of a piece of a stream that are not predicted.

        Without the tokens before the piece they cannot be predicted, and the model would learn that
        texts begin there.
        """
        return min(_MAX_UNSCORED, self.window // 4)

    def stream(self, new: Ids, epoch: int) -> Ids:
        """Return the ids of a pass, (tokens,): the new text and a part of the old one.

        Their number is the same in each pass. <EOS> follows both. A new text that ends with <EOS>
        already is followed by two of them, which read as an empty document. With one, a training
        that an earlier version began would continue with other tokens.
        """
        part = self._part(self._size(new), epoch)
        return np.concatenate([np.asarray(new), [EOS], part, [EOS]]).astype(new.dtype)

    def records(self, new: Ids, spans: npt.NDArray[np.int64], epoch: int) -> Records:
        """Return the records of a pass: the new ones and a part of the old text.

        An old stream is cut into pieces of `window` tokens.
        """
        part = self._part(self._size(new), epoch)
        if self.mode == "records":
            stops = eos_ends(part)  # The part begins and ends within records: both are left out.
            old = np.stack([stops[:-1], stops[1:]], axis=1)
            unscored = 0
        else:
            unscored = self.num_unscored
            starts = np.arange(0, len(part) - unscored, self.window)
            old = np.stack([starts, np.minimum(starts + self.window, len(part))], axis=1)
        ids = np.concatenate([np.asarray(new), part]).astype(new.dtype)
        return Records(
            ids=ids,
            targets=ids,
            spans=np.concatenate([spans, old + len(new)]),
            unscored=np.repeat([0, unscored], [len(spans), len(old)]),
        )

    def _size(self, new: Ids) -> int:
        return round(len(new) * self.fraction / (1 - self.fraction))

    def _part(self, size: int, epoch: int) -> Ids:
        """Return the `epoch`-th part of the old text, which begins again after its end."""
        first = epoch * size % len(self.ids)
        at = (first + np.arange(size)) % len(self.ids)
        return np.asarray(self.ids[at])
