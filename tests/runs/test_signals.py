"""Signals that ask a training to stop, and the exit status that they give."""

import signal
from collections.abc import Iterator

import pytest

from charlm.runs.signals import stop_requests, stop_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@pytest.fixture
def without_nohup() -> Iterator[None]:
    """Let a hangup end the process, also where nohup has started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize("ignore_second", [False, True])
def test_the_first_signal_is_a_request_and_a_second_ctrl_c_interrupts(ignore_second):
    for first in NUMBERS:
        with stop_requests(ignore_second=ignore_second) as request:
            assert not request() and request.exit_status == 0
            signal.raise_signal(first)
            assert request()
            signal.raise_signal(signal.SIGTERM)
            if ignore_second:
                signal.raise_signal(signal.SIGINT)
            else:
                with pytest.raises(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
        assert request.exit_status == 128 + first
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_system_without_hangup_and_user_signals_has_the_others(monkeypatch):
    for name in ("SIGHUP", "SIGUSR1"):
        monkeypatch.delattr(signal, name)
    assert stop_signals() == [signal.SIGINT, signal.SIGTERM]
    with stop_requests() as request:
        signal.raise_signal(signal.SIGTERM)
        assert request()
