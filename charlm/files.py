"""Files that are whole or not there, and files that are read without standing in memory."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from charlm.errors import CharlmError, CorpusError

BLOCK_BYTES = 1 << 20  # What is read from a file at once.


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
        target.parent.mkdir(parents=True, exist_ok=True)
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
            Path(beside).unlink(missing_ok=True)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """Map a file that is not empty into memory, to be read."""
    with path.open("rb") as file, closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as view:
        yield view


def _flush_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
