"""Downloads from a local server, checksums, and members of archives."""

import hashlib
import io
import re
import socket
import stat
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from charlm.data.archives import extract_member
from charlm.data.fetching import check_sha256, fetch
from charlm.errors import FetchError

BODY = bytes(range(256)) * 1024  # Four blocks of a download.
SHA256 = hashlib.sha256(BODY).hexdigest()
ETAG = '"first"'
ONE_LINE = re.compile(r"[^\n]+: [^\n]+; [^\n]+")


@dataclass
class Publisher:
    """What the server publishes, how it behaves, and the requests it received."""

    body: bytes = BODY
    etag: str | None = ETAG
    status: int = 200
    ignores_range: bool = False
    range_shift: int = 0
    tells_length: bool = True
    truncates_after: int | None = None
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)
    bytes_sent: int = 0

    def headers(self, start: int, wanted: str | None) -> tuple[int, dict[str, str]]:
        headers = {"Content-Length": str(len(self.body) - start)} if self.tells_length else {}
        if self.etag is not None:
            headers["ETag"] = self.etag
        if wanted is None or self.status != 200:
            return self.status, headers
        if start >= len(self.body):
            return 416, {"Content-Range": f"bytes */{len(self.body)}", "Content-Length": "0"}
        end = len(self.body) - 1
        return 206, headers | {
            "Content-Range": f"bytes {start + self.range_shift}-{end}/{len(self.body)}"
        }

    def start(self, wanted: str | None, if_range: str | None) -> int:
        if wanted is None or self.ignores_range or (if_range is not None and if_range != self.etag):
            return 0
        return int(wanted.removeprefix("bytes=").removesuffix("-"))


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    publisher = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            publisher.ranges.append(wanted)
            start = publisher.start(wanted, self.headers.get("If-Range"))
            status, headers = publisher.headers(start, wanted if start else None)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            rest = publisher.body[start:] if status in {200, 206} else b""
            rest = rest[: publisher.truncates_after]
            publisher.bytes_sent += len(rest)
            self.wfile.write(rest)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        publisher.url = f"http://127.0.0.1:{server.server_port}/corpus.txt"
        yield publisher
        server.shutdown()
        thread.join()


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "corpus.txt"


def begin(destination: Path, content: bytes, version: str | None = None) -> Path:
    """Write the files that an earlier attempt would have left."""
    destination.parent.mkdir(exist_ok=True)
    part = destination.with_name("corpus.txt.part")
    part.write_bytes(content)
    if version is not None:
        part.with_name("corpus.txt.part.version").write_text(version, encoding="utf-8")
    return part


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def error_of_fetching(url: str, destination: Path, sha256: str | None = None) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(url, destination, sha256=sha256)
    assert ONE_LINE.fullmatch(str(caught.value))
    return str(caught.value)


def error_of_extracting(archive: Path, member: str, destination: Path) -> str:
    with pytest.raises(FetchError) as caught:
        extract_member(archive, member, destination)
    assert ONE_LINE.fullmatch(str(caught.value))
    assert not list(destination.parent.glob(f"*{destination.name}*"))
    return str(caught.value)


def test_a_download_is_complete_and_leaves_no_other_file(
    publisher: Publisher, destination: Path
) -> None:
    fetch(publisher.url, destination, sha256=SHA256.upper())
    assert destination.read_bytes() == BODY
    assert names_in(destination.parent) == ["corpus.txt"]


def test_a_download_replaces_an_existing_file(publisher: Publisher, destination: Path) -> None:
    destination.parent.mkdir()
    destination.write_bytes(b"old")
    fetch(publisher.url, destination)
    assert destination.read_bytes() == BODY


def test_a_download_reports_its_progress_from_zero_to_the_total(
    publisher: Publisher, destination: Path
) -> None:
    reports: list[tuple[int, int | None]] = []
    fetch(publisher.url, destination, report=lambda done, total: reports.append((done, total)))
    assert reports[0] == (0, len(BODY))
    assert reports[-1] == (len(BODY), len(BODY))
    assert reports == sorted(reports) and len(reports) > 4


def test_a_download_of_unknown_length_reports_no_total(
    publisher: Publisher, destination: Path
) -> None:
    publisher.tells_length = False
    reports: list[tuple[int, int | None]] = []
    fetch(publisher.url, destination, report=lambda done, total: reports.append((done, total)))
    assert reports[-1] == (len(BODY), None)
    assert destination.read_bytes() == BODY


def test_a_resumed_download_requests_only_the_rest(publisher: Publisher, destination: Path) -> None:
    begin(destination, BODY[:1000])
    reports: list[tuple[int, int | None]] = []
    fetch(
        publisher.url,
        destination,
        sha256=SHA256,
        report=lambda done, total: reports.append((done, total)),
    )
    assert publisher.ranges == ["bytes=1000-"]
    assert publisher.bytes_sent == len(BODY) - 1000
    assert reports[0] == (1000, len(BODY))
    assert destination.read_bytes() == BODY
    assert names_in(destination.parent) == ["corpus.txt"]


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(
    publisher: Publisher, destination: Path
) -> None:
    publisher.ignores_range = True
    begin(destination, b"x" * 1000, ETAG)
    fetch(publisher.url, destination)
    assert publisher.ranges == ["bytes=1000-"]
    assert destination.read_bytes() == BODY


