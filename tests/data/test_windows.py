"""Windows: every token once, in reading order, from any position."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.tokenizer import EOS
from charlm.data.windows.directions import record_spans
from charlm.data.windows.records import record_windows
from charlm.data.windows.scoring import scoring_record_windows, scoring_windows
from charlm.data.windows.streams import StreamOptions, stream_windows
from charlm.data.windows.window import PADDING, Position, Window
from charlm.errors import CorpusError

START = Position()
sizes = st.integers(1, 5)
records_of = st.lists(
    st.lists(st.integers(2, 200), min_size=1, max_size=9), min_size=1, max_size=12
)


def numbered(count: int) -> np.ndarray:
    """Return distinct ids without <EOS>: 2, 3, 4, ..."""
    return np.arange(2, 2 + count, dtype=np.uint16)


def as_ids(records: list[list[int]]) -> np.ndarray:
    return np.array([index for record in records for index in [*record, EOS]], dtype=np.uint8)


def are_equal(first: Window, second: Window) -> bool:
    return (
        first.inputs.tolist() == second.inputs.tolist()
        and first.targets.tolist() == second.targets.tolist()
        and (first.resets_state, first.next, first.epochs)
        == (second.resets_state, second.next, second.epochs)
        and str(first.restarts) == str(second.restarts)
    )


def epoch_of(windows: Iterable[Window]) -> list[Window]:
    """Return the windows up to the end of the epoch; no other one is read."""
    epoch = []
    for window in windows:
        epoch.append(window)
        if window.next.index == 0:
            return epoch
    raise AssertionError("the epoch does not end")


def sequences(windows: list[Window]) -> list[tuple[list[int], list[int]]]:
    """Return inputs and targets of each record, joined over windows that carry the state."""
    batches: list[list[tuple[list[int], list[int]]]] = []
    for window in windows:
        columns = list(zip(window.inputs.T.tolist(), window.targets.T.tolist(), strict=True))
        if window.resets_state:
            batches.append([([], []) for _ in columns])
        for (inputs, targets), (more_inputs, more_targets) in zip(
            batches[-1], columns, strict=True
        ):
            inputs += more_inputs
            targets += more_targets
    return [sequence for batch in batches for sequence in batch]


def records_in(windows: list[Window]) -> list[list[int]]:
    """Return the records of windows, and check their <EOS>, inputs and padding."""
    records = []
    for inputs, targets in sequences(windows):
        length = targets.index(EOS) + 1
        assert targets[length:] == [PADDING] * (len(targets) - length)
        assert PADDING not in targets[:length] and EOS not in targets[: length - 1]
        assert inputs[:length] == [EOS, *targets[: length - 1]]
        records.append(targets[: length - 1])
    return records


# One long text


def test_two_streams_by_hand():
    first, second, third = islice(
        stream_windows(numbered(9), batch_size=2, window=2, start=START), 3
    )
    assert first.inputs.tolist() == [[EOS, 5], [2, 6]]
    assert first.targets.tolist() == [[2, 6], [3, 7]]
    assert second.inputs.tolist() == [[3, 7], [4, 8]]
    assert second.targets.tolist() == [[4, 8], [5, 9]]
    assert (first.resets_state, second.resets_state, third.resets_state) == (True, False, True)
    assert (first.next, second.next) == (Position(0, 1), Position(1, 0))
    assert (first.epochs, second.epochs, third.epochs) == (0.5, 1.0, 1.5)
    assert third.inputs.tolist() == first.inputs.tolist()
    assert first.tokens == 4


@settings(max_examples=60, deadline=None)
@given(batch_size=sizes, window=sizes, count=st.integers(1, 120))
def test_the_targets_of_an_epoch_are_the_text_in_order(batch_size, window, count):
    ids = numbered(count)
    per_epoch = count // batch_size // window
    if per_epoch == 0:
        return
    windows = list(
        islice(
            stream_windows(ids, batch_size=batch_size, window=window, start=START), per_epoch + 1
        )
    )
    epoch = epoch_of(windows)
    length = count // batch_size
    streams = np.concatenate([read.targets.numpy() for read in epoch]).T
    assert [stream.tolist() for stream in streams] == [
        ids[at : at + per_epoch * window].tolist() for at in range(0, batch_size * length, length)
    ]
    inputs = np.concatenate([read.inputs.numpy() for read in epoch]).T
    assert inputs[:, 1:].tolist() == streams[:, :-1].tolist()
    assert inputs[:, 0].tolist() == [
        EOS,
        *ids[length - 1 : batch_size * length - 1 : length].tolist(),
    ]
    assert [read.resets_state for read in windows] == [True] + [False] * (per_epoch - 1) + [True]
    assert all(read.inputs.shape == (window, batch_size) for read in windows)
    assert length - per_epoch * window < window


@settings(max_examples=60, deadline=None)
@given(batch_size=sizes, window=sizes, spare=st.integers(0, 40), skipped=st.integers(0, 30))
def test_a_text_resumed_from_any_position_continues_with_the_same_windows(
    batch_size, window, spare, skipped
):
    ids = numbered(batch_size * window + spare)
    windows = list(
        islice(stream_windows(ids, batch_size=batch_size, window=window, start=START), skipped + 6)
    )
    resumed = stream_windows(ids, batch_size=batch_size, window=window, start=windows[skipped].next)
    assert all(are_equal(*pair) for pair in zip(windows[skipped + 1 :], resumed, strict=False))


def test_a_text_too_small_for_a_window_is_an_error_of_one_line():
    both = "training.batch_size or training.window"
    cases = ((0, 1, 1, "training.window"), (7, 2, 4, both), (15, 4, 4, both))
    for count, batch_size, window, remedy in cases:
        message = (
            f"too small: it has {count} tokens, and one window needs {batch_size * window:,}, .* "
            f"{batch_size} x {window}; give a longer text, or lower {remedy}$"
        )
        with pytest.raises(CorpusError, match=message):
            next(stream_windows(numbered(count), batch_size=batch_size, window=window, start=START))


# Records


def test_the_span_of_a_record_ends_after_its_eos():
    assert record_spans(as_ids([[5, 6], [7]])).tolist() == [[0, 3], [3, 5]]
    assert record_spans(numbered(0)).tolist() == []


def test_a_record_longer_than_the_window_carries_its_state():
    windows = list(
        islice(
            record_windows(as_ids([[5, 6, 7, 8]]), batch_size=3, window=2, seed=1, start=START), 4
        )
    )
    assert [window.inputs.T.tolist() for window in windows[:3]] == [[[EOS, 5]], [[6, 7]], [[8]]]
    assert [window.targets.T.tolist() for window in windows[:3]] == [[[5, 6]], [[7, 8]], [[EOS]]]
    assert [window.resets_state for window in windows] == [True, False, False, True]
    assert [window.next for window in windows[:3]] == [
        Position(0, 1),
        Position(0, 2),
        Position(1, 0),
    ]


def test_a_short_record_is_padded_at_its_end():
    ids = as_ids([[5], [6, 7, 8]])
    window = next(record_windows(ids, batch_size=2, window=9, seed=1, start=START))
    assert window.inputs.T.tolist() == [[EOS, 5, EOS, EOS], [EOS, 6, 7, 8]]
    assert window.targets.T.tolist() == [[5, EOS, PADDING, PADDING], [6, 7, 8, EOS]]
    assert window.tokens == 6


@settings(max_examples=60, deadline=None)
@given(records=records_of, batch_size=sizes, window=sizes, seed=st.integers(0, 3))
def test_every_record_is_read_once_per_epoch_from_eos_to_eos(records, batch_size, window, seed):
    ids = as_ids(records)
    epoch = epoch_of(
        record_windows(ids, batch_size=batch_size, window=window, seed=seed, start=START)
    )
    assert sorted(records_in(epoch)) == sorted(records)
    assert epoch[-1].next == Position(1, 0) and epoch[-1].epochs == 1.0
    assert sum(read.tokens for read in epoch) == len(ids)
    assert all(
        read.inputs.shape[0] <= window and read.inputs.shape[1] <= batch_size for read in epoch
    )


@settings(max_examples=60, deadline=None)
@given(records=records_of, batch_size=sizes, window=sizes, skipped=st.integers(0, 40))
def test_records_resumed_from_any_position_continue_with_the_same_windows(
    records, batch_size, window, skipped
):
    ids = as_ids(records)
    options = {"batch_size": batch_size, "window": window, "seed": 1}
    windows = list(islice(record_windows(ids, **options, start=START), skipped + 9))
    resumed = record_windows(ids, **options, start=windows[skipped].next)
    assert all(are_equal(*pair) for pair in zip(windows[skipped + 1 :], resumed, strict=False))


def order_of(seed: int, epochs: int) -> list[list[list[int]]]:
    """Return the records of 40 in reading order, for each epoch."""
    records = [[number] * (1 + number % 3) for number in range(2, 42)]
    windows = record_windows(as_ids(records), batch_size=4, window=9, seed=seed, start=START)
    return [records_in(list(islice(windows, 10))) for _ in range(epochs)]


def test_the_order_of_records_depends_only_on_epoch_and_seed():
    first, second = order_of(seed=1, epochs=2)
    assert first != second
    assert sorted(first) == sorted(second)
    assert order_of(seed=1, epochs=2) == [first, second]
    assert order_of(seed=2, epochs=1) != [first]


def test_records_of_similar_length_share_a_batch():
    windows = list(
        islice(
            record_windows(
                as_ids([[7] * (1 + number % 10) for number in range(200)]),
                batch_size=4,
                window=99,
                seed=1,
                start=START,
            ),
            50,
        )
    )
    padding = sum(int((window.targets == PADDING).sum()) for window in windows)
    assert padding < 0.05 * sum(window.targets.numel() for window in windows)


def test_a_text_without_records_is_an_error_of_one_line():
    with pytest.raises(CorpusError, match=r"too small: it has no record; [^\n]+$"):
        next(record_windows(numbered(0), batch_size=1, window=1, seed=1, start=START))


# Scoring


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(0, 60),
    streams=st.integers(1, 9),
    window=st.integers(1, 20),
    warm_up=st.integers(0, 15),
)
def test_scoring_predicts_every_token_exactly_once(count, streams, window, warm_up):
    ids = numbered(count)
    windows = list(scoring_windows(ids, streams=streams, window=window, warm_up=warm_up))
    targets = [
        target
        for read in windows
        for target in read.targets.flatten().tolist()
        if target != PADDING
    ]
    assert sorted(targets) == ids.tolist()
    assert_positions_are_those_of_the_targets(windows, ids)
    for read in windows:
        for before, target in zip(
            read.inputs.flatten().tolist(), read.targets.flatten().tolist(), strict=True
        ):
            assert target == PADDING or before == (EOS if target == 2 else target - 1)
    assert [read.resets_state for read in windows] == [True] * bool(windows) + [False] * (
        len(windows) - 1
    )


def assert_positions_are_those_of_the_targets(windows: list[Window], ids: np.ndarray) -> None:
    for read in windows:
        expected = np.where(read.positions >= 0, ids[read.positions].astype(np.int64), PADDING)
        assert read.targets.tolist() == expected.tolist()


def test_one_stream_scores_the_text_in_order_without_warm_up():
    windows = list(scoring_windows(numbered(5), window=2, warm_up=3))
    assert [read.inputs.T.tolist() for read in windows] == [[[EOS, 2]], [[3, 4]], [[5]]]
    assert [read.targets.T.tolist() for read in windows] == [[[2, 3]], [[4, 5]], [[6]]]


def test_a_second_stream_reads_its_warm_up_unscored():
    (window,) = scoring_windows(numbered(6), streams=2, window=9, warm_up=2)
    assert window.inputs.T.tolist() == [[EOS, 2, 3, 4], [3, 4, 5, 6]]
    assert window.targets.T.tolist() == [[2, 3, 4, 5], [PADDING, PADDING, 6, 7]]


@settings(max_examples=100, deadline=None)
@given(records=records_of, batch_size=sizes, window=st.integers(1, 12))
def test_scoring_reads_every_record_exactly_once(records, batch_size, window):
    windows = list(scoring_record_windows(as_ids(records), batch_size=batch_size, window=window))
    assert sorted(records_in(windows)) == sorted(records)
    assert sum(read.tokens for read in windows) == len(as_ids(records))
    assert_positions_are_those_of_the_targets(windows, as_ids(records))
    positions = np.concatenate([read.positions.flatten() for read in windows])
    assert sorted(positions[positions >= 0].tolist()) == list(range(len(as_ids(records))))


def test_a_text_without_records_has_no_scoring_windows():
    assert list(scoring_record_windows(numbered(0))) == []


# Varied and shuffled windows


def drawn(count: int, **options: object) -> list[Window]:
    """Return the windows of more than three epochs."""
    return list(
        islice(
            stream_windows(
                numbered(count),
                batch_size=3,
                window=16,
                start=START,
                options=StreamOptions(**options),
            ),
            60,
        )
    )


def test_varied_windows_read_each_stream_without_a_gap():
    for epoch in (0, 1, 2):
        windows = [window for window in drawn(900, vary=True) if _epoch_read(window) == epoch]
        targets = np.concatenate([window.targets.numpy() for window in windows])
        starts = numbered(900)[[0, 300, 600]].astype(np.int64)
        assert (targets == starts + np.arange(len(targets))[:, None]).all()
        assert 300 - 32 < len(targets) <= 300


def test_varied_windows_have_few_lengths_and_mostly_the_configured_one():
    lengths = [
        len(window.targets)
        for window in islice(
            stream_windows(
                numbered(60_000),
                batch_size=1,
                window=64,
                start=START,
                options=StreamOptions(vary=True),
            ),
            1500,
        )
    ]
    assert {length % 8 for length in lengths} == {0}
    assert len(set(lengths)) <= 12
    assert 0.4 < lengths.count(64) / len(lengths) < 0.8
    assert 0.01 < sum(length <= 40 for length in lengths) / len(lengths) < 0.1
    assert lengths[1:800] != lengths[801:1600]


def test_a_text_of_one_window_has_one_varied_window():
    windows = list(
        islice(
            stream_windows(
                numbered(16), batch_size=1, window=16, start=START, options=StreamOptions(vary=True)
            ),
            3,
        )
    )
    assert [(len(window.targets), window.resets_state) for window in windows] == [(16, True)] * 3


def test_shuffled_streams_begin_at_other_tokens_in_each_epoch_and_read_every_token():
    windows = drawn(16 * 3 * 4, shuffle=True)
    firsts = set()
    for epoch in range(5):
        read = np.concatenate(
            [window.targets.numpy() for window in windows if _epoch_read(window) == epoch]
        )
        assert (np.sort(read, axis=0) == np.sort(numbered(192).reshape(3, 64).T, axis=0)).all()
        firsts.add(tuple(read[0].tolist()))
    assert len(firsts) == 5


def test_an_input_of_a_shuffled_stream_is_the_token_before_its_target_in_the_text():
    for window in drawn(192, shuffle=True, vary=True):
        targets = window.targets.numpy()
        assert (window.inputs.numpy() == np.where(targets == 2, EOS, targets - 1)).all()


def test_varied_and_shuffled_windows_resume_from_any_position():
    for options in ({"vary": True}, {"shuffle": True}, {"vary": True, "shuffle": True}):
        windows = drawn(900, **options)
        for at in (0, 7, 21, 40):
            start = windows[at].next
            resumed = stream_windows(
                numbered(900),
                batch_size=3,
                window=16,
                start=start,
                options=StreamOptions(**options),
            )
            expected = windows[at + 1 : at + 16]
            pairs = zip(islice(resumed, 15), expected, strict=True)
            assert all(are_equal(*pair) for pair in pairs), options


def test_varied_and_shuffled_windows_depend_only_on_the_seed():
    options = {"vary": True, "shuffle": True}
    first, again, other = (drawn(900, seed=seed, **options) for seed in (1, 1, 2))
    assert all(are_equal(*pair) for pair in zip(first, again, strict=True))
    assert not all(are_equal(*pair) for pair in zip(first, other, strict=True))


def _epoch_read(window: Window) -> int:
    return window.next.epoch - (window.next.index == 0)


def test_a_position_after_the_end_of_its_epoch_is_its_last_window():
    records = np.array([5, EOS, 6, 7, EOS])
    start = Position(3, 10**9)
    for windows in (
        stream_windows(np.arange(2, 40), batch_size=2, window=4, start=start),
        record_windows(records, batch_size=1, window=4, seed=1, start=start),
    ):
        last, following = islice(windows, 2)
        assert last.next == Position(4, 0)
        assert following.next == Position(4, 1)


# Restarts at starts of documents


def document_ids(lengths: list[int]) -> np.ndarray:
    """Return documents of these lengths; ids are distinct except for the <EOS> after each."""
    ids = numbered(sum(lengths)).astype(np.int64)
    ids[np.cumsum(lengths) - 1] = EOS
    return ids


def endless(ids: np.ndarray, *, start: Position = START, **options) -> Iterator[Window]:
    options = StreamOptions(**{"restart_windows": 2, **options})
    return stream_windows(ids, batch_size=3, window=8, start=start, options=options)


def restarting(ids: np.ndarray, count: int, *, start: Position = START, **options) -> list[Window]:
    return list(islice(endless(ids, start=start, **options), count))


def test_a_stream_restarts_with_the_last_document_that_starts_in_a_window():
    ids = np.array([2, 3, 4, 5, EOS, 6, EOS, 7, 8, EOS, 9, 10, 11, 12, EOS, 13, 14, 15, 16])
    windows = stream_windows(
        ids, batch_size=1, window=4, start=START, options=StreamOptions(restart_windows=1)
    )
    read = epoch_of(list(islice(windows, 12)))
    assert [window.targets[:, 0].tolist() for window in read] == [
        [2, 3, 4, 5],
        [EOS, 6, EOS, PADDING],
        [7, 8, EOS, 9],
        [10, 11, 12, EOS],
        [13, 14, 15, 16],
    ]
    assert [window.inputs[0, 0].tolist() for window in read] == [EOS, 5, EOS, 9, EOS]
    assert [window.restarts is not None for window in read] == [False, False, True, False, True]
    assert [window.resets_state for window in read] == [True, False, False, False, False]


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=4, max_size=40),
    gap=st.integers(1, 4),
    seed=st.integers(0, 9),
    vary=st.booleans(),
    shuffle=st.booleans(),
)
def test_restarting_streams_read_each_token_at_most_once(lengths, gap, seed, vary, shuffle):
    ids = document_ids(lengths)
    if len(ids) < 3 * 8:
        return
    options = {"restart_windows": gap, "seed": seed, "vary": vary, "shuffle": shuffle}
    windows = epoch_of(endless(ids, **options))
    length = len(ids) // 3
    after_eos = {EOS, *ids[1:][ids[:-1] == EOS].tolist()}
    read = np.concatenate([window.targets.numpy() for window in windows])
    for column in range(3):
        stream = read[:, column]
        tokens = stream[stream != PADDING]
        whole = ids[column * length : (column + 1) * length]
        begin = int(np.flatnonzero(np.roll(whole, 0) == tokens[0])[0]) if tokens[0] != EOS else None
        if begin is not None and not shuffle:
            assert begin == 0
            assert tokens.tolist() == whole[: len(tokens)].tolist()  # In order, without a gap.
        values, counts = np.unique(tokens[tokens != EOS], return_counts=True)
        assert (counts == 1).all() and set(values.tolist()) <= set(whole.tolist())
        assert (tokens == EOS).sum() <= (whole == EOS).sum()
        assert len(tokens) > length - 2 * 8  # Windows of varying length have at most 2 x 8 tokens.
    restarts = [window for window in windows if window.restarts is not None]
    for window in restarts:
        assert (window.inputs[0][window.restarts] == EOS).all()
        assert set(window.targets[0][window.restarts].tolist()) <= after_eos
    since = np.full(3, gap)
    for window in windows[1:]:
        since += 1
        if window.restarts is not None:
            assert (since[window.restarts.numpy()] > gap).all()
            since[window.restarts.numpy()] = 0


def test_restarting_streams_resume_from_any_position_and_differ_from_epoch_to_epoch():
    ids = document_ids([11, 5, 30, 2, 2, 17, 40, 9, 1, 23] * 4)
    for options in ({}, {"vary": True, "shuffle": True}, {"direction": "both"}):
        windows = restarting(ids, 90, **options)
        for at in (0, 5, 19, 40, 77):
            resumed = restarting(ids, 12, start=windows[at].next, **options)
            for window, expected in zip(resumed, windows[at + 1 : at + 13], strict=False):
                assert are_equal(window, expected), (options, at)
        per_epoch = len(epoch_of(windows))
        first, second = windows[:per_epoch], windows[per_epoch : 2 * per_epoch]
        assert not all(are_equal(*pair) for pair in zip(first, second, strict=True))


def test_both_directions_restart_side_by_side():
    ids = document_ids([11, 5, 30, 2, 2, 17, 40, 9, 1, 23] * 4)
    windows = epoch_of(restarting(ids, 90, direction="both"))
    assert {window.inputs.shape[1] for window in windows} == {6}
    restarts = torch.stack([w.restarts for w in windows if w.restarts is not None])
    assert restarts[:, :3].any() and restarts[:, 3:].any()
    targets = torch.cat([window.targets for window in windows])
    for half in targets.chunk(2, dim=1):
        assert (half != PADDING).sum() > len(ids) - 3 * 8 - 3
    backward = epoch_of(restarting(ids, 90, direction="backward"))
    for window, both in zip(backward, windows, strict=False):
        assert window.targets.tolist() == both.targets[:, 3:].tolist()


def test_a_text_of_one_document_is_read_as_without_restarts():
    ids = document_ids([300])
    for options in ({}, {"vary": True, "shuffle": True}):
        with_restarts = restarting(ids, 40, **options)
        without = restarting(ids, 40, restart_windows=0, **options)
        assert all(are_equal(*pair) for pair in zip(with_restarts, without, strict=True)), options
        assert all(window.restarts is None for window in with_restarts)


def test_restarts_pad_less_than_half_a_window_in_each_segment_of_short_documents():
    ids = document_ids([5] * 400)
    windows = epoch_of(restarting(ids, 400, restart_windows=3))
    padded = sum(int((window.targets == PADDING).sum()) for window in windows[:-2])
    assert 0 < padded < 0.1 * len(ids)
    assert sum(int(w.restarts.sum()) for w in windows if w.restarts is not None) > 3 * 15
