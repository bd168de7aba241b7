"""Servers that several tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import small_config, train_all
from serving.servers import loaded, running
from starlette.testclient import TestClient

from charlm.serving.app import make_app
from charlm.serving.options import ServeOptions
from charlm.trained_model import TrainedModel, load

# A run of each kind that the page shows or refuses, besides characters and records.
KINDS = {
    "bpe": ("tokenizer.level=bpe", "tokenizer.vocabulary_size=280"),
    "words": ("tokenizer.level=word",),
    "spaced": ("tokenizer.level=word", "tokenizer.words=whitespace"),
    "bytes": ("tokenizer.level=byte",),
    "folded": ("tokenizer.lowercase=true", "tokenizer.normalization=nfc"),
    "documents": ("corpus.mode=records", "corpus.separator=sat"),
    "backward": ("model.direction=backward",),
    "both": ("model.direction=both",),
}


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


@pytest.fixture(scope="session")
def page_runs(
    trained: Path, trained_records: Path, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, TrainedModel]:
    """Models by the names of their run folders."""
    root = tmp_path_factory.mktemp("page")
    for name, overrides in KINDS.items():
        train_all(small_config(text_file, "training.evaluations=1", *overrides), root / name)
    folders = [trained, trained_records, *(root / name for name in KINDS)]
    return {folder.name: load(folder, "best", "cpu") for folder in folders}