def test_a_part_of_another_version_is_downloaded_again(
    publisher: Publisher, destination: Path
) -> None:
    begin(destination, b"x" * 1000, '"another"')
    fetch(publisher.url, destination)
    assert destination.read_bytes() == BODY


def test_a_part_without_version_or_checksum_is_downloaded_again(
    publisher: Publisher, destination: Path
) -> None:
    begin(destination, b"x" * 1000)
    fetch(publisher.url, destination)
    assert publisher.ranges == [None]
    assert destination.read_bytes() == BODY


def test_a_part_longer_than_the_file_is_downloaded_again(
    publisher: Publisher, destination: Path
) -> None:
    begin(destination, BODY + b"x", ETAG)
    fetch(publisher.url, destination)
    assert publisher.ranges == [f"bytes={len(BODY) + 1}-", None]
    assert destination.read_bytes() == BODY


def test_a_server_that_sends_another_range_is_asked_for_the_whole_file(
    publisher: Publisher, destination: Path
) -> None:
    publisher.range_shift = 5
    begin(destination, BODY[:1000], ETAG)
    fetch(publisher.url, destination)
    assert publisher.ranges == ["bytes=1000-", None]
    assert destination.read_bytes() == BODY


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_truncated_download_is_an_error_and_the_same_call_resumes_it(
    publisher: Publisher, destination: Path, sha256: str | None
) -> None:
    publisher.truncates_after = 70_000
    message = error_of_fetching(publisher.url, destination, sha256)
    assert f"truncated after 70000 of {len(BODY)} bytes" in message
    assert "run the same command again" in message
    assert not destination.exists()
    publisher.truncates_after = None
    fetch(publisher.url, destination, sha256=sha256)
    assert publisher.ranges == [None, "bytes=70000-"]
    assert destination.read_bytes() == BODY
    assert names_in(destination.parent) == ["corpus.txt"]


def test_a_part_with_a_weak_etag_is_downloaded_again(
    publisher: Publisher, destination: Path
) -> None:
    publisher.etag, publisher.truncates_after = 'W/"first"', 70_000
    error_of_fetching(publisher.url, destination)
    publisher.truncates_after = None
    fetch(publisher.url, destination)
    assert publisher.ranges == [None, None]


def test_a_wrong_checksum_names_both_digests_and_deletes_the_download(
    publisher: Publisher, destination: Path
) -> None:
    message = error_of_fetching(publisher.url, destination, "0" * 64)
    assert SHA256 in message and "0" * 64 in message
    assert names_in(destination.parent) == []


def test_the_error_of_a_refused_download_has_url_status_and_remedy(
    publisher: Publisher, destination: Path
) -> None:
    for status in (404, 410, 403, 500):
        publisher.status = status
        message = error_of_fetching(publisher.url, destination)
        assert message.startswith(publisher.url), status
        assert f"status {status}" in message
        assert ("no longer published" in message) == (status in {404, 410}), status
        assert message.endswith("pass --from FILE"), status


def test_a_refused_resumption_keeps_the_part(publisher: Publisher, destination: Path) -> None:
    part = begin(destination, BODY[:1000], ETAG)
    publisher.status = 503
    assert "status 503" in error_of_fetching(publisher.url, destination)
    assert part.read_bytes() == BODY[:1000]


