"""Single members of zip and tar archives."""

import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from charlm.data.fetching import DISK_REMEDY, read_error
from charlm.errors import FetchError
from charlm.storage.atomic import atomic_write
from charlm.storage.memory_maps import BLOCK_BYTES

_NUM_LISTED_MEMBERS = 8  # Members listed in the message about a missing one.
_MAX_GROWTH = 1032  # Largest ratio of deflate; bzip2 and xz pack zeros far better than any text.
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # zipfile: an unknown compression, or an encrypted member.
    ValueError,  # zipfile: a member name that cannot be decoded.
    struct.error,
)


def extract_member(archive: Path, member: str, destination: Path) -> None:
    """Extract one file of an archive.

    The paths inside the archive never decide where a file is written.

    Args:
        archive: A zip file, or a tar file, plain or compressed with gzip, bzip2 or xz.
        member: Path inside the archive; a leading "./" is ignored.
        destination: File to write; an existing file is replaced, missing folders are created.

    Raises:
        FetchError: The archive cannot be read or has no such member; the member is a link, a folder
            or encrypted, or too much larger than the archive to be text; or the destination cannot
            be written.
    """
    with (
        _open_archive_member(archive, member) as source,
        atomic_write(destination, error_type=FetchError, remedy=DISK_REMEDY) as target,
    ):
        for block in _blocks_of_member(archive, source):
            target.write(block)


@contextmanager
def _open_archive_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    with ExitStack() as stack:
        with _translate_archive_errors(archive):
            source = stack.enter_context(_open_member(stack, archive, member))
        yield source


def _open_member(stack: ExitStack, archive: Path, member: str) -> IO[bytes]:
    # Tar is tried first: a tar file that contains a zip file can look like a zip file.
    if tarfile.is_tarfile(archive):
        return _open_tar_member(stack.enter_context(tarfile.open(archive)), archive, member)
    if zipfile.is_zipfile(archive):
        return _open_zip_member(stack.enter_context(zipfile.ZipFile(archive)), archive, member)
    raise FetchError(f"{archive}: not a zip or tar archive; remove it and download it again")


def _open_tar_member(opened: tarfile.TarFile, archive: Path, member: str) -> IO[bytes]:
    names = []
    for entry in opened:  # A complete listing would decompress the rest of the archive.
        names.append(entry.name)
        if _is_same_name(entry.name, member):
            source = opened.extractfile(entry) if entry.isfile() else None
            if source is None:
                raise _not_a_file(archive, member)
            return source
    raise _missing_member(archive, member, names)


def _open_zip_member(opened: zipfile.ZipFile, archive: Path, member: str) -> IO[bytes]:
    for entry in opened.infolist():
        if _is_same_name(entry.filename, member):
            # The upper half is the Unix mode, or 0 if another system wrote the archive.
            file_type = stat.S_IFMT(entry.external_attr >> 16)
            is_encrypted = bool(entry.flag_bits & 1)
            if entry.is_dir() or is_encrypted or file_type not in {0, stat.S_IFREG}:
                raise _not_a_file(archive, member)
            return opened.open(entry)
    raise _missing_member(archive, member, opened.namelist())


def _is_same_name(name: str, member: str) -> bool:
    return name.removeprefix("./").rstrip("/") == member.removeprefix("./").rstrip("/")


def _not_a_file(archive: Path, member: str) -> FetchError:
    return FetchError(
        f"{archive}: member {member!r} is a link, a folder or encrypted; "
        "name a regular file of the archive"
    )


def _missing_member(archive: Path, member: str, names: list[str]) -> FetchError:
    listed = ", ".join(repr(name) for name in names[:_NUM_LISTED_MEMBERS]) or "none"
    num_others = len(names) - _NUM_LISTED_MEMBERS
    others = f" and {num_others} more" if num_others > 0 else ""
    return FetchError(f"{archive}: no member {member!r}; the members are {listed}{others}")


def _blocks_of_member(archive: Path, source: IO[bytes]) -> Iterator[bytes]:
    bytes_left = _MAX_GROWTH * archive.stat().st_size
    while True:
        with _translate_archive_errors(archive):
            block = source.read(BLOCK_BYTES)
        if not block:
            return
        bytes_left -= len(block)
        if bytes_left < 0:
            raise FetchError(
                f"{archive}: unpacks to more than {_MAX_GROWTH} times its size, "
                "which no text does; download it again"
            )
        yield block


@contextmanager
def _translate_archive_errors(archive: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, *_BROKEN_ARCHIVE) as error:
        raise read_error(archive, error) from error
