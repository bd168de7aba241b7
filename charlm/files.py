"""Files that are whole or not there, that one process at a time holds, that are read without standing in memory."""

import fcntl
import mmap
import os
import re
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from charlm.errors import CharlmError, CorpusError

BLOCK_BYTES = 1 << 20  # What is read from a file at once.
_LEFTOVER = re.compile(r"\..+\.\w{8}")  # What `writing` names a file until it is whole.


@contextmanager
def writing(
    target: Path,
    *,
    kind: type[CharlmError] = CorpusError,
    remedy: str = "set CHARLM_CACHE to a folder that can be written",
) -> Iterator[BinaryIO]:
    """Write a file beside `target`, flush it to disk, and rename it when it is whole: no half of one is ever read.

    Args:
        target: The file; folders above it are made.
        kind: Of the error, where the file cannot be written.
        remedy: What its message advises.

    Raises:
        CharlmError: Of that kind: the folder cannot be written, or the disk is full.
    """
    beside: str | None = None
    try:
        make_folder(target.parent)
        handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(beside).chmod(0o644)
        Path(beside).replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise kind(f"{target}: cannot be written: {error.strerror}; {remedy}") from None
    finally:
        if beside is not None:
            with suppress(OSError):  # Why it could not be written is told already.
                Path(beside).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `writing` left in a folder when its process was killed; only where no other process writes."""
    for path in folder.glob(".*"):
        if _LEFTOVER.fullmatch(path.name):
            with suppress(OSError):  # The next call tries again.
                path.unlink(missing_ok=True)


def append_line(path: Path, line: str, *, kind: type[CharlmError], remedy: str) -> None:
    """Add a line to a file and flush it to disk. A crash, or a full disk, may leave a part of the line.

    Args:
        path: The file, made if it is not there; never one that a link leads to.
        line: Without its end.
        kind: Of the error, where the file cannot be written.
        remedy: What its message advises.

    Raises:
        CharlmError: Of that kind.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        with os.fdopen(handle, "ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise kind(f"{path}: cannot be written: {error.strerror}; {remedy}") from None


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are not there, to last through a power cut."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _flush_folder(made.parent)


def link_file(source: Path, target: Path) -> None:
    """Give a file on disk a second name, to last through a power cut; folders above it are made.

    Raises:
        OSError: The file system has no such links, or cannot be written.
    """
    make_folder(target.parent)
    target.hardlink_to(source)
    _flush_folder(target.parent)


class Lock:
    """A file that one process at a time holds: the kernel takes it from a process that ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Hold nothing yet.

        Args:
            path: The file. It stays, with the number of the process that held it last.
        """
        self._path = path
        self._close: weakref.finalize[..., Lock] | None = None

    def take(self, *, kind: type[CharlmError], remedy: str, wait_seconds: float = 0.0) -> None:
        """Hold the file, if this object does not yet. On a file system that has no locks, nothing is held.

        Args:
            kind: Of the error.
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
            raise kind(f"{self._path}: cannot be written: {error.strerror}; make its folder writable") from None
        self._close = weakref.finalize(self, os.close, handle)
        try:
            _flock(handle, wait_seconds)
        except BlockingIOError:
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            self.release()
            raise kind(f"{self._path.parent}: process {holder} is at work in it; {remedy}") from None
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


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file that is not empty into memory, to be read.

    Raises:
        CorpusError: It cannot be read, or is not there any more.
    """
    with reading(path), path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with closing(view):
        yield view


def let_go(view: mmap.mmap, start: int, stop: int) -> None:
    """Give back the memory of what has been read of a mapped file, so that it does not grow with the file.

    Args:
        view: The file.
        start: First byte.
        stop: The byte after the last.
    """
    begin = start - start % mmap.PAGESIZE
    if begin < stop:
        view.madvise(mmap.MADV_DONTNEED, begin, stop - begin)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tell in one line what keeps a text from being read.

    Raises:
        CorpusError: It is gone, or the disk cannot read it.
    """
    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror}; put the text back, or take a copy of it"
        ) from None


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
