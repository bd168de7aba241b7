"""Memory maps of large text files, read block by block."""

import mmap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from charlm.errors import CorpusError

BLOCK_BYTES = 1 << 20  # Bytes read from a file at once.


@contextmanager
def map_file(path: Path) -> Iterator[mmap.mmap]:
    """Map a file, which must not be empty, into memory for reading.

    Raises:
        CorpusError: The file cannot be read, or no longer exists.
    """
    with translate_read_errors(path), path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with closing(view):
        yield view


class PageRelease:
    """Releases the memory of the pages that were read, block by block.

    A call of the system for each of many short documents would take longer than to read them.
    """

    def __init__(self, view: mmap.mmap) -> None:
        """Begin at the start of a file."""
        self._view = view
        self._released = 0

    def up_to(self, stop: int) -> None:
        """Release what was read up to an offset, if it is a block or more."""
        if stop - self._released >= BLOCK_BYTES:
            release_pages(self._view, self._released, stop)
            self._released = stop


def release_pages(view: mmap.mmap, start: int, stop: int) -> None:
    """Release the memory of the pages already read, so that it does not grow with the file.

    Args:
        view: Memory map of the file.
        start: Offset of the first byte read.
        stop: Offset after the last byte read.
    """
    first_page = start - start % mmap.PAGESIZE
    if first_page < stop and hasattr(mmap, "MADV_DONTNEED"):  # Windows has no such call.
        view.madvise(mmap.MADV_DONTNEED, first_page, stop - first_page)


@contextmanager
def translate_read_errors(path: Path) -> Iterator[None]:
    """Translate an operating system error in the block into an error about the text file.

    Raises:
        CorpusError: The file no longer exists, or the disk cannot read it.
    """
    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror}; restore the file, or use a copy of it"
        ) from None
