"""A lock file that one process holds at a time."""

import fcntl
import os
import time
import weakref
from contextlib import suppress
from pathlib import Path

from charlm.errors import CharlmError
from charlm.storage.atomic import make_folder


class ProcessLock:
    """A file that one process at a time holds: the kernel takes it from a process that ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Hold nothing yet.

        Args:
            path: The file. It stays, with the number of the process that held it last.
        """
        self._path = path
        self._close: weakref.finalize[..., ProcessLock] | None = None

    def acquire(
        self, *, error_type: type[CharlmError], remedy: str, wait_seconds: float = 0.0
    ) -> None:
        """Hold the file, if this object does not yet. On a file system that has no locks, nothing is held.

        Args:
            error_type: Of the error.
            remedy: What its message advises where another holds it.
            wait_seconds: For how long to wait for another that holds it.

        Raises:
            CharlmError: Of that kind: another holds it, or the folder cannot be written.
        """
        if self._close is not None:
            return
        try:
            make_folder(self._path.parent)
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise error_type(
                f"{self._path}: cannot be written: {error.strerror}; make its folder writable"
            ) from None
        self._close = weakref.finalize(self, os.close, handle)
        try:
            _flock(handle, wait_seconds)
        except BlockingIOError:
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            self.release()
            raise error_type(
                f"{self._path.parent}: process {holder} is at work in it; {remedy}"
            ) from None
        except OSError:
            return
        with suppress(OSError):  # On a full disk it holds all the same, without a name.
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)

    def is_held(self) -> bool:
        """Whether a process holds the file, this one included."""
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(handle)
        return False

    def release(self) -> None:
        """Let go of the file."""
        if self._close is not None:
            self._close()
            self._close = None


def _flock(handle: int, wait_seconds: float) -> None:
    """Lock an open file; raise BlockingIOError where another holds it all the time."""
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.01)
