"""Downloads that resume, checksums, and single members of archives.

A download grows in `NAME.part` beside its destination and is renamed when it is whole and checked, so that
whatever bears the destination's name is complete.
"""

import hashlib
import http.client
import lzma
import stat
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from charlm.errors import FetchError

Report = Callable[
    [int, int | None], None
]  # (bytes so far, bytes in all or None where the server does not say)

_BLOCK_BYTES = 1 << 16
_GET_IT_YOURSELF = "get the file another way and pass --from FILE"
_MEMBERS_NAMED = 8  # in the message about a missing member
_MOST_GROWTH = 1032  # What deflate can reach; bzip2 and xz make far more of zeros.
_BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # zipfile: a compression that it does not know, or a password that it was not given
    ValueError,  # zipfile: a name that is no text
    struct.error,
)


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    report: Report | None = None,
    timeout_seconds: float = 30.0,
) -> None:
    """Download a file, going on from where an earlier attempt stopped.

    Args:
        url: Where the file is published; http or https.
        destination: Where it goes, replacing what is there; its folder is made.
        sha256: Digest that the file must have, in hexadecimal; None accepts any.
        report: Called with the bytes so far and the bytes in all (None where the server does not say), first
            when the download begins and then after every block.
        timeout_seconds: How long the server may stay silent.

    Raises:
        FetchError: The URL is not http(s), its server cannot be reached or refuses, the download broke off
            (what came stays, and the next call resumes it), the digest differs (what came is deleted), or the
            file cannot be written.
    """
    _require_http(url)
    part = _beside(destination, ".part")
    with _writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _download(
            url, part, is_checked=sha256 is not None, report=report, timeout_seconds=timeout_seconds
        )
        if sha256 is not None:
            _require_sha256(url, part, sha256)
        part.replace(destination)
        _validator_file(part).unlink(missing_ok=True)


def check_sha256(path: Path, expected: str) -> None:
    """Compare a file's digest with the one that it must have.

    Args:
        path: The file.
        expected: SHA-256 in hexadecimal.

    Raises:
        FetchError: They differ, or the file cannot be read.
    """
    actual = _sha256(path)
    if actual != expected.lower():
        raise FetchError(
            f"{path}: sha256 is {actual}, expected {expected.lower()}; get the file again, "
            "or correct sha256 in the card if the publisher changed it"
        )


def unpack(archive: Path, member: str, destination: Path) -> None:
    """Extract one file of an archive to a place of our own choosing.

    The member's name only finds it: nothing is ever written where the archive says.

    Args:
        archive: A zip, or a tar that is plain or compressed by gzip, bzip2 or xz.
        member: Path inside the archive; a leading "./" makes no difference.
        destination: Where the file goes, replacing what is there; its folder is made.

    Raises:
        FetchError: The archive cannot be read, has no such member, or the member is a link, a folder, encrypted or so
            much larger than the archive that it is no text; or the destination cannot be written.
    """
    with _writing(destination), _opened_member(archive, member) as source:
        destination.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _beside(destination, ".unpacking")
        try:
            with unfinished.open("wb") as target:
                for block in _blocks_of_member(archive, source):
                    target.write(block)
            unfinished.replace(destination)
        finally:
            unfinished.unlink(missing_ok=True)


