"""Progress of reading and encoding texts, reported to a listener: this room prints nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class ProgressListener:
    """Receives the progress of reading and encoding. This one ignores it."""

    def begin(self, activity: str) -> None:
        """Begin an activity, such as "reading 1,000 files"."""

    def advance(self, num_bytes: int) -> None:
        """Add the bytes that were read or encoded since the last call."""


_NO_LISTENER = ProgressListener()
_listener: ContextVar[ProgressListener] = ContextVar("listener", default=_NO_LISTENER)


@contextmanager
def reported_progress(listener: ProgressListener) -> Iterator[None]:
    """Report the texts that are read or encoded in the block to a listener."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> ProgressListener:
    """Return the listener of the innermost `reported_progress`."""
    return _listener.get()
