"""A lock file that one process holds at a time."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from charlm.errors import CharlmError
from charlm.storage.atomic import make_folder

# What flock answers on a file system that has no locks, such as some network file systems.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_POLL_SECONDS = 0.01


class ProcessLock:
    """A lock file that at most one process holds; it contains the process id of the last holder.

    It is filelock's kernel lock (flock): a process that ends, however it ends, no longer holds it.
    A symbolic link in place of the file is refused.
    """

    def __init__(self, path: Path) -> None:
        """Create the lock without acquiring it; nothing is written yet.

        Args:
            path: The lock file. It stays on disk after the lock is released.
        """
        self._path = path
        self._lock = FileLock(
            path,
            mode=0o644,
            thread_local=False,  # Another thread than the one that acquired it may release it.
            poll_interval=_POLL_SECONDS,
            fallback_to_soft=False,  # A soft lock would outlive a process that is killed.
            on_acquired=_write_process_id,
        )

    def acquire(
        self, *, error_type: type[CharlmError], remedy: str, wait_seconds: float = 0.0
    ) -> None:
        """Acquire the lock, unless this object holds it already.

        On a file system without locks this does nothing, so that one can train there too.

        Args:
            error_type: Class of the error.
            remedy: What the user can do if another process holds the lock.
            wait_seconds: Longest time to wait for another process to release the lock.

        Raises:
            CharlmError: Another process holds the lock, or the folder is not writable.
        """
        if self._lock.is_locked:
            return
        try:
            make_folder(self._path.parent)
            self._lock.acquire(timeout=wait_seconds)
        except Timeout:
            holder = self._holder()
            raise error_type(
                f"{self._path.parent}: process {holder} is at work in this folder; {remedy}"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise error_type(
                    f"{self._path}: cannot write the lock file: {error.strerror}; free the disk, "
                    "name another folder, or remove the lock file if it is a link"
                ) from None

    def release(self) -> None:
        """Release the lock, if this object holds it."""
        self._lock.release(force=True)

    def _holder(self) -> str:
        """Return the process id in the lock file."""
        with suppress(OSError), self._path.open("rb") as file:
            return file.read(20).decode(errors="replace").strip() or "unknown"
        return "unknown"


def _write_process_id(handle: int) -> None:
    with suppress(OSError):  # On a full disk the lock is held without a process id.
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, f"{os.getpid()}\n".encode())