def _require_http(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise FetchError(f"{url}: not a URL ({error}); correct url in the card") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise FetchError(
            f"{url}: only http and https are fetched, got scheme {parts.scheme!r}; {_GET_IT_YOURSELF}"
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _validator_file(part: Path) -> Path:
    """Return where the server's mark of the version in `part` is kept."""
    return _beside(part, ".version")


@contextmanager
def _writing(destination: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error of one line."""
    try:
        yield
    except OSError as error:
        raise FetchError(
            f"{destination}: cannot be written ({error.strerror or error}); free some space or choose another folder"
        ) from error


def _download(
    url: str, part: Path, *, is_checked: bool, report: Report | None, timeout_seconds: float
) -> None:
    """Bring `part` to its full length, appending to what it holds where the server agrees."""
    response, offset = _request(url, part, is_checked=is_checked, timeout_seconds=timeout_seconds)
    with response:
        length = response.headers.get("Content-Length", "")
        total = offset + int(length) if length.isdecimal() else None
        _save_validator(part, response)
        with part.open("ab" if offset else "wb") as target:
            for block in _blocks_of_response(url, response, report, offset, total):
                target.write(block)


def _request(
    url: str, part: Path, *, is_checked: bool, timeout_seconds: float
) -> tuple[http.client.HTTPResponse, int]:
    """Ask for the rest of `part`, or for all of the file where the rest cannot be had.

    Args:
        url: Where the file is published.
        part: What an earlier attempt left, if any.
        is_checked: Whether the digest of the whole will be checked.
        timeout_seconds: How long the server may stay silent.

    Returns:
        The open response, and the byte at which it begins: the end of `part`, or 0.

    Raises:
        FetchError: The server cannot be reached or refuses.
    """
    offset = _resumable_bytes(part, is_checked=is_checked)
    if offset:
        try:
            response = _open(url, _range_headers(part, offset), timeout_seconds)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _refusal(url, error) from error
            error.close()
        else:
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                return response, 0
            if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                return response, offset
            response.close()
    # Nothing came earlier, or it is no beginning of the file as it is now.
    return _open_whole(url, timeout_seconds), 0


def _resumable_bytes(part: Path, *, is_checked: bool) -> int:
    """Count the bytes of `part` that a download may build upon."""
    # With neither a version nor a digest, parts of two files could be joined and nobody would know.
    if part.exists() and (is_checked or _validator_file(part).exists()):
        return part.stat().st_size
    return 0


def _range_headers(part: Path, offset: int) -> dict[str, str]:
    """Ask for the bytes from `offset`, provided that the file is still the one that `part` began."""
    headers = {"Range": f"bytes={offset}-"}
    validator = _validator_file(part)
    if validator.exists():
        headers["If-Range"] = validator.read_text(encoding="utf-8")
    return headers


def _save_validator(part: Path, response: http.client.HTTPResponse) -> None:
    """Keep the server's mark of this version; If-Range wants a strong ETag or a date (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if validator:
        _validator_file(part).write_text(validator, encoding="utf-8")
    else:
        _validator_file(part).unlink(missing_ok=True)


def _open(url: str, headers: dict[str, str], timeout_seconds: float) -> http.client.HTTPResponse:
    """Send a request and return the open response; a status that is an error raises `HTTPError`."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "charlm", **headers})
        response: http.client.HTTPResponse = urllib.request.urlopen(
            request, timeout=timeout_seconds
        )
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(f"{url}: cannot be reached ({reason}); {_GET_IT_YOURSELF}") from error
    return response


def _open_whole(url: str, timeout_seconds: float) -> http.client.HTTPResponse:
    try:
        return _open(url, {}, timeout_seconds)
    except urllib.error.HTTPError as error:
        raise _refusal(url, error) from error


def _refusal(url: str, error: urllib.error.HTTPError) -> FetchError:
    error.close()
    missing = {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
    problem = (
        "is no longer published there" if error.code in missing else "was refused by its server"
    )
    return FetchError(f"{url}: {problem}, status {error.code} ({error.reason}); {_GET_IT_YOURSELF}")


def _blocks_of_response(
    url: str,
    response: http.client.HTTPResponse,
    report: Report | None,
    done: int,
    total: int | None,
) -> Iterator[bytes]:
    """Yield the body of a response, reporting as it comes.

    Args:
        url: For messages.
        response: The open response.
        report: As in `fetch`.
        done: Bytes that earlier attempts brought.
        total: Bytes of the whole file, None where the server does not say.

    Raises:
        FetchError: The body broke off.
    """
    while True:
        if report is not None:
            report(done, total)
        try:
            block = response.read(_BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _broken_off(url, done, total, str(error)) from error
        if not block:
            break
        done += len(block)
        yield block
    if total is not None and done < total:
        raise _broken_off(url, done, total, "the server closed the connection")


def _broken_off(url: str, done: int, total: int | None, reason: str) -> FetchError:
    of_total = "" if total is None else f" of {total}"
    return FetchError(
        f"{url}: the download was truncated after {done}{of_total} bytes ({reason}); "
        "run the same command again: it resumes where the server allows it"
    )


def _require_sha256(url: str, part: Path, expected: str) -> None:
    actual = _sha256(part)
    if actual != expected.lower():
        part.unlink()
        _validator_file(part).unlink(missing_ok=True)
        raise FetchError(
            f"{url}: sha256 is {actual}, expected {expected.lower()}, and what came was deleted; "
            "run the same command again, or correct sha256 in the card if the publisher changed the file"
        )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FetchError:
    reason = " ".join(
        str(getattr(error, "strerror", None) or error).split()
    )  # some take several lines
    return FetchError(f"{path}: cannot be read ({reason}); name a file that is whole and readable")


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn whatever a damaged archive raises into an error of one line."""
    try:
        yield
    except (OSError, *_BROKEN_ARCHIVE) as error:
        raise _unreadable(archive, error) from error


@contextmanager
def _opened_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open one file of an archive, whatever the archive's kind."""
    with ExitStack() as stack:
        with _reading(archive):
            source = stack.enter_context(_open_member(stack, archive, member))
        yield source


def _open_member(stack: ExitStack, archive: Path, member: str) -> IO[bytes]:
    # The tar first: one that holds a zip may pass for a zip, never the other way round.
    if tarfile.is_tarfile(archive):
        return _open_tar_member(stack.enter_context(tarfile.open(archive)), archive, member)
    if zipfile.is_zipfile(archive):
        return _open_zip_member(stack.enter_context(zipfile.ZipFile(archive)), archive, member)
    raise FetchError(f"{archive}: neither a zip nor a tar archive; remove it and get it again")


def _open_tar_member(opened: tarfile.TarFile, archive: Path, member: str) -> IO[bytes]:
    names = []
    for entry in opened:  # by and by: a whole listing would decompress the rest of the archive
        names.append(entry.name)
        if _is_same_name(entry.name, member):
            source = opened.extractfile(entry) if entry.isfile() else None
            if source is None:
                raise _no_file(archive, member)
            return source
    raise _no_member(archive, member, names)


def _open_zip_member(opened: zipfile.ZipFile, archive: Path, member: str) -> IO[bytes]:
    for entry in opened.infolist():
        if _is_same_name(entry.filename, member):
            # The upper half holds the Unix mode, or nothing if another system wrote the archive.
            kind = stat.S_IFMT(entry.external_attr >> 16)
            is_encrypted = bool(entry.flag_bits & 1)
            if entry.is_dir() or is_encrypted or kind not in {0, stat.S_IFREG}:
                raise _no_file(archive, member)
            return opened.open(entry)
    raise _no_member(archive, member, opened.namelist())


def _is_same_name(name: str, member: str) -> bool:
    return name.removeprefix("./").rstrip("/") == member.removeprefix("./").rstrip("/")


def _no_file(archive: Path, member: str) -> FetchError:
    return FetchError(
        f"{archive}: member {member!r} is a link, a folder or encrypted; name a plain file of the archive"
    )


def _no_member(archive: Path, member: str, names: list[str]) -> FetchError:
    inside = ", ".join(repr(name) for name in names[:_MEMBERS_NAMED])
    more = f" and {len(names) - _MEMBERS_NAMED} more" if len(names) > _MEMBERS_NAMED else ""
    return FetchError(
        f"{archive}: no member {member!r}; name one of those inside: {inside or 'none'}{more}"
    )


def _blocks_of_member(archive: Path, source: IO[bytes]) -> Iterator[bytes]:
    left = _MOST_GROWTH * archive.stat().st_size
    while True:
        with _reading(archive):
            block = source.read(_BLOCK_BYTES)
        if not block:
            return
        left -= len(block)
        if left < 0:
            raise FetchError(
                f"{archive}: unpacks to more than {_MOST_GROWTH} times its size, which no text does; get it again"
            )
        yield block
