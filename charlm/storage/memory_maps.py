"""Memory maps of large text files, and reading them in blocks."""

import mmap
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from charlm.errors import CorpusError

BLOCK_BYTES = 1 << 20  # What is read from a file at once.


@contextmanager
def map_file(path: Path) -> Iterator[mmap.mmap]:
    """Map a file that is not empty into memory, to be read.

    Raises:
        CorpusError: It cannot be read, or is not there any more.
    """
    with translate_read_errors(path), path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with closing(view):
        yield view


def release_pages(view: mmap.mmap, start: int, stop: int) -> None:
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
def translate_read_errors(path: Path) -> Iterator[None]:
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
