"""Signals that ask a training to stop: it finishes the step, saves, and ends."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

# Ctrl-C; the request of a batch system; a closed terminal or connection; the request that a batch
# system can send some time before it ends a job; Ctrl-Break. A system may lack some of them.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK")


class StopRequest:
    """The request to stop. A call returns whether there was one.

    Attributes:
        received: Numbers of the signals received, in order.
    """

    def __init__(self) -> None:
        """Start without a request."""
        self.received: list[int] = []

    def __call__(self) -> bool:
        """Return whether to stop."""
        return bool(self.received)

    @property
    def exit_status(self) -> int:
        """Exit status of a program that was stopped: 128 plus the first signal; 0 without one."""
        return 128 + self.received[0] if self.received else 0


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask to stop: those of `_NAMES` that this system has.

    A hangup that is ignored (`nohup`) is not among them.
    """
    present = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return [
        number
        for number in present
        if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN
    ]


def interrupt_signals() -> list[signal.Signals]:
    """Return Ctrl-C, if it raises KeyboardInterrupt in this thread; else nothing."""
    is_main = threading.current_thread() is threading.main_thread()
    is_raised = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return [signal.SIGINT] if is_main and is_raised else []


@contextmanager
def stop_requests(
    numbers: Sequence[signal.Signals] | None = None, *, ignore_second: bool = False
) -> Iterator[StopRequest]:
    """Turn the first signal that asks to stop into a request to stop after the step.

    Args:
        numbers: The signals; by default `stop_signals()`.
        ignore_second: Whether a second Ctrl-C is ignored; otherwise it interrupts at once. A
            launcher of several processes passes on a Ctrl-C that they have received already.

    Yields:
        The request.
    """
    request = StopRequest()
    numbers = stop_signals() if numbers is None else numbers

    def handle(number: int, frame: FrameType | None) -> None:
        if request() and number == signal.SIGINT and not ignore_second:
            raise KeyboardInterrupt
        request.received.append(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
