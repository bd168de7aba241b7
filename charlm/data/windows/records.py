"""Windows of records, padded to the length of the longest one, from any position."""

from collections.abc import Iterator

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
    *,
    batch_size: int,
    window: int,
    seed: int,
    start: Position,
    replay: Replay | None = None,
    shard: Shard = ALL,
    targets: Ids | None = None,
) -> Iterator[Window]:
    """Read records in batches of similar length, shuffled in each epoch, forever.

    Each record starts from the initial state with <EOS> as first input and ends with <EOS> as last
    target. A batch longer than `window` is read in several windows with the state carried.

    Args:
        ids: Ids of the records, (tokens,).
        batch_size: Number of records side by side.
        window: Longest window, in tokens.
        seed: Seed of the order of records.
        start: Position at which reading begins.
        replay: Old text that is mixed into every epoch, or None.
        shard: Records of each batch that this process reads; if there are none in a batch, it reads
            a column of padding.
        targets: What is predicted at the position of each id, (tokens,), `PADDING` for nothing. A
            record of a task is read in one window, so that each window predicts something. By
            default the ids themselves.

    Raises:
        CorpusError: There is no record.
    """
    read = all_records(ids, targets)
    spans = read.spans
    if len(spans) == 0:
        raise CorpusError(
            "the training text is too small: it has no record; every line or document that is not "
            "empty is one"
        )
    if targets is not None:
        window = int((spans[:, 1] - spans[:, 0]).max())
    position = start
    while True:
        if replay is not None:
            read = replay.records(ids, spans, position.epoch)
        random = np.random.default_rng([seed, position.epoch])
        windows = _record_windows_of_epoch(read.spans, batch_size, window, random)
        num_windows = len(windows)
        for records, first in windows[min(position.index, num_windows - 1) :]:
            columns = shard.columns(len(records))
            inputs, predicted = padded(read, records, first, window, columns)
            position = position.after(num_windows)
            yield Window(
                inputs=inputs,
                targets=predicted,
                resets_state=first == 0,
                next=position,
                epochs=position.passes(num_windows),
                global_batch_size=len(records),
            )


def all_records(ids: Ids, targets: Ids | None) -> Records:
    """Return the records of a text, with targets as for `record_windows`."""
    spans = record_spans(ids)
    nothing = np.zeros(len(spans), dtype=np.int64)
    return Records(ids, ids if targets is None else targets, spans, unscored=nothing)


def _record_windows_of_epoch(
    spans: npt.NDArray[np.int64], batch_size: int, window: int, random: np.random.Generator
) -> list[tuple[npt.NDArray[np.int64], int]]:
    """Return the numbers of the records and the first token of every window of an epoch.

    Records are shuffled, sorted by length within buckets, cut into batches, and the batches are
    shuffled: there is little padding, and no two epochs are the same.
    """
    lengths = spans[:, 1] - spans[:, 0]
    shuffled = random.permutation(len(spans))
    bucket_size = batch_size * _BUCKET_BATCHES
    batches: list[npt.NDArray[np.int64]] = []
    for start in range(0, len(shuffled), bucket_size):
        bucket = shuffled[start : start + bucket_size]
        bucket = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += [bucket[at : at + batch_size] for at in range(0, len(bucket), batch_size)]
    order: list[int] = random.permutation(len(batches)).tolist()
    return [
        (batches[number], first)
        for number in order
        for first in range(0, lengths[batches[number]].max(), window)
    ]


def padded(
    read: Records,
    numbers: npt.NDArray[np.int64],
    first: int,
    window: int,
    columns: slice = slice(None),
) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, (time, batch), of a window of records.

    Args:
        read: All records.
        numbers: Numbers of the records of the batch, (batch,).
        first: Position in the records at which the window begins.
        window: Longest window, in tokens.
        columns: Records of the batch to return; they are padded as the whole batch would be.
    """
    spans, unscored = read.spans[numbers], read.unscored[numbers]
    longest = (spans[:, 1] - spans[:, 0]).max()
    time = np.arange(first, min(first + window, longest))[:, None]  # (time, 1)
    spans, unscored = spans[columns], unscored[columns]
    if len(spans) == 0:
        spans, unscored = np.zeros((1, 2), np.int64), np.zeros(1, np.int64)
    is_present = time < spans[:, 1] - spans[:, 0]
    at = np.minimum(spans[:, 0] + time, np.maximum(spans[:, 1] - 1, 0))
    is_predicted = is_present & (time >= unscored)
    targets = np.where(is_predicted, read.targets[at].astype(np.int64), PADDING)
    before = read.ids[np.maximum(at - 1, 0)].astype(np.int64)
    inputs = np.where((time > 0) & is_present, before, EOS)
    return torch.from_numpy(inputs), torch.from_numpy(targets)
