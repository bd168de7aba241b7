"""Atomic, durable writes: a file is complete or absent, also after a power failure."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from charlm.errors import CharlmError, CorpusError

WRITE_REMEDY = "set CHARLM_CACHE to a folder that can be written"  # Remedy for files of the cache.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag.
_TEMPORARY_NAME = re.compile(r"\.(.+)\.[a-z0-9_]{8}")  # As `tempfile` makes it from its prefix.


@contextmanager
def atomic_write(
    target: Path,
    *,
    error_type: type[CharlmError] = CorpusError,
    remedy: str = WRITE_REMEDY,
) -> Iterator[BinaryIO]:
    """Write a temporary file beside `target`, flush it to disk, and rename it once it is complete.

    No reader ever sees a part of the file. If the block raises, `target` stays as it was.

    Args:
        target: The file to write; missing parent folders are created.
        error_type: Class of the error raised if the file cannot be written.
        remedy: What the user can do then.

    Yields:
        The temporary file, open for writing.

    Raises:
        CharlmError: The folder is not writable, or the disk is full.
    """
    temporary: Path | None = None
    try:
        make_folder(target.parent)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _write_error(target, error, error_type, remedy) from None
    finally:
        if temporary is not None:
            with suppress(OSError):  # The error above already says why nothing can be written.
                temporary.unlink(missing_ok=True)


@contextmanager
def atomic_output(target: Path, *, error_type: type[CharlmError], remedy: str) -> Iterator[Path]:
    """Let a block write a file or a folder beside `target`, and rename it once it is complete.

    If the block raises, nothing is left, and `target` stays as it was.

    Args:
        target: The file or folder to write; missing parent folders are created. A file is
            replaced, a folder must be empty.
        error_type: Class of the error raised if it cannot be written.
        remedy: What the user can do then.

    Yields:
        Path that the block writes a file or a folder to; its name is that of the target.

    Raises:
        CharlmError: The place is not writable, or the disk is full.
    """
    workplace: Path | None = None
    try:
        make_folder(target.parent)
        workplace = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        written = workplace / target.name
        yield written
        for path in [written, *written.rglob("*")]:
            _sync(path)
        if target.is_dir():
            target.rmdir()  # It is empty; Windows does not rename a folder to one that exists.
        written.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _write_error(target, error, error_type, remedy) from None
    finally:
        if workplace is not None:
            shutil.rmtree(workplace, ignore_errors=True)


def remove_temporary_files(folder: Path) -> None:
    """Remove the files that `atomic_write` left behind when its process was killed.

    Call it only while no other process writes into the folder.
    """
    for path in folder.glob(".*"):
        if unfinished_name(path):
            with suppress(OSError):  # The next call tries again.
                path.unlink(missing_ok=True)


def unfinished_name(path: Path) -> str | None:
    """Return the name of the file that `atomic_write` was writing to `path`; None for another file.

    >>> unfinished_name(Path(".metrics.jsonl.a1b2c3d4")), unfinished_name(Path("metrics.jsonl"))
    ('metrics.jsonl', None)
    """
    match = _TEMPORARY_NAME.fullmatch(path.name)
    return match[1] if match else None


def append_line(path: Path, line: str, *, error_type: type[CharlmError], remedy: str) -> None:
    """Append a line to a file and flush it to disk.

    A crash or a full disk may leave a part of the line.

    Args:
        path: The file, created if it does not exist. A symbolic link is refused.
        line: The line without its line end.
        error_type: Class of the error raised if the file cannot be written.
        remedy: What the user can do then.

    Raises:
        CharlmError: The file cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK, 0o644)
        with os.fdopen(handle, "ab") as file:
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _write_error(path, error, error_type, remedy) from None


def can_write(folder: Path) -> bool:
    """Return whether files can be written in a folder, which is created if it does not exist."""
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents so that they survive a power failure."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for created in missing:
        _sync_folder(created.parent)


def link_file(source: Path, target: Path) -> None:
    """Create a hard link to a file so that it survives a power failure.

    Args:
        source: The existing file.
        target: Its second name; missing parent folders are created.

    Raises:
        OSError: The file system has no hard links, or is not writable.
    """
    make_folder(target.parent)
    target.hardlink_to(source)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power failure."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(path: Path) -> None:
    """Flush a file or a folder to disk."""
    if path.is_dir():
        _sync_folder(path)
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_error(
    path: Path, error: OSError, error_type: type[CharlmError], remedy: str
) -> CharlmError:
    return error_type(f"{path}: cannot be written: {error.strerror}; {remedy}")
