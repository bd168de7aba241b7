import hashlib
import io
import re
import socket
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from charlm.data.fetching import check_sha256, fetch, unpack
from charlm.errors import FetchError

BODY = bytes(range(256)) * 1024  # four blocks of the download
SHA256 = hashlib.sha256(BODY).hexdigest()
ETAG = '"first"'
ONE_LINE = re.compile(r"[^\n]+: [^\n]+; [^\n]+")


@dataclass
class Publisher:
    """What the server publishes, how it behaves, and what it was asked."""

    body: bytes = BODY
    etag: str | None = ETAG
    status: int = 200
    ignores_range: bool = False
    range_shift: int = 0
    says_length: bool = True
    breaks_off_after: int | None = None
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)
    bytes_sent: int = 0

    def headers(self, start: int, wanted: str | None) -> tuple[int, dict[str, str]]:
        headers = {"Content-Length": str(len(self.body) - start)} if self.says_length else {}
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
            rest = rest[: publisher.breaks_off_after]
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
    """Leave what an earlier attempt would have left."""
    destination.parent.mkdir(exist_ok=True)
    part = destination.with_name("corpus.txt.part")
    part.write_bytes(content)
    if version is not None:
        part.with_name("corpus.txt.part.version").write_text(version, encoding="utf-8")
    return part


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def error_of_fetching(url: str, destination: Path, sha256: str | None = None) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(url, destination, sha256=sha256)
    assert ONE_LINE.fullmatch(str(caught.value))
    return str(caught.value)


def error_of_unpacking(archive: Path, member: str, destination: Path) -> str:
    with pytest.raises(FetchError) as caught:
        unpack(archive, member, destination)
    assert ONE_LINE.fullmatch(str(caught.value))
    assert not destination.exists()
    assert not list(destination.parent.glob("*.unpacking"))
    return str(caught.value)


def test_download_is_whole_and_leaves_nothing_beside_it(
    publisher: Publisher, destination: Path
) -> None:
    fetch(publisher.url, destination, sha256=SHA256.upper())
    assert destination.read_bytes() == BODY
    assert left_in(destination.parent) == ["corpus.txt"]


def test_download_replaces_what_is_there(publisher: Publisher, destination: Path) -> None:
    destination.parent.mkdir()
    destination.write_bytes(b"old")
    fetch(publisher.url, destination)
    assert destination.read_bytes() == BODY


def test_download_reports_from_nothing_to_everything(
    publisher: Publisher, destination: Path
) -> None:
    reports: list[tuple[int, int | None]] = []
    fetch(publisher.url, destination, report=lambda done, total: reports.append((done, total)))
    assert reports[0] == (0, len(BODY))
    assert reports[-1] == (len(BODY), len(BODY))
    assert reports == sorted(reports) and len(reports) > 4


def test_download_of_unknown_length_reports_no_total(
    publisher: Publisher, destination: Path
) -> None:
    publisher.says_length = False
    reports: list[tuple[int, int | None]] = []
    fetch(publisher.url, destination, report=lambda done, total: reports.append((done, total)))
    assert reports[-1] == (len(BODY), None)
    assert destination.read_bytes() == BODY


def test_download_resumes_from_a_part_and_asks_for_the_rest_alone(
    publisher: Publisher, destination: Path
) -> None:
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
    assert left_in(destination.parent) == ["corpus.txt"]


def test_server_that_ignores_the_range_sends_the_whole_again(
    publisher: Publisher, destination: Path
) -> None:
    publisher.ignores_range = True
    begin(destination, b"x" * 1000, ETAG)
    fetch(publisher.url, destination)
    assert publisher.ranges == ["bytes=1000-"]
    assert destination.read_bytes() == BODY


def test_part_of_another_version_is_started_again(publisher: Publisher, destination: Path) -> None:
    begin(destination, b"x" * 1000, '"another"')
    fetch(publisher.url, destination)
    assert destination.read_bytes() == BODY


def test_part_that_nothing_vouches_for_is_started_again(
    publisher: Publisher, destination: Path
) -> None:
    begin(destination, b"x" * 1000)
    fetch(publisher.url, destination)
    assert publisher.ranges == [None]
    assert destination.read_bytes() == BODY


