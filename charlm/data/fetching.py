"""Downloads that resume, and checksums.

A download is written to `NAME.part` beside its destination and renamed once it is complete and
verified, so that a file with the destination's name is always complete.
"""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from charlm.errors import FetchError

# Called with the bytes so far and the total, or None if the server does not tell the total.
Report = Callable[[int, int | None], None]

_BLOCK_BYTES = 1 << 16
_REMEDY = "download the file another way and pass --from FILE"
DISK_REMEDY = "free some space, or choose another folder"


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    report: Report | None = None,
    timeout_seconds: float = 30.0,
) -> None:
    """Download a file, resuming an earlier attempt.

    Args:
        url: Address of the file, http or https.
        destination: File to write; an existing file is replaced, missing folders are created.
        sha256: Expected digest in hexadecimal; None accepts any file.
        report: Called when the download begins and after every block.
        timeout_seconds: Longest time to wait for the server to answer or to send more.

    Raises:
        FetchError: The URL is not http(s); the server cannot be reached or refuses; the connection
            was lost (the next call resumes the download); the digest differs (the download is
            deleted); or the file cannot be written.
    """
    _require_http(url)
    part = _beside(destination, ".part")
    with _translate_write_errors(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _download(
            url, part, is_checked=sha256 is not None, report=report, timeout_seconds=timeout_seconds
        )
        if sha256 is not None:
            _require_sha256(url, part, sha256)
        part.replace(destination)
        _validator_file(part).unlink(missing_ok=True)


def check_sha256(path: Path, expected: str) -> None:
    """Check the digest of a file.

    Args:
        path: The file.
        expected: Expected SHA-256 in hexadecimal.

    Raises:
        FetchError: The digest differs, or the file cannot be read.
    """
    actual = _sha256(path)
    if actual != expected.lower():
        raise FetchError(
            f"{path}: sha256 is {actual}, expected {expected.lower()}; download the file again, "
            "or correct sha256 in the card if the publisher changed the file"
        )


def _require_http(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise FetchError(f"{url}: not a valid URL ({error}); correct url in the card") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise FetchError(
            f"{url}: the scheme must be http or https, got {parts.scheme!r}; {_REMEDY}"
        )


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _validator_file(part: Path) -> Path:
    """Return the file that records which version of the published file `part` belongs to."""
    return _beside(part, ".version")


@contextmanager
def _translate_write_errors(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise FetchError(f"{destination}: cannot be written: {reason}; {DISK_REMEDY}") from error


def _download(
    url: str, part: Path, *, is_checked: bool, report: Report | None, timeout_seconds: float
) -> None:
    """Download the rest of `part`, or the whole file if the server cannot send the rest."""
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
    """Request the rest of `part`, or the whole file if the server cannot send the rest.

    Args:
        url: Address of the file.
        part: File of an earlier attempt; it may not exist.
        is_checked: Whether the digest of the complete file will be checked.
        timeout_seconds: Longest time to wait for the server.

    Returns:
        The open response, and the offset at which it begins: the size of `part`, or 0.

    Raises:
        FetchError: The server cannot be reached or refuses.
    """
    offset = _resumable_bytes(part, is_checked=is_checked)
    if not offset:
        return _open_whole(url, timeout_seconds), 0
    try:
        response = _open(url, _range_headers(part, offset), timeout_seconds)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise _refusal(url, error) from error
        error.close()
        return _open_whole(url, timeout_seconds), 0
    if response.status != HTTPStatus.PARTIAL_CONTENT:
        return response, 0
    if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return response, offset
    response.close()  # The server sent another range than the one that was asked for.
    return _open_whole(url, timeout_seconds), 0


def _resumable_bytes(part: Path, *, is_checked: bool) -> int:
    """Return the number of bytes of `part` that a download may continue."""
    # Without a version or a digest, parts of two different files could be joined unnoticed.
    if part.exists() and (is_checked or _validator_file(part).exists()):
        return part.stat().st_size
    return 0


def _range_headers(part: Path, offset: int) -> dict[str, str]:
    """Return headers that ask for the bytes from `offset` if the published file is unchanged."""
    headers = {"Range": f"bytes={offset}-"}
    validator = _validator_file(part)
    if validator.exists():
        headers["If-Range"] = validator.read_text(encoding="utf-8")
    return headers


def _save_validator(part: Path, response: http.client.HTTPResponse) -> None:
    """Save the version of the file; If-Range needs a strong ETag or a date (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    if validator:
        _validator_file(part).write_text(validator, encoding="utf-8")
    else:
        _validator_file(part).unlink(missing_ok=True)


def _open(url: str, headers: dict[str, str], timeout_seconds: float) -> http.client.HTTPResponse:
    """Send a request and return the open response; an error status raises `HTTPError`."""
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "charlm", **headers})
        response: http.client.HTTPResponse = urllib.request.urlopen(
            request, timeout=timeout_seconds
        )
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise FetchError(f"{url}: cannot be reached ({reason}); {_REMEDY}") from error
    return response


def _open_whole(url: str, timeout_seconds: float) -> http.client.HTTPResponse:
    try:
        return _open(url, {}, timeout_seconds)
    except urllib.error.HTTPError as error:
        raise _refusal(url, error) from error


def _refusal(url: str, error: urllib.error.HTTPError) -> FetchError:
    error.close()
    is_missing = error.code in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}
    problem = "no longer published at this address" if is_missing else "the server refused"
    return FetchError(f"{url}: {problem}, status {error.code} ({error.reason}); {_REMEDY}")


def _blocks_of_response(
    url: str,
    response: http.client.HTTPResponse,
    report: Report | None,
    done: int,
    total: int | None,
) -> Iterator[bytes]:
    """Yield the body of a response block by block and report the progress.

    Args:
        url: Address of the file, for messages.
        response: The open response.
        report: As in `fetch`.
        done: Bytes that earlier attempts downloaded.
        total: Bytes of the whole file, or None if the server does not tell.

    Raises:
        FetchError: The connection was lost.
    """
    while True:
        if report is not None:
            report(done, total)
        try:
            block = response.read(_BLOCK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _interruption(url, done, total, str(error)) from error
        if not block:
            break
        done += len(block)
        yield block
    if total is not None and done < total:
        raise _interruption(url, done, total, "the server closed the connection")


def _interruption(url: str, done: int, total: int | None, reason: str) -> FetchError:
    of_total = "" if total is None else f" of {total}"
    return FetchError(
        f"{url}: the download was truncated after {done}{of_total} bytes ({reason}); "
        "run the same command again: it resumes the download if the server allows it"
    )


def _require_sha256(url: str, part: Path, expected: str) -> None:
    actual = _sha256(part)
    if actual != expected.lower():
        part.unlink()
        _validator_file(part).unlink(missing_ok=True)
        raise FetchError(
            f"{url}: sha256 is {actual}, expected {expected.lower()}; the download was deleted: "
            "run the command again, or correct sha256 in the card if the publisher changed the file"
        )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise read_error(path, error) from error


def read_error(path: Path, error: Exception) -> FetchError:
    """Return the error of a file that cannot be read."""
    message = str(getattr(error, "strerror", None) or error)
    reason = " ".join(message.split())  # Some messages have several lines.
    return FetchError(f"{path}: cannot be read: {reason}; give a complete and readable file")
