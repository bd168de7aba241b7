"""A configuration to tune, storage in memory, and a PostgreSQL server for the tests."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from conftest import small_config

from charlm.tuning import storage

PASSWORD = "open {sesame}/2%"


@pytest.fixture
def config(text_file):
    return small_config(text_file, "training.steps=6", "training.seed=3")


@pytest.fixture
def in_memory(monkeypatch):
    """Replace SQLite, which takes half a second to open, where the storage is not tested."""
    kept = {}

    @contextmanager
    def sqlite(path, problem):
        path.touch()
        yield kept.setdefault(path, optuna.storages.InMemoryStorage())

    monkeypatch.setattr(storage, "_open_sqlite", sqlite)


@dataclass(frozen=True)
class Server:
    """A server that listens only on a socket in a folder."""

    folder: Path

    def url(self, password: str | None = "open%20%7Bsesame%7D%2F2%25") -> str:
        return f"postgresql://charlm{'' if password is None else f':{password}'}@/postgres?host={self.folder}"


def binaries() -> Path | None:
    found = shutil.which("initdb")
    there = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return there[-1].parent if there else None


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Start a server, as the user postgres if we are root; skip if none is installed."""
    psycopg = pytest.importorskip("psycopg")
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    user = (
        {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory(
        prefix="charlm-", ignore_cleanup_errors=True
    ) as above:  # The path of a socket must be short.
        folder = Path(above)
        (folder / "password").write_text(PASSWORD)
        if user:
            shutil.chown(folder, "postgres", "postgres")
            shutil.chown(folder / "password", "postgres", "postgres")
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                folder / "data",
                "-U",
                "charlm",
                "--auth=scram-sha-256",
                "--no-sync",
                "--no-locale",
                "--encoding=UTF8",
                f"--pwfile={folder / 'password'}",
            ],
            check=True,
            capture_output=True,
            cwd=folder,
            **user,
        )
        settings = [
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=8MB",
            "-k",
            folder,
        ]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", *settings],
                stdout=log,
                stderr=log,
                cwd=folder,
                **user,
            )
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    psycopg.connect(
                        host=above, user="charlm", password=PASSWORD, dbname="postgres"
                    ).close()
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline and process.poll() is None, (
                        folder / "log"
                    ).read_text()
                    time.sleep(0.05)
            yield Server(folder)
        finally:
            process.terminate()
            process.wait(30)