def test_part_longer_than_the_file_is_started_again(
    publisher: Publisher, destination: Path
) -> None:
    begin(destination, BODY + b"x", ETAG)
    fetch(publisher.url, destination)
    assert publisher.ranges == [f"bytes={len(BODY) + 1}-", None]
    assert destination.read_bytes() == BODY


def test_server_that_sends_another_range_is_asked_for_the_whole(
    publisher: Publisher, destination: Path
) -> None:
    publisher.range_shift = 5
    begin(destination, BODY[:1000], ETAG)
    fetch(publisher.url, destination)
    assert publisher.ranges == ["bytes=1000-", None]
    assert destination.read_bytes() == BODY


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_truncated_download_says_so_and_the_same_call_resumes_it(
    publisher: Publisher, destination: Path, sha256: str | None
) -> None:
    publisher.breaks_off_after = 70_000
    message = error_of_fetching(publisher.url, destination, sha256)
    assert f"truncated after 70000 of {len(BODY)} bytes" in message
    assert "run the same command again" in message
    assert not destination.exists()
    publisher.breaks_off_after = None
    fetch(publisher.url, destination, sha256=sha256)
    assert publisher.ranges == [None, "bytes=70000-"]
    assert destination.read_bytes() == BODY
    assert left_in(destination.parent) == ["corpus.txt"]


def test_weak_etag_is_no_proof_that_a_part_fits(publisher: Publisher, destination: Path) -> None:
    publisher.etag, publisher.breaks_off_after = 'W/"first"', 70_000
    error_of_fetching(publisher.url, destination)
    publisher.breaks_off_after = None
    fetch(publisher.url, destination)
    assert publisher.ranges == [None, None]


def test_wrong_checksum_names_both_digests_and_deletes_what_came(
    publisher: Publisher, destination: Path
) -> None:
    message = error_of_fetching(publisher.url, destination, "0" * 64)
    assert SHA256 in message and "0" * 64 in message
    assert left_in(destination.parent) == []


@pytest.mark.parametrize("status", [404, 410, 403, 500])
def test_refused_download_names_url_status_and_another_way(
    publisher: Publisher, destination: Path, status: int
) -> None:
    publisher.status = status
    message = error_of_fetching(publisher.url, destination)
    assert message.startswith(publisher.url)
    assert f"status {status}" in message
    assert ("no longer published" in message) == (status in {404, 410})
    assert message.endswith("pass --from FILE")


def test_refusal_of_the_rest_keeps_what_an_earlier_attempt_brought(
    publisher: Publisher, destination: Path
) -> None:
    part = begin(destination, BODY[:1000], ETAG)
    publisher.status = 503
    assert "status 503" in error_of_fetching(publisher.url, destination)
    assert part.read_bytes() == BODY[:1000]


