"""Atomic, durable writes: a file is complete or absent, also after a power failure."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from charlm.errors import CharlmError, CorpusError

_LEFTOVER = re.compile(r"\..+\.\w{8}")  # What `atomic_write` names a file until it is whole.


@contextmanager
def atomic_write(
    target: Path,
    *,
    error_type: type[CharlmError] = CorpusError,
    remedy: str = "set CHARLM_CACHE to a folder that can be written",
) -> Iterator[BinaryIO]:
    """Write a file beside `target`, flush it to disk, and rename it when it is whole: no half of one is ever read.

    Args:
        target: The file; folders above it are made.
        error_type: Of the error, where the file cannot be written.
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
        raise error_type(f"{target}: cannot be written: {error.strerror}; {remedy}") from None
    finally:
        if beside is not None:
            with suppress(OSError):  # Why it could not be written is told already.
                Path(beside).unlink(missing_ok=True)


def remove_temporary_files(folder: Path) -> None:
    """Remove what `atomic_write` left in a folder when its process was killed; only where no other process writes."""
    for path in folder.glob(".*"):
        if _LEFTOVER.fullmatch(path.name):
            with suppress(OSError):  # The next call tries again.
                path.unlink(missing_ok=True)


def append_line(path: Path, line: str, *, error_type: type[CharlmError], remedy: str) -> None:
    """Add a line to a file and flush it to disk. A crash, or a full disk, may leave a part of the line.

    Args:
        path: The file, made if it is not there; never one that a link leads to.
        line: Without its end.
        error_type: Of the error, where the file cannot be written.
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
        raise error_type(f"{path}: cannot be written: {error.strerror}; {remedy}") from None


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


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
