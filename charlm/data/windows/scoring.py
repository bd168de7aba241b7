"""Windows of a text that is read once, in which each token is predicted once."""

from collections.abc import Iterator

import numpy as np
import torch

from charlm.data.tokenizer import Ids
from charlm.data.windows.directions import read_in_direction
from charlm.data.windows.records import all_records, padded
from charlm.data.windows.streams import tokens_before
from charlm.data.windows.window import ALL, PADDING, Position, ScoringWindow, Shard

# After this many tokens, a state that began at zero predicts within 0.001 nats of one that was
# carried, as a test shows.
WARM_UP = 256
# Tokens per scoring window; with a large vocabulary their logits take a few hundred megabytes.
_SCORING_TOKENS = 4096


def windows_to_score(
    ids: Ids,
    *,
    mode: str,
    direction: str = "forward",
    streams: int = 1,
    shard: Shard = ALL,
    targets: Ids | None = None,
) -> Iterator[ScoringWindow]:
    """Read a text once in the mode and direction of a model, each token predicted once.

    Args:
        ids: Ids of the text, (tokens,).
        mode: `stream`: the state is carried through the whole text; `records`: each record starts
            from the initial state.
        direction: `forward`, `backward` or `both`, as for `read_in_direction`.
        streams: Number of pieces read side by side in stream mode. One is exact; of several, all
            but the first read `WARM_UP` tokens unscored before their piece.
        shard: Streams, or batches of records, that this process reads.
        targets: Targets of the records of a task, as for `record_windows`.
    """

    def read(ids: Ids, targets: Ids | None) -> Iterator[ScoringWindow]:
        if mode == "records":
            return scoring_record_windows(ids, targets, shard=shard)
        return scoring_windows(ids, streams=streams, warm_up=WARM_UP, shard=shard)

    return read_in_direction(direction, ids, targets, mode=mode, read=read)


def scoring_windows(
    ids: Ids, *, streams: int = 1, window: int | None = None, warm_up: int = 0, shard: Shard = ALL
) -> Iterator[ScoringWindow]:
    """Read a text once, each token predicted once.

    Args:
        ids: Ids of the text, (tokens,).
        streams: Number of pieces read side by side. One is exact, because the state is carried
            through the whole text.
        window: Tokens per window of each stream; by default the logits of all streams fit in
            memory.
        warm_up: Tokens that each stream but the first reads unscored before its piece, so that its
            state is about what it would be. The first stream begins with the text and scores them.
        shard: Streams that this process reads; there may be none.
    """
    window = window or max(1, _SCORING_TOKENS // streams)
    if streams == 1 or len(ids) <= warm_up + streams:
        streams, warm_up = 1, 0
    length = -(-(len(ids) - warm_up) // streams)
    num_streams = -(-(len(ids) - warm_up) // max(length, 1))
    starts = np.arange(num_streams)[shard.columns(num_streams)] * length
    if len(starts) == 0:
        return
    for first in range(0, warm_up + length, window):
        time = np.arange(first, min(first + window, warm_up + length))[:, None]
        at = starts + time  # (time, batch)
        scored = (at < len(ids)) & ((time >= warm_up) | (starts == 0))
        known = np.minimum(at, len(ids) - 1)
        targets = np.where(scored, ids[known].astype(np.int64), PADDING)
        yield ScoringWindow(
            inputs=torch.from_numpy(tokens_before(ids, at)),
            targets=torch.from_numpy(targets),
            resets_state=first == 0,
            next=Position(),
            epochs=0.0,
            global_batch_size=num_streams,
            positions=torch.from_numpy(np.where(scored, at, -1)),
        )


def scoring_record_windows(
    ids: Ids,
    targets: Ids | None = None,
    *,
    batch_size: int = 64,
    window: int | None = None,
    shard: Shard = ALL,
) -> Iterator[ScoringWindow]:
    """Read every record once from the initial state, records of similar length together.

    Args:
        ids: Ids of the records, (tokens,).
        targets: As for `record_windows`, with one window per record.
        batch_size: Number of records side by side.
        window: Tokens per window of each record; by default the logits of all records fit in
            memory.
        shard: Batches that this process reads: every `num_shards`-th one.
    """
    records = all_records(ids, targets)
    order = np.argsort(records.lengths, kind="stable")
    for begin in range(shard.rank * batch_size, len(order), shard.num_shards * batch_size):
        numbers = order[begin : begin + batch_size]
        starts, stops = records.spans[numbers].T
        longest = int((stops - starts).max())
        size = window or max(1, _SCORING_TOKENS // len(numbers))
        size = size if targets is None else longest
        for first in range(0, longest, size):
            inputs, predicted = padded(records, numbers, first, size)
            at = starts + np.arange(first, min(first + size, longest))[:, None]  # (time, batch)
            yield ScoringWindow(
                inputs=inputs,
                targets=predicted,
                resets_state=first == 0,
                next=Position(),
                epochs=0.0,
                global_batch_size=len(numbers),
                positions=torch.from_numpy(np.where(at < stops, at, -1)),
            )
