"""docs/train.md describes every field of metrics.jsonl and of TensorBoard, and no other."""

import re
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import small_config, train_all

from charlm.errors import DivergenceError
from charlm.runs.metrics import flat_metrics, read_metrics
from charlm.runs.warm_start import open_ancestor

PAGE = Path(__file__).parents[2] / "docs" / "train.md"
RUNS = {
    "stream": ["training.clipnorm=1"],
    "from": [],  # It starts from the weights of `stream`.
    "both": ["corpus.mode=records", "model.direction=both", "model.num_layers=2"],
    "adapted": ["model.tied=true", "training.averaging=exponential"],
    "mixture": ["model.mixture=2"],
    "words": ["tokenizer.level=word"],
    "unscored": ["corpus.valid_share=0"],
    "halved": [
        "training.on_divergence=halve",
        "training.learning_rate=1e30",
        "training.clipnorm=1e30",
    ],
}


def documented() -> set[str]:
    """Return the names in the table of the section about metrics.jsonl."""
    section = PAGE.read_text(encoding="utf-8").partition("## metrics.jsonl")[2].partition("\n#")[0]
    return set(re.findall(r"(?m)^\| `([^`]+)`", section))


@pytest.fixture(scope="module")
def written(text_file, tmp_path_factory) -> set[str]:
    """Return the names that trainings of several kinds write."""
    names: set[str] = set()
    ancestor = None
    for name, overrides in RUNS.items():
        folder = tmp_path_factory.mktemp("metrics") / name
        with suppress(DivergenceError):
            config = small_config(text_file, *overrides, "training.steps=4")
            train_all(config, folder, ancestor if name == "from" else None)
        if name == "stream":
            ancestor = open_ancestor(folder)
        for line in read_metrics(folder):
            names |= set(flat_metrics(line))
    return names


def test_every_field_that_is_written_is_documented_and_every_documented_one_is_written(written):
    groups = {name for name in written if name.startswith("gradient_norms/")}
    others = {"gradient_norms/GROUP", "sample/text_summary"}  # The second is in TensorBoard only.
    assert (written - groups) | others == documented()


def test_the_groups_of_gradient_norms_are_the_documented_ones(written):
    (row,) = re.findall(r"(?m)^\| `gradient_norms/GROUP`.*", PAGE.read_text(encoding="utf-8"))
    known = {re.sub(r"\d+", "N", name) for name in re.findall(r"`(\w+)`", row)}
    groups = {name for name in written if name.startswith("gradient_norms/")}
    assert {re.sub(r"\d+", "N", name.partition("/")[2]) for name in groups} == known
