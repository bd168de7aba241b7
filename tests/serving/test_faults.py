"""Clients that send nonsense, that are slow, and that leave: the server answers all the others."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from serving.servers import loaded, running

from charlm.api import load
from charlm.sampling.constraints import byte_automaton
from charlm.serving import completions

FIELDS = {"prompt": "The ", "max_tokens": 40, "temperature": 0.9}


@pytest.fixture(scope="module")
def server(trained) -> Iterator[str]:
    with running(loaded(trained), idle_seconds=1.0) as url:
        yield url


@pytest.fixture(scope="module")
def expected(trained) -> list[str]:
    """The texts of some seeds, without a server."""
    run = load(trained, device="cpu")
    options = {"prompt": "The ", "length": 40, "temperature": 0.9}
    return [run.sample(seed=seed, **options)[0].text for seed in range(3)]


def text_of(url: str, seed: int) -> str:
    body = FIELDS | {"seed": seed, "echo": True}
    response = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["text"]


@contextmanager
def other_clients(url: str, expected: list[str]) -> Iterator[None]:
    """Clients that write texts all the time, which must be the right ones."""
    is_over = threading.Event()

    def write(seed: int) -> int:
        count = 0
        while not is_over.is_set() or count == 0:
            assert text_of(url, seed) == expected[seed]
            count += 1
            time.sleep(0.1)
        return count

    with ThreadPoolExecutor(len(expected)) as threads:
        written = [threads.submit(write, seed) for seed in range(len(expected))]
        try:
            yield
        finally:
            is_over.set()
        assert all(found.result() > 0 for found in written)


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def head(url: str, length: int) -> bytes:
    return (
        f"POST /v1/completions HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def read_all(connection: socket.socket) -> bytes:
    """Return what arrives until the server closes."""
    data = b""
    try:
        while part := connection.recv(1 << 16):
            data += part
    except ConnectionError:
        pass
    return data


def num_texts(url: str, *kinds: str) -> float:
    """The number of texts that are running, queued, or both."""
    names = tuple(f"charlm_texts_{kind}{{" for kind in kinds or ("running", "queued"))
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


def wait_until_idle(url: str) -> None:
    deadline = time.monotonic() + 60
    while num_texts(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert num_texts(url) == 0


def test_each_malformed_request_is_answered_with_an_error(server, expected):
    ten_megabytes = b'{"prompt": "' + b"a" * 10_000_000 + b'"}'
    many = json.dumps({"prompt": "a", "stop": [f"{number} " for number in range(100_000)]})
    cases = [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe", 400),
        (b'{"prompt": "\xff"}', 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b'{"prompt": ["a", "\\udfff"]}', 400),
        (b'{"prompt": "a", "\\ud800": 1}', 400),
        (b'{"prompt": "a", "model": "\\ud800"}', 400),
        (b'{"prompt": "a", "stop": "\\ud800"}', 400),
        (b'{"prompt": "a", "temperature": NaN}', 400),
        (b'{"prompt": "a", "temperature": 1e999}', 400),
        (b'{"prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}", 400),
        (b'{"prompt": [' + b"9" * 100 + b"]}", 400),
        (b'{"prompt": "a", "max_tokens": -5}', 400),
        (b'{"prompt": "a", "n": 1.5}', 400),
        (b'{"prompt": {"a": 1}}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (many.encode(), 400),
        (b'{"prompt": "' + b"a" * 2_000_000 + b'"}', 400),
        (ten_megabytes, 413),
        (b'{"prompt": "a", "max_tokens": 1, "n": 1000}', 400),
    ]
    with other_clients(server, expected):
        for body, status in cases:
            response = httpx.post(f"{server}/v1/completions", content=body, timeout=60)
            assert response.status_code == status, (body[:60], response.text)
            assert response.json()["error"]["message"], body[:60]


def test_a_regular_expression_without_an_end_is_refused_and_disturbs_nobody(server, expected):
    with other_clients(server, expected):
        body = {"prompt": "The ", "regex": "(a|b)*a(a|b){200}", "n": 3}
        response = httpx.post(f"{server}/v1/completions", json=body, timeout=60)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == "regex" and "too many states" in error["message"]


def test_slow_regular_expressions_leave_threads_for_other_requests(monkeypatch, server, expected):
    is_over = threading.Event()

    begun = []

    def wait(expression: str) -> int:
        begun.append(expression)
        is_over.wait(60)
        return -1  # Too many states.

    monkeypatch.setattr(byte_automaton, "_run_process", wait)
    count = 40  # More than asyncio's own threads.

    def ask(number: int) -> int:
        body = FIELDS | {"regex": f"slow{number}"}
        return httpx.post(f"{server}/v1/completions", json=body, timeout=90).status_code

    with ThreadPoolExecutor(count) as threads:
        asked = [threads.submit(ask, number) for number in range(count)]
        try:
            time.sleep(1)
            with pytest.raises(httpx.ReadTimeout):  # A client that leaves before its turn.
                body = FIELDS | {"regex": "left"}
                httpx.post(f"{server}/v1/completions", json=body, timeout=0.5)
            body = FIELDS | {"seed": 0, "echo": True}
            response = httpx.post(f"{server}/v1/completions", json=body, timeout=20)
        finally:
            is_over.set()
        assert response.json()["choices"][0]["text"] == expected[0]
        assert [found.result() for found in asked] == [400] * count
    assert len(begun) == count


def test_what_is_not_http_is_answered_with_an_error_or_closed(server):
    wrong = [
        b"\x16\x03\x01\x02\x00" + bytes(500),
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade, close\r\n\r\n",
    ]
    for data in wrong:
        with connected(server) as connection:
            connection.sendall(data)
            answer = read_all(connection)
        assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")), answer[:80]
    assert httpx.get(f"{server}/health").status_code == 200


def send_slowly(url: str, data: bytes) -> bytes:
    """Send a byte at a time, much too slowly; return the answer."""
    with connected(url) as connection:
        try:
            for byte in data[:60]:
                connection.send(bytes([byte]))
                time.sleep(0.1)
        except ConnectionError:
            return b""
        return read_all(connection)


def send_and_wait(url: str, data: bytes) -> bytes:
    """Send data and then nothing more; return the answer once the server closes."""
    with connected(url) as connection:
        connection.sendall(data)
        return read_all(connection)


def test_a_slow_client_gets_an_error_or_is_disconnected(server, expected):
    body = json.dumps(FIELDS | {"user": "x" * 1000}).encode()
    start = head(server, len(body))
    with other_clients(server, expected), ThreadPoolExecutor(3) as threads:
        too_slow = threads.submit(send_slowly, server, start + body)
        half = threads.submit(send_and_wait, server, start + body[:10])
        # A second request on the connection never comes.
        whole = threads.submit(send_and_wait, server, start + body)
    assert too_slow.result() == b""
    assert half.result().startswith(b"HTTP/1.1 408") and b'"code": "timeout"' in half.result()
    assert whole.result().startswith(b"HTTP/1.1 200")


def wait_for_texts(url: str, count: int, *kinds: str) -> None:
    deadline = time.monotonic() + 30
    while num_texts(url, *kinds) != count and time.monotonic() < deadline:
        time.sleep(0.02)
    assert num_texts(url, *kinds) == count


def num_answered(url: str) -> float:
    name = 'charlm_requests_total{route="/v1/completions",status="200"}'
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@contextmanager
def silent_reader(url: str, **fields: object) -> Iterator[socket.socket]:
    """A client that sends a request and does not read the answer."""
    body = json.dumps(fields).encode()
    parts = urlsplit(url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((parts.hostname, parts.port))
        connection.sendall(head(url, len(body)) + body)
        yield connection


def test_a_client_that_does_not_read_its_answer_is_disconnected(server, expected):
    """The server counts an answer when it is written; the client has a second to take some of it."""
    before = num_answered(server)
    ids = [2 + number % 20 for number in range(20_000)]
    fields = {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 22}
    with silent_reader(server, **fields) as connection:
        deadline = time.monotonic() + 60
        while num_answered(server) == before and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    length = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert length > 4_000_000 and len(answer) < length
    assert text_of(server, 0) == expected[0]


@pytest.mark.slow
def test_a_stream_that_is_read_too_slowly_is_cut(server, monkeypatch):
    monkeypatch.setattr(completions, "MAX_WAITING", 10)
    fields = {"prompt": "The ", "max_tokens": 900_000, "stream": True, "logprobs": 22}
    with silent_reader(server, **fields):
        wait_for_texts(server, 1)
        wait_until_idle(server)


def test_a_client_that_leaves_ends_its_work(server):
    for stream in (True, False):
        body = json.dumps({"prompt": "The ", "max_tokens": 900_000, "n": 5, "stream": stream})
        with connected(server) as connection:
            connection.sendall(head(server, len(body)) + body.encode())
            wait_for_texts(server, 5)
        wait_until_idle(server)


def test_a_client_that_leaves_before_the_first_part_of_its_stream_frees_its_place(trained):
    body = json.dumps({"prompt": "The ", "max_tokens": 900_000, "stream": True}).encode()
    with running(loaded(trained), max_streams=1, idle_seconds=30.0) as url:
        with connected(url) as writing, connected(url) as waiting:
            writing.sendall(head(url, len(body)) + body)
            wait_for_texts(url, 1)
            waiting.sendall(head(url, len(body)) + body)
            wait_for_texts(url, 1, "queued")
            waiting.close()
            wait_for_texts(url, 0, "queued")
            assert num_texts(url, "running") == 1
        wait_until_idle(url)


async def leave_mid_stream(url: str, count: int, at_once: int) -> None:
    """Open streams and leave each after its first part."""
    parts = urlsplit(url)
    gate = asyncio.Semaphore(at_once)
    body = json.dumps({"prompt": "The ", "max_tokens": 900_000, "stream": True}).encode()

    async def leave() -> None:
        async with gate:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(head(url, len(body)) + body)
            assert b"data: " in await reader.readuntil(b"data: ")
            writer.transport.abort()

    await asyncio.gather(*(leave() for _ in range(count)))


def check_leaving(url: str, expected: list[str], count: int) -> None:
    with other_clients(url, expected):
        asyncio.run(leave_mid_stream(url, count, 20))
    wait_until_idle(url)
    assert text_of(url, 0) == expected[0]


def test_twenty_clients_that_leave_mid_stream_change_no_other_text(server, expected):
    check_leaving(server, expected, 20)


@pytest.mark.slow
def test_a_thousand_clients_that_leave_mid_stream_change_no_other_text(server, expected):
    check_leaving(server, expected, 1000)


def test_too_many_connections_are_refused_with_an_error(trained):
    with running(loaded(trained), max_connections=3, idle_seconds=30.0) as url:
        held = [connected(url) for _ in range(3)]
        deadline = time.monotonic() + 30
        answer = b""
        while not answer and time.monotonic() < deadline:
            with connected(url) as connection:
                answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 503") and b"too_many_connections" in answer
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        pytest.fail("the server does not answer after the others have left")
