"""Servers that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving.servers import loaded, running
from starlette.testclient import TestClient

from charlm.serving.app import make_app
from charlm.serving.options import ServeOptions


@pytest.fixture(scope="session")
def client(trained: Path, trained_records: Path) -> Iterator[TestClient]:
    """A client of an app with a run of characters and one of records."""
    app = make_app(loaded(trained, trained_records), ServeOptions(max_text=2000))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="session")
def url(trained: Path, trained_records: Path) -> Iterator[str]:
    """The address of a server of the same runs."""
    with running(loaded(trained, trained_records), idle_seconds=2.0) as url:
        yield url
