"""Servers of small trained runs for tests: in this process, and in one of their own."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from charlm.api import load
from charlm.serving.options import ServeOptions
from charlm.serving.server import Server
from charlm.trained_model import TrainedModel

KEY = "a-key-of-tests-0123456789"


def loaded(*folders: Path) -> list[TrainedModel]:
    return [load(folder, device="cpu").trained for folder in folders]


@contextlib.contextmanager
def running(runs: list[TrainedModel], **options: object) -> Iterator[str]:
    """Serve runs on a free port in a thread; yield the address."""
    server = Server(runs, ServeOptions(**{"port": 0, "grace_seconds": 1.0} | options))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.url
    finally:
        server.stop()
        thread.join()


@contextlib.contextmanager
def own_process(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `charlm serve` on a free port; yield the process and the address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "charlm", "serve", *map(str, arguments), "--port", "0"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://" in line, line
        yield process, "http://" + line.partition("http://")[2].split()[0]
    finally:
        process.kill()
        process.communicate()
