"""A run folder small enough to damage every byte of it."""

import pytest
from conftest import small_config, train_all


@pytest.fixture(scope="session")
def tiny(text_file, tmp_path_factory, cache):
    """A run folder of about 20,000 bytes."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    train_all(
        small_config(
            text_file, "model.hidden_size=4", "model.embedding_size=2", "training.steps=4"
        ),
        folder,
    )
    return folder