def test_server_that_does_not_answer_its_port_names_another_way(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, never listening
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/corpus.txt"
        message = error_of_fetching(url, destination)
    assert message.startswith(f"{url}: cannot be reached (")
    assert message.endswith("pass --from FILE")


def test_server_that_stays_silent_is_given_up_after_the_timeout(
    destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/corpus.txt"
        started = time.monotonic()
        with pytest.raises(FetchError, match="timed out"):
            fetch(url, destination, timeout_seconds=0.1)
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/x", "file:///etc/hostname", "corpus.txt", "http:///x", "http://["]
)
def test_address_that_is_not_http_is_refused_unopened(url: str, destination: Path) -> None:
    assert error_of_fetching(url, destination).startswith(url)
    assert not destination.parent.exists()


def test_folder_that_cannot_be_made_is_named(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = error_of_fetching(publisher.url, tmp_path / "file" / "corpus.txt")
    assert message.startswith(str(tmp_path / "file" / "corpus.txt"))
    assert publisher.ranges == []


def test_checksum_of_a_file_is_compared_whatever_its_case(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(BODY)
    check_sha256(path, SHA256)
    check_sha256(path, SHA256.upper())
    with pytest.raises(FetchError, match=f"{SHA256}, expected {'0' * 64}"):
        check_sha256(path, "0" * 64)


def test_checksum_of_a_missing_file_names_it(tmp_path: Path) -> None:
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
        archive.writestr(zipfile.ZipInfo("folder/"), "")  # with no Unix mode
        archive.writestr("data/train.txt", BODY)
        archive.writestr("../outside.txt", "outside")
        link = zipfile.ZipInfo("symbolic.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "data/train.txt")
        secret = zipfile.ZipInfo("secret.txt")
        archive.writestr(secret, "secret")
        secret.flag_bits |= 1
    return path


@pytest.fixture(
    params=["corpus.zip", "corpus.tar", "corpus.tgz", "corpus.tar.bz2", "corpus.tar.xz"]
)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    return make_zip(path) if path.suffix == ".zip" else make_tar(path)


@pytest.mark.parametrize("member", ["data/train.txt", "./data/train.txt"])
def test_member_is_unpacked_to_the_place_that_was_named(
    archive: Path, member: str, tmp_path: Path
) -> None:
    unpack(archive, member, tmp_path / "cache" / "train.txt")
    assert (tmp_path / "cache" / "train.txt").read_bytes() == BODY
    assert left_in(tmp_path / "cache") == ["train.txt"]


def test_path_of_a_member_never_decides_where_it_goes(archive: Path, tmp_path: Path) -> None:
    unpack(archive, "../outside.txt", tmp_path / "cache" / "inside.txt")
    assert left_in(tmp_path) == sorted(["cache", archive.name])
    assert left_in(tmp_path / "cache") == ["inside.txt"]


def test_missing_member_is_an_error_that_lists_what_is_inside(
    archive: Path, tmp_path: Path
) -> None:
    message = error_of_unpacking(archive, "data/absent.txt", tmp_path / "out.txt")
    assert message.startswith(f"{archive}: no member 'data/absent.txt'")
    assert "data/train.txt" in message and "symbolic.txt" in message


def test_long_list_of_members_is_cut(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as many:
        for number in range(20):
            many.writestr(f"{number}\n.txt", "")
    message = error_of_unpacking(tmp_path / "many.zip", "absent.txt", tmp_path / "out.txt")
    assert message.endswith(r"'6\n.txt', '7\n.txt' and 12 more")


def test_link_or_folder_is_never_unpacked(archive: Path, tmp_path: Path) -> None:
    of_kind = ["folder", "secret.txt"] if archive.suffix == ".zip" else ["hard.txt"]
    for member in ["symbolic.txt", "data", *of_kind]:
        message = error_of_unpacking(archive, member, tmp_path / "out.txt")
        assert f"member '{member}' is a link, a folder or encrypted" in message


def test_zip_with_a_name_that_is_no_text_is_told_in_one_line(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "corpus.zip")
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("ä.txt", "")
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    message = error_of_unpacking(path, "data/train.txt", tmp_path / "out.txt")
    assert message.startswith(f"{path}: ") and message.isprintable()


def test_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>not found</html>", encoding="utf-8")
    message = error_of_unpacking(tmp_path / "page.zip", "data/train.txt", tmp_path / "out.txt")
    assert "neither a zip nor a tar" in message


def test_archive_that_is_missing_is_named(tmp_path: Path) -> None:
    message = error_of_unpacking(tmp_path / "absent.zip", "data/train.txt", tmp_path / "out.txt")
    assert message.startswith(f"{tmp_path / 'absent.zip'}: cannot be read")


@pytest.mark.parametrize("name", ["corpus.tar", "corpus.tgz", "corpus.tar.bz2", "corpus.tar.xz"])
def test_archive_that_breaks_off_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / name)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    error_of_unpacking(archive, "data/train.txt", tmp_path / "out.txt")


def test_damaged_member_of_a_zip_leaves_nothing_behind(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "corpus.zip")
    content = bytearray(archive.read_bytes())
    content[200] ^= 0xFF
    archive.write_bytes(content)
    error_of_unpacking(archive, "data/train.txt", tmp_path / "out.txt")


def test_place_that_cannot_be_written_is_named(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FetchError, match="folder: cannot be written"):
        unpack(archive, "data/train.txt", tmp_path / "folder")
    assert left_in(tmp_path) == sorted(["folder", archive.name])
