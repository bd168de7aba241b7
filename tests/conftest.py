"""Fixtures for all tests: a private cache folder, small texts, and small trained runs."""

import copy
import gc
import json
import os
import shutil
import signal
from collections.abc import Collection, Generator, Iterator
from pathlib import Path

import pytest
import torch
import typer  # noqa: TID251 - it builds the tree of commands
from hypothesis import HealthCheck, settings

from charlm.cli import main
from charlm.config import load
from charlm.config.load import load_config
from charlm.config.schema import Config
from charlm.runs import prepare, session
from charlm.runs.experiment import Experiment
from charlm.runs.warm_start import Ancestor
from charlm.sampling import during_training

# The same examples in every run, without a time limit: a new failure comes from the change.
settings.register_profile(
    "charlm", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("charlm")
# A shell that starts the tests in the background lets them ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

# On a disk, most of the time of a save is spent on flushing it. Folders of tests are in memory if
# there is a file system with enough space; PYTEST_DEBUG_TEMPROOT names another place.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import all tests without garbage collections, and leave what they import out of later ones.

    A full collection visits each of a million objects that are never garbage.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# A model of it trains in a second: a small alphabet, and some structure to learn.
TEXT = (
    "".join(
        f"The {noun} {verb} on the {place}.\n"
        for noun in ("cat", "dog", "old owl")
        for verb in ("sat", "slept", "sang")
        for place in ("mat", "roof", "lawn", "wall")
    )
    * 12
)
RECORDS = (
    "\n".join(a + b + c for a in "bdgklm" for b in "aeiou" for c in ("n", "ra", "lia", "do", "s"))
    + "\n"
)
NAMES = RECORDS.split()
# Pairs of a source and a target for each kind of task.
PAIRS = {
    "complete": [(name, name[::-1].upper()) for name in NAMES],
    "translate": [(name, name[::-1].upper()) for name in NAMES],
    "classify": [(name, {"s": "ess", "n": "en"}.get(name[-1], "vowel")) for name in NAMES],
    "tag": [(name, "".join("v" if c in "aeiou" else "c" for c in name)) for name in NAMES],
}
SMALL = [
    "model.hidden_size=16",
    "model.embedding_size=8",
    "training.batch_size=4",
    "training.window=16",
    "training.warmup_steps=2",
    "training.evaluations=2",
    "training.precision=fp32",
    "training.device=cpu",
    "corpus.valid_share=0.2",
    "checkpoint.save_share=null",
]


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep tests out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_CACHE", str(folder))
        torch.set_num_threads(1)
        yield folder


@pytest.fixture(autouse=True, scope="session")
def commands() -> Iterator[None]:
    """Build the tree of commands once. Otherwise each command of a test takes 15 ms to build it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "app", typer.main.get_command(main.app))
        yield


@pytest.fixture(autouse=True, scope="session")
def lengths_of_samples() -> Iterator[dict[str, int]]:
    """Write 40 tokens at each evaluation of a training; a few hundred take as long as training.

    Returns:
        The lengths that a user gets.
    """
    lengths = during_training._LENGTH
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(during_training, "_LENGTH", dict.fromkeys(lengths, 40))
        yield lengths


@pytest.fixture(autouse=True, scope="session")
def configurations() -> Iterator[None]:
    """Parse each configuration once. Tests load the same run folders hundreds of times."""
    parse, parsed = load.parse_yaml, dict[object, object]()

    def parse_once(text: str, *, text_keys: Collection[tuple[str, ...]] = ()) -> object:
        key = text, frozenset(text_keys)
        if key not in parsed:
            parsed[key] = parse(text, text_keys=text_keys)
        return copy.deepcopy(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "parse_yaml", parse_once)
        yield


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def records_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.txt"
    path.write_text(RECORDS, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def pairs_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of pairs for each kind of task."""
    folder = tmp_path_factory.mktemp("pairs")
    for kind, pairs in PAIRS.items():
        lines = (f"{source}\t{target}\n" for source, target in pairs)
        (folder / f"{kind}.txt").write_text("".join(lines), encoding="utf-8")
    return {kind: folder / f"{kind}.txt" for kind in PAIRS}


def small_config(text: Path, *overrides: str) -> Config:
    """Return a configuration that trains in a second."""
    steps = (
        []
        if any("epochs=" in override or "minutes=" in override for override in overrides)
        else ["training.steps=12"]
    )
    return load_config(None, [*SMALL, f"corpus.text={text}", *steps, *overrides])


def unseal(folder: Path) -> None:
    """Remove the checksums of a run folder's files, so that a test can change the files."""
    for path in folder.glob("*/state.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in facts.items() if key not in ("sha256", "run")}
        path.write_text(json.dumps(kept), encoding="utf-8")


def train_all(config: Config, folder: Path, ancestor: Ancestor | None = None) -> Experiment:
    """Train a new run to the end; return its experiment."""
    experiment = prepare.begin(config, folder, ancestor=ancestor)
    for _ in session.run(experiment):
        pass
    return experiment


@pytest.fixture(scope="session")
def trained(text_file: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run folder of a character model."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    train_all(small_config(text_file, "training.steps=60", "training.learning_rate=2e-2"), folder)
    return folder


@pytest.fixture(scope="session")
def task_folders(
    pairs_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> dict[str, Path]:
    """Folder of a run of each kind of task, for tests that need no good model."""
    folder = tmp_path_factory.mktemp("tasks")
    for kind, text in pairs_files.items():
        direction = "both" if kind == "tag" else "forward"
        settings = [f"task.kind={kind}", f"model.direction={direction}"]
        train_all(small_config(text, *settings), folder / kind)
    return {kind: folder / kind for kind in pairs_files}


@pytest.fixture(scope="session")
def trained_records(
    records_file: Path, tmp_path_factory: pytest.TempPathFactory, cache: Path
) -> Path:
    """A run folder of a character model of records."""
    folder = tmp_path_factory.mktemp("runs") / "records"
    overrides = ["corpus.mode=records", "training.steps=60", "training.learning_rate=2e-2"]
    train_all(small_config(records_file, *overrides), folder)
    return folder
