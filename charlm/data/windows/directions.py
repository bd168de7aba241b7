"""The direction in which a model reads: forward, backward, or both side by side."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from charlm.data.restarts import eos_ends
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows.window import PADDING, AnyWindow


def read_in_direction(
    direction: str,
    ids: Ids,
    targets: Ids | None = None,
    *,
    mode: str,
    read: Callable[[Ids, Ids | None], Iterator[AnyWindow]],
) -> Iterator[AnyWindow]:
    """Read a text in the direction of a model.

    Args:
        direction: `forward`, `backward`, or `both`: the backward window is then beside the forward
            one in the batch.
        ids: Ids of the text, (tokens,).
        targets: Targets of the records of a task, as for `record_windows`. A backward window has
            none of them, because each is predicted from both directions together.
        mode: `stream`: the text is reversed as a whole; `records`: every record in its place.
        read: Function that makes windows of ids and targets in the order of reading.
    """
    if direction == "forward":
        return read(ids, targets)
    no_targets = None if targets is None else np.full_like(targets, PADDING)
    backward = read(reverse(ids, mode=mode), no_targets)
    return backward if direction == "backward" else map(_side_by_side, read(ids, targets), backward)


def readings_of(ids: Ids, direction: str, *, mode: str) -> list[Ids]:
    """Return the text, the reversed text, or both, as a model of this direction reads them."""
    if direction == "forward":
        return [ids]
    backward = reverse(ids, mode=mode)
    return [backward] if direction == "backward" else [ids, backward]


def reverse(ids: Ids, *, mode: str) -> Ids:
    """Return the reversed ids of a text, or of each record; the closing <EOS> stays the last."""
    if mode == "records":
        return np.asarray(ids[reading_order(ids, "backward", mode=mode)])
    ids = np.asarray(ids)  # Without positions, which take 8 bytes each.
    if len(ids) and ids[-1] == EOS:
        return np.concatenate([ids[-2::-1], ids[-1:]])
    return ids[::-1]


def reading_order(ids: Ids, direction: str, *, mode: str) -> npt.NDArray[np.int64]:
    """Return the position in the text of each token in reading order, (tokens,).

    Args:
        ids: Text, (tokens,).
        direction: Direction of a model: `backward`, or another one, which keeps the order.
        mode: `stream` or `records`, as for `read_in_direction`. Backward, what follows the last
            <EOS> of records is left out.
    """
    if direction != "backward":
        return np.arange(len(ids))
    if mode == "records":
        spans = record_spans(ids)
        first, end = np.repeat(spans, spans[:, 1] - spans[:, 0], axis=0).T
        at = np.arange(len(first))
        return np.where(at == end - 1, at, first + end - 2 - at)  # <EOS> stays the last.
    last = len(ids) - 1 if len(ids) and ids[-1] == EOS else len(ids)
    return np.append(np.arange(last)[::-1], np.arange(last, len(ids)))


def record_spans(ids: Ids) -> npt.NDArray[np.int64]:
    """Return the first position of each record and the one after its <EOS>, (records, 2)."""
    stops = eos_ends(ids)
    starts = np.concatenate([[0], stops])[: len(stops)]
    return np.stack([starts, stops], axis=1).astype(np.int64)


def _side_by_side(forward: AnyWindow, backward: AnyWindow) -> AnyWindow:
    inputs = torch.cat([forward.inputs, backward.inputs], dim=1)
    targets = torch.cat([forward.targets, backward.targets], dim=1)
    return replace(forward, inputs=inputs, targets=targets)
