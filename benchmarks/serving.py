"""Speed of `charlm serve` over HTTP on 127.0.0.1, relative to `charlm sample` in the same run.

The model is trained for one step, because the speed does not depend on what it has learned. The
server is a process of its own, with torch's default number of threads. The clients are one process
that keeps its connections open; it runs on the same cores. Each request asks for a text of a fixed
number of characters with a seed of its own, without streaming; those that measure the time to the
first token are streamed. All rates are measured in turn, in several rounds.

The last measurement is the resident memory of the server before and after many short requests, the
first of which are not counted because they fill caches. Printed are medians of tokens per second,
which are characters, and of their ratios; milliseconds to the first token; and megabytes.

    python benchmarks/serving.py --hidden 512 --clients 32 --rounds 5
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from measuring import (
    add_options,
    argument_parser,
    count,
    measure_in_turn,
    median_ratio,
    medians,
    print_environment,
    print_results,
    process_bytes,
    run_main,
    text_override,
)
from runs import train

import charlm
from charlm.errors import CharlmError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz .,;:!?'-\n&$3"
SHORT = 20  # Characters of a request of the memory measurement.
WARM_UP = 1000  # Short requests before the first reading of the memory.
SECONDS = 120  # After this time a request counts as lost.


class Load(NamedTuple):
    """Requests of several clients, each of which waits for one before it sends the next.

    Attributes:
        clients: Number of clients.
        requests: Number of requests of each client.
        characters: Length of each text.
        stream: Whether texts are streamed.
    """

    clients: int
    requests: int
    characters: int
    stream: bool = False


class Connection:
    """An open connection, over which requests are sent one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use the streams of asyncio."""
        self.reader = reader
        self.writer = writer

    async def request(self, body: dict[str, object]) -> tuple[float, bytes]:
        """Send a request; return the seconds to the first byte of its answer, and the answer."""
        content = json.dumps(body).encode()
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        start = time.perf_counter()
        self.writer.write(head.encode() + content)
        headers = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in headers.partition(b"\r\n")[0]:
            raise CharlmError(f"the server refused a request: {headers.decode().splitlines()[0]}")
        if b"transfer-encoding: chunked" in headers:
            return await self._read_chunks(start)
        length = int(headers.partition(b"content-length:")[2].split()[0])
        answer = await self.reader.readexactly(length)
        return time.perf_counter() - start, answer

    async def _read_chunks(self, start: float) -> tuple[float, bytes]:
        first: float | None = None
        answer = b""
        while size := int(await self.reader.readline(), 16):
            answer += (await self.reader.readexactly(size + 2))[:-2]
            first = time.perf_counter() - start if first is None else first
        await self.reader.readline()
        if first is None:
            raise CharlmError("the server sent an empty stream")
        return first, answer


def main() -> None:
    """Measure all; print a table, and the same as JSON."""
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        make_run(folder, Path(name) / "text.txt", options.hidden)
        with serving(folder, options.clients) as (process, port):
            results = measure(options, folder, process, port)
    print_environment(f"charlm {charlm.__version__}", f"hidden size {options.hidden}")
    for line in describe(results, options.clients):
        print(line)
    print_results(hidden_size=options.hidden, **results)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argument_parser(__doc__)
    add_options(parser, hidden=512, rounds=5)
    parser.add_argument("--characters", type=count, default=200, help="length of a text [200]")
    parser.add_argument("--clients", type=count, default=32, help="number of clients [32]")
    parser.add_argument(
        "--requests", type=count, default=10, help="requests of each client in each round [10]"
    )
    parser.add_argument(
        "--memory-requests",
        type=count,
        default=10_000,
        help="requests between the readings of the memory [10000]",
    )
    return parser.parse_args()


def make_run(folder: Path, text: Path, hidden: int) -> None:
    """Train a run for one step on random letters."""
    letters = random.Random(1)
    text.write_text("".join(letters.choice(LETTERS) for _ in range(20_000)), encoding="utf-8")
    overrides = [
        f"model.hidden_size={hidden}",
        "model.embedding_size=64",
        "training.steps=1",
        text_override(text),
    ]
    train(charlm.load_config(None, overrides), folder)


@contextmanager
def serving(folder: Path, clients: int) -> Iterator[tuple[int, int]]:
    """Serve a run in a process of its own; yield the number of the process and the port."""
    limits = ["--max-streams", str(max(64, clients)), "--port", "0"]
    command = [sys.executable, "-m", "charlm", "serve", str(folder), *limits]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        address = line.partition("http://127.0.0.1:")[2]
        if not address:
            raise CharlmError(f"the server did not start: {line.strip()}")
        yield process.pid, int(address.split()[0].rstrip("/"))
    finally:
        process.terminate()
        process.communicate(timeout=60)


def measure(options: argparse.Namespace, folder: Path, process: int, port: int) -> dict[str, Any]:
    """Return all measurements."""
    run = charlm.load(folder)
    many = Load(options.clients, options.requests, options.characters)
    one = Load(1, 2 * options.requests, options.characters)
    first: list[float] = []
    measurements: dict[str, Callable[[], float]] = {
        "charlm sample": partial(sample, run, one.requests, options.characters),
        "one client": partial(serve, port, one, []),
        "all clients": partial(serve, port, many, []),
        "all clients, streamed": partial(serve, port, many._replace(stream=True), first),
    }
    for warm_up in measurements.values():
        warm_up()
    first.clear()
    rates = measure_in_turn(measurements, options.rounds)

    def ratio(name: str, reference: str) -> float:
        return round(median_ratio(rates[name], rates[reference]), 3)

    return {
        "clients": options.clients,
        "tokens_per_second": {name: round(rate) for name, rate in medians(rates).items()},
        "one_client_to_sample": ratio("one client", "charlm sample"),
        "all_clients_to_one": ratio("all clients", "one client"),
        "streamed_to_one": ratio("all clients, streamed", "one client"),
        "first_token_ms": {
            "median": round(1000 * statistics.median(first), 1),
            "p99": round(1000 * sorted(first)[int(0.99 * len(first))], 1),
        },
        "memory_mb": memory(options, process, port),
    }


def sample(run: charlm.Run, texts: int, characters: int) -> float:
    """Return the characters per second of the loop of `charlm sample`."""
    start = time.perf_counter()
    for seed in range(texts):
        for _ in run.stream(characters=characters, temperature=1.0, seed=seed):
            pass
    return texts * characters / (time.perf_counter() - start)


def serve(port: int, load: Load, first: list[float]) -> float:
    """Send a load to the server; return the characters per second of all clients together.

    Args:
        port: Port of the server.
        load: The requests.
        first: List that gets the seconds from each request to the first part of its text.
    """
    seconds, latencies = asyncio.run(send(port, load))
    first.extend(latencies)
    return load.clients * load.requests * load.characters / seconds


async def send(port: int, load: Load) -> tuple[float, list[float]]:
    """Send a load; return its seconds, and those to the first part of each text."""
    connections = [await connect(port) for _ in range(load.clients)]
    start = time.perf_counter()
    latencies = await asyncio.gather(
        *(client(connection, load, number) for number, connection in enumerate(connections))
    )
    seconds = time.perf_counter() - start
    for connection in connections:
        connection.writer.close()
        await connection.writer.wait_closed()
    return seconds, [value for values in latencies for value in values]


async def connect(port: int) -> Connection:
    """Open a connection."""
    return Connection(*await asyncio.open_connection("127.0.0.1", port, limit=2**24))


async def client(connection: Connection, load: Load, number: int) -> list[float]:
    """Send the requests of a client; return the seconds to the first part of each text."""
    first = []
    for index in range(load.requests):
        body = {
            "max_tokens": load.characters,
            "seed": number * load.requests + index,
            "temperature": 1.0,
            "stream": load.stream,
        }
        async with asyncio.timeout(SECONDS):
            seconds, answer = await connection.request(body)
        if not load.stream:
            text = json.loads(answer)["choices"][0]["text"]
            if len(text) != load.characters:
                raise CharlmError(f"the server wrote {len(text)} characters")
        first.append(seconds)
    return first


def memory(options: argparse.Namespace, process: int, port: int) -> dict[str, float]:
    """Return the resident memory in MB before and after many short requests."""
    sizes = []
    for requests in (WARM_UP, options.memory_requests):
        each = max(1, requests // options.clients)
        serve(port, Load(options.clients, each, SHORT), [])
        sizes.append(round(process_bytes(process, "status", "VmRSS") / 1e6, 1))
    return {"before": sizes[0], "after": sizes[1]}


def describe(results: dict[str, Any], clients: int) -> Iterator[str]:
    """Yield the lines of the table."""
    first, sizes = results["first_token_ms"], results["memory_mb"]
    for name, rate in results["tokens_per_second"].items():
        yield f"{name:<24} {rate:>9,} tokens/s"
    yield f"one client: {results['one_client_to_sample']} of charlm sample"
    yield f"{clients} clients: {results['all_clients_to_one']} times one client"
    yield f"{clients} clients, streamed: {results['streamed_to_one']} times one client"
    yield (
        f"time to the first token of {clients} clients: median {first['median']} ms, "
        f"p99 {first['p99']} ms"
    )
    yield f"resident memory: {sizes['before']} MB before, {sizes['after']} MB after"


if __name__ == "__main__":
    run_main(main)