def test_the_error_of_an_unreachable_server_has_url_and_remedy(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # Bound, but not listening.
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/corpus.txt"
        message = error_of_fetching(url, destination)
    assert message.startswith(f"{url}: cannot be reached (")
    assert message.endswith("pass --from FILE")


def test_a_silent_server_is_an_error_after_the_timeout(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/corpus.txt"
        with pytest.raises(FetchError, match="timed out"):
            fetch(url, destination, timeout_seconds=0.1)


def test_an_address_that_is_not_http_is_refused(destination: Path) -> None:
    for url in ("ftp://127.0.0.1/x", "file:///etc/hostname", "corpus.txt", "http:///x", "http://["):
        assert error_of_fetching(url, destination).startswith(url)
        assert not destination.parent.exists(), url


def test_a_folder_that_cannot_be_created_is_an_error_before_the_download(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    message = error_of_fetching(publisher.url, tmp_path / "file" / "corpus.txt")
    assert message.startswith(str(tmp_path / "file" / "corpus.txt"))
    assert publisher.ranges == []


def test_a_checksum_may_have_upper_or_lower_case(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(BODY)
    check_sha256(path, SHA256)
    check_sha256(path, SHA256.upper())
    with pytest.raises(FetchError, match=f"{SHA256}, expected {'0' * 64}"):
        check_sha256(path, "0" * 64)


def test_the_checksum_of_a_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"absent\.txt: cannot be read"):
        check_sha256(tmp_path / "absent.txt", SHA256)


def add_to_tar(
    archive: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = len(content), kind, "data/train.txt"
    archive.addfile(entry, io.BytesIO(content))


def make_tar(path: Path) -> Path:
    mode = {".tar": "w", ".tgz": "w:gz", ".gz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        add_to_tar(archive, "./data", kind=tarfile.DIRTYPE)
        add_to_tar(archive, "./data/train.txt", BODY)
        add_to_tar(archive, "../outside.txt", b"outside")
        add_to_tar(archive, "symbolic.txt", kind=tarfile.SYMTYPE)
        add_to_tar(archive, "hard.txt", kind=tarfile.LNKTYPE)
    return path


def make_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/", "")
        archive.writestr(zipfile.ZipInfo("folder/"), "")  # Without a Unix mode.
        archive.writestr("data/train.txt", BODY)
        archive.writestr("../outside.txt", "outside")
        link = zipfile.ZipInfo("symbolic.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "data/train.txt")
        secret = zipfile.ZipInfo("secret.txt")
        archive.writestr(secret, "secret")
        secret.flag_bits |= 1
    return path


def make_archive(path: Path) -> Path:
    return make_zip(path) if path.suffix == ".zip" else make_tar(path)


@pytest.fixture(params=["corpus.zip", "corpus.tar"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_archive(tmp_path / str(request.param))


@pytest.mark.parametrize(
    "name", ["corpus.zip", "corpus.tar", "corpus.tgz", "corpus.tar.bz2", "corpus.tar.xz"]
)
def test_a_member_is_extracted_to_the_destination(name: str, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / name)
    for member in ("data/train.txt", "./data/train.txt"):
        extract_member(archive, member, tmp_path / "cache" / "train.txt")
        assert (tmp_path / "cache" / "train.txt").read_bytes() == BODY, member
        assert names_in(tmp_path / "cache") == ["train.txt"]
        (tmp_path / "cache" / "train.txt").unlink()


def test_the_path_of_a_member_does_not_decide_the_destination(
    archive: Path, tmp_path: Path
) -> None:
    extract_member(archive, "../outside.txt", tmp_path / "cache" / "inside.txt")
    assert names_in(tmp_path) == sorted(["cache", archive.name])
    assert names_in(tmp_path / "cache") == ["inside.txt"]


def test_the_error_of_a_missing_member_lists_the_members(archive: Path, tmp_path: Path) -> None:
    message = error_of_extracting(archive, "data/absent.txt", tmp_path / "out.txt")
    assert message.startswith(f"{archive}: no member 'data/absent.txt'")
    assert "data/train.txt" in message and "symbolic.txt" in message


def test_a_long_list_of_members_is_shortened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as many:
        for number in range(20):
            many.writestr(f"{number}\n.txt", "")
    message = error_of_extracting(tmp_path / "many.zip", "absent.txt", tmp_path / "out.txt")
    assert message.endswith(r"'6\n.txt', '7\n.txt' and 12 more")


def test_links_folders_and_encrypted_members_are_refused(archive: Path, tmp_path: Path) -> None:
    others = ["folder", "secret.txt"] if archive.suffix == ".zip" else ["hard.txt"]
    for member in ["symbolic.txt", "data", *others]:
        message = error_of_extracting(archive, member, tmp_path / "out.txt")
        assert f"member '{member}' is a link, a folder or encrypted" in message


def test_a_member_name_that_cannot_be_decoded_is_an_error(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "corpus.zip")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("ä.txt", "")
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    message = error_of_extracting(path, "data/train.txt", tmp_path / "out.txt")
    assert message.startswith(f"{path}: ") and message.isprintable()


def test_a_file_that_is_not_an_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>not found</html>", encoding="utf-8")
    message = error_of_extracting(tmp_path / "page.zip", "data/train.txt", tmp_path / "out.txt")
    assert "not a zip or tar archive" in message


def test_a_missing_archive_is_an_error_with_its_path(tmp_path: Path) -> None:
    message = error_of_extracting(tmp_path / "absent.zip", "data/train.txt", tmp_path / "out.txt")
    assert message.startswith(f"{tmp_path / 'absent.zip'}: cannot be read")


@pytest.mark.parametrize("name", ["corpus.tar", "corpus.tgz", "corpus.tar.bz2", "corpus.tar.xz"])
def test_a_truncated_archive_is_an_error_and_leaves_no_file(name: str, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / name)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    error_of_extracting(archive, "data/train.txt", tmp_path / "out.txt")


def test_a_damaged_member_of_a_zip_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "corpus.zip")
    content = bytearray(archive.read_bytes())
    content[200] ^= 0xFF
    archive.write_bytes(content)
    error_of_extracting(archive, "data/train.txt", tmp_path / "out.txt")


def test_a_destination_that_cannot_be_written_is_an_error_with_its_path(
    archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FetchError, match="folder: cannot be written"):
        extract_member(archive, "data/train.txt", tmp_path / "folder")
    assert names_in(tmp_path) == sorted(["folder", archive.name])
