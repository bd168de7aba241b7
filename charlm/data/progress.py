"""Progress of reading and encoding texts, for whoever listens: this room prints nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class ProgressListener:
    """Is told what is read or encoded. This one ignores it."""

    def begin(self, activity: str) -> None:
        """Begin an activity, such as "reading 1,000 files"."""

    def advance(self, num_bytes: int) -> None:
        """Add the bytes that were read or encoded since the last call."""


_listener: ContextVar[ProgressListener] = ContextVar("listener", default=ProgressListener())  # noqa: B039 - it has no state.


@contextmanager
def told_progress(listener: ProgressListener) -> Iterator[None]:
    """Tell a listener about the texts that are read or encoded in the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> ProgressListener:
    """Return the listener of the innermost `told_progress`."""
    return _listener.get()
