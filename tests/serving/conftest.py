"""Small runs of every kind that the page shows."""

from pathlib import Path

import pytest

from charlm.trained_model import TrainedModel, load
from tests.conftest import small_config, train_all

KINDS = {
    "bpe": ("tokenizer.level=bpe", "tokenizer.vocabulary_size=280"),
    "words": ("tokenizer.level=word",),
    "spaced": ("tokenizer.level=word", "tokenizer.words=whitespace"),
    "bytes": ("tokenizer.level=byte",),
    "folded": ("tokenizer.lowercase=true", "tokenizer.normalization=nfc"),
    "backward": ("model.direction=backward",),
    "both": ("model.direction=both",),
}


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
