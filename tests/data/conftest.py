"""Fixtures for tests of texts and their tokens."""

from pathlib import Path

import pytest


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a test a cache of its own."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
