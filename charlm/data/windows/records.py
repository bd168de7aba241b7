"""Windows of records, padded to the length of the longest one, from any position."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from charlm.data.replay import Records, Replay
from charlm.data.tokenizer import EOS, Ids
from charlm.data.windows.directions import record_spans
from charlm.data.windows.window import ALL, PADDING, Position, Shard, Window
from charlm.errors import CorpusError

_BUCKET_BATCHES = 50  # Number of batches whose records are sorted by length together.


def record_windows(
    ids: Ids,
    targets: Ids | None = None,
    *,
    batch_size: int,
    window: int,
    seed: int,
    start: Position,
    replay: Replay | None = None,
    shard: Shard = ALL,
) -> Iterator[Window]:
    """Read records in batches of similar length, shuffled in each epoch, forever.

    Each record starts from the initial state with <EOS> as first input and ends with <EOS> as last
    target. A batch longer than `window` is read in several windows with the state carried.

    Args:
        ids: Ids of the records, (tokens,).
        targets: What is predicted at the position of each id, (tokens,), `PADDING` for nothing. A
            record of a task is read in one window, so that each window predicts something. By
            default the ids themselves.
        batch_size: Number of records side by side.
        window: Longest window, in tokens.
        seed: Seed of the order of records.
        start: Position at which reading begins.
        replay: Old text that is mixed into every epoch, or None.
        shard: Records of each batch that this process reads; if there are none in a batch, it reads
            a column of padding.

    Raises:
        CorpusError: There is no record.
    """
    own = all_records(ids, targets)
    if len(own.spans) == 0:
        raise CorpusError(
            "the training text is too small: it has no record; every line or document that is not "
            "empty is one"
        )
    if targets is not None:
        window = int(own.lengths.max())
    position = start
    while True:
        records = own if replay is None else replay.records(ids, own.spans, position.epoch)
        random = np.random.default_rng([seed, position.epoch])
        plan = _plan_epoch(records.lengths, batch_size, window, random)
        yield from _epoch_windows(records, plan, window, position, shard)
        position = Position(epoch=position.epoch + 1)


def all_records(ids: Ids, targets: Ids | None) -> Records:
    """Return the records of a text, with targets as for `record_windows`."""
    spans = record_spans(ids)
    nothing = np.zeros(len(spans), dtype=np.int64)
    return Records(ids, ids if targets is None else targets, spans, unscored=nothing)


class _PlannedWindow(NamedTuple):
    """What a window reads.

    Attributes:
        numbers: Numbers of the records, (batch,).
        first: Position in the records at which the window begins.
    """

    numbers: npt.NDArray[np.int64]
    first: int


def _plan_epoch(
    lengths: npt.NDArray[np.int64], batch_size: int, window: int, random: np.random.Generator
) -> list[_PlannedWindow]:
    """Return what each window of an epoch reads, given the length of each record.

    Records are shuffled, sorted by length within buckets, cut into batches, and the batches are
    shuffled: there is little padding, and no two epochs are the same.
    """
    shuffled = random.permutation(len(lengths))
    bucket_size = batch_size * _BUCKET_BATCHES
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(shuffled), bucket_size):
        bucket = shuffled[start : start + bucket_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[at : at + batch_size] for at in range(0, len(bucket), batch_size)]
    order: list[int] = random.permutation(len(batches)).tolist()
    return [
        _PlannedWindow(batches[number], first)
        for number in order
        for first in range(0, lengths[batches[number]].max(), window)
    ]


def _epoch_windows(
    records: Records, plan: list[_PlannedWindow], window: int, position: Position, shard: Shard
) -> Iterator[Window]:
    """Yield the windows of an epoch from a position on; arguments as for `record_windows`."""
    for numbers, first in plan[min(position.index, len(plan) - 1) :]:
        inputs, targets = padded(records, numbers, first, window, shard.columns(len(numbers)))
        position = position.after(len(plan))
        yield Window(
            inputs=inputs,
            targets=targets,
            resets_state=first == 0,
            next=position,
            epochs=position.passes(len(plan)),
            global_batch_size=len(numbers),
        )


def padded(
    records: Records,
    numbers: npt.NDArray[np.int64],
    first: int,
    window: int,
    columns: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (time, batch), of a window of records.

    Args:
        records: All records.
        numbers: Numbers of the records of the batch, (batch,).
        first: Position in the records at which the window begins.
        window: Longest window, in tokens.
        columns: Records of the batch to return; they are padded as the whole batch would be.
    """
    spans, unscored = records.spans[numbers], records.unscored[numbers]
    longest = (spans[:, 1] - spans[:, 0]).max()
    time = np.arange(first, min(first + window, longest))[:, None]  # (time, 1)
    spans, unscored = spans[columns], unscored[columns]
    if len(spans) == 0:
        spans, unscored = np.zeros((1, 2), np.int64), np.zeros(1, np.int64)
    is_present = time < spans[:, 1] - spans[:, 0]
    at = np.minimum(spans[:, 0] + time, np.maximum(spans[:, 1] - 1, 0))
    is_predicted = is_present & (time >= unscored)
    targets = np.where(is_predicted, records.targets[at].astype(np.int64), PADDING)
    before = records.ids[np.maximum(at - 1, 0)].astype(np.int64)
    inputs = np.where((time > 0) & is_present, before, EOS)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
