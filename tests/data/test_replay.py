"""An old text is mixed into every pass over a new one, a part at a time."""

import numpy as np
import pytest

from charlm.data.replay import Replay
from charlm.data.tokenizer import EOS
from charlm.data.windows.records import record_windows
from charlm.data.windows.streams import stream_windows
from charlm.data.windows.window import PADDING, Position

OLD_STREAM = np.arange(100, 200).astype(np.uint8)
OLD_RECORDS = np.concatenate([[100 + n, 100 + n, EOS] for n in range(60)]).astype(np.uint8)
NEW_STREAM = np.tile(np.arange(2, 50), 4).astype(np.uint8)
NEW_RECORDS = np.concatenate([[2 + n % 40, 3, EOS] for n in range(100)]).astype(np.uint8)


def passes(windows, count):
    """Return the targets of each of the first passes, padding left out."""
    found = [[] for _ in range(count)]
    for window in windows:
        epoch = window.next.epoch if window.next.index else window.next.epoch - 1
        if epoch >= count:
            return [np.concatenate(targets) for targets in found]
        targets = window.targets.numpy()
        found[epoch].append(targets[targets != PADDING])


def replay(mode, fraction=0.25):
    ids = OLD_STREAM if mode == "stream" else OLD_RECORDS
    return Replay(ids=ids, mode=mode, fraction=fraction, window=24)


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_a_stream_has_the_fraction_of_old_tokens_and_each_pass_reads_the_next_part(mode):
    windows = stream_windows(
        NEW_STREAM, batch_size=2, window=8, start=Position(), replay=replay(mode)
    )
    first, second = passes(windows, 2)
    fraction = 0.25 if mode == "stream" else 0.25 * 2 / 3  # Every third of the old ids is <EOS>.
    assert (first >= 100).mean() == pytest.approx(fraction, abs=0.06)
    old = [np.unique(targets[targets >= 100]) for targets in (first, second)]
    assert len(old[0]) and len(old[1])
    assert old[0].tolist() != old[1].tolist()


def test_a_pass_over_a_stream_has_the_tokens_that_earlier_versions_read():
    """Otherwise their trainings would continue at another place of the text."""
    new = np.array([5, 6, 7, EOS], dtype=np.uint8)
    read = replay("stream", 0.5)
    assert read.stream(new, 0).tolist() == [5, 6, 7, EOS, EOS, 100, 101, 102, 103, EOS]
    assert read.stream(new[:3], 1).tolist() == [5, 6, 7, EOS, 103, 104, 105, EOS]


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_records_have_old_records_or_pieces_of_an_old_stream_beside_them(mode):
    windows = record_windows(
        NEW_RECORDS, batch_size=4, window=32, seed=1, start=Position(), replay=replay(mode, 0.2)
    )
    first, second = passes(windows, 2)
    for targets in (first, second):
        assert sorted(targets[(targets < 100) & (targets > 3)]) == sorted(
            NEW_RECORDS[NEW_RECORDS > 3]
        ), "every new record is read once"
    old = [set(targets[targets >= 100].tolist()) for targets in (first, second)]
    assert old[0] != old[1]
    if mode == "records":
        assert (first >= 100).mean() == pytest.approx(0.2 * 2 / 3, abs=0.04)


def test_the_beginning_of_a_piece_of_an_old_stream_is_not_predicted():
    """Otherwise the model would learn that texts begin in the middle of a sentence."""
    read = replay("stream").records(NEW_RECORDS, np.array([[0, 3], [3, 6]]), 1)
    assert read.unscored.tolist()[:2] == [0, 0]
    assert set(read.unscored.tolist()[2:]) == {6}
    windows = record_windows(
        NEW_RECORDS, batch_size=4, window=24, seed=1, start=Position(), replay=replay("stream")
    )
    for _, window in zip(range(40), windows, strict=False):
        if window.resets_state:
            assert not (window.targets[:6] >= 100).any()


@pytest.mark.parametrize("mode", ["stream", "records"])
def test_reading_continues_at_any_position_as_if_it_had_not_stopped(mode):
    def windows(start):
        if mode == "stream":
            return stream_windows(
                NEW_STREAM, batch_size=2, window=8, start=start, replay=replay("records")
            )
        return record_windows(
            NEW_RECORDS, batch_size=4, window=8, seed=1, start=start, replay=replay("stream")
        )

    whole = [window for _, window in zip(range(90), windows(Position()), strict=False)]
    for number in (5, 40, 60):
        resumed = windows(whole[number].next)
        for expected in whole[number + 1 : number + 20]:
            window = next(resumed)
            assert window.inputs.equal(expected.inputs)
            assert window.targets.equal(expected.targets)
            assert window.next == expected.next
