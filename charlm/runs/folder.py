"""A run folder: create, lock, load, find. Its files are listed in charlm/runs/files.py."""

import difflib
import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from charlm.config.load import load_resolved
from charlm.config.schema import ResolvedConfig
from charlm.data.corpus import Corpus, open_corpus
from charlm.data.listing import MissingTextError
from charlm.data.tokenizer import Tokenizer
from charlm.data.vocabulary import load_tokenizer
from charlm.errors import CharlmError, CheckpointError, ConfigError
from charlm.runs.files import BEGIN_AGAIN, LOCK, RESTORE, RUN_FILES, RUNS, write_file
from charlm.runs.verify import (
    MAX_BYTES,
    CorpusFacts,
    check_contents,
    check_run_files,
    validate_facts,
)
from charlm.storage.locks import ProcessLock
from charlm.storage.untrusted import parse_json, read_regular_file

# In characters, each of at most four bytes. File systems limit names to 255 bytes, and the date
# follows this one.
_MAX_NAME = 48

if TYPE_CHECKING:  # They import torch.
    from charlm.data.labels import Labels
    from charlm.model.any_model import Head


class RunFiles(NamedTuple):
    """The files of a run that belong to every checkpoint.

    Attributes:
        config: The resolved configuration.
        tokenizer: The tokenizer.
        corpus: Facts about the corpus: title, fingerprints, sizes, token counts, and labels.
    """

    config: ResolvedConfig
    tokenizer: Tokenizer
    corpus: dict[str, Any]

    @property
    def labels(self) -> "Labels":
        """Labels that the model chooses from; empty for a task without labels."""
        return tuple(self.corpus.get("labels") or ())

    @property
    def head(self) -> "Head | None":
        """What the model is made for; None for a language model."""
        from charlm.model.any_model import head_of

        return head_of(self.config.task, self.labels)


def check_new(folder: Path) -> None:
    """Raise CheckpointError if `folder` cannot become a new run folder."""
    if not folder.exists():
        return
    if folder.is_dir() and all(path.name == LOCK for path in folder.iterdir()):
        return
    remedy = "give another --out"
    if (folder / "config.yaml").is_file():
        remedy += ", or continue the run with charlm.resume in Python, or "
        remedy += f"charlm train --resume {shlex.quote(str(folder))}"
    raise CheckpointError(f"{folder}: exists and is not empty; {remedy}")


def named_after(text: str) -> str:
    """Return the first part of the name of a new run folder, after a text or a configuration."""
    stem = "stdin" if text == "-" else re.sub(r"[*?[\]]", "", Path(text).stem)
    return stem[:_MAX_NAME] or "run"


@contextmanager
def new_folder(given: Path | None, name: str) -> Iterator[Path]:
    """Return the folder that was given, or create a new one, which is removed if the block fails.

    The new folder is runs/NAME-DATE-TIME. Creating a folder succeeds in one process only. So of
    several processes that start in the same second, each one has a folder of its own:
    NAME-DATE-TIME, NAME-DATE-TIME-2, and so on.

    Args:
        given: Folder that the user has named; None to create one.
        name: First part of the name of a new folder.

    Raises:
        CheckpointError: No folder can be created.
    """
    if given is not None:
        yield given
        return
    folder = _create_folder(f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        yield folder
    except BaseException:
        _remove_unused(folder)
        raise


def _create_folder(name: str) -> Path:
    """Create a folder under `runs/`, with a number behind its name if there is one already."""
    folder = RUNS / name
    number = 1
    try:
        while not _is_created(folder):
            number += 1
            folder = RUNS / f"{name}-{number}"
    except OSError as error:
        with suppress(OSError):
            RUNS.rmdir()  # If it is empty.
        raise CheckpointError(
            f"{RUNS.absolute()}: cannot create a run folder here: {error.strerror}; name a folder "
            "that can be written with --out"
        ) from None
    return folder


def _is_created(folder: Path) -> bool:
    """Create a folder; return False if it exists already."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def _remove_unused(folder: Path) -> None:
    """Remove a folder that contains nothing but a lock file, and `runs/` if it is then empty."""
    with suppress(OSError):
        if all(path.name == LOCK for path in folder.iterdir()):
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
            RUNS.rmdir()


def check_exists(folder: Path) -> None:
    """Raise CheckpointError if a run folder has disappeared, which saving would create anew."""
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{folder}: is not a run folder any more, so nothing was saved; restore it, then "
            "continue with --resume"
        )


def write_run_files(
    folder: Path, config: ResolvedConfig, tokenizer: Tokenizer, corpus: Mapping[str, Any]
) -> None:
    """Make a folder with a checkpoint a run folder.

    config.yaml is written last: a folder that contains it is complete.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    contents = {
        "tokenizer.json": tokenizer.to_json(),
        "corpus.json": json.dumps(corpus),
        "config.yaml": f"{config}\n",
    }
    for name, text in contents.items():
        write_file(folder / name, text.encode(), remedy=BEGIN_AGAIN)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove the files of a run that could not be begun, so that the command can be repeated."""
    try:
        yield
    except BaseException:  # Ctrl-C, too.
        remove_checkpoint(folder / "last")
        for name in RUN_FILES:
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise


def run_lock(folder: Path) -> ProcessLock:
    """Return the lock of a run folder, not acquired yet."""
    return ProcessLock(folder / LOCK)


@contextmanager
def acquired(lock: ProcessLock) -> Iterator[None]:
    """Acquire the lock of a run folder. It stays acquired after the block, unless an error occurs.

    Raises:
        CheckpointError: Another process trains in the folder.
    """
    lock.acquire(
        error_type=CheckpointError, remedy="wait until it ends, or give another run folder"
    )
    try:
        yield
    except BaseException:
        lock.release()
        raise


def _why_not_a_run(folder: Path) -> str:
    """Return the problem and the remedy of a folder without config.yaml."""
    if (folder.parent / "config.yaml").is_file() and folder.exists():
        return f"is inside a run folder; name the run: {folder.parent}"
    if folder.is_file():
        return "is a file and no run folder; name the folder of a run"
    if not folder.is_dir():
        near = similar_run(folder)
        hint = f"did you mean {shlex.quote(str(near))}?" if near else "make one with charlm train"
        return f"no such run folder; {hint}"
    patterns = ("*/config.yaml", "*/*/config.yaml")
    runs = sorted(path.parent for pattern in patterns for path in folder.glob(pattern))
    if runs:
        # Of the trials of a search, only the best one has checkpoints.
        first = next((run for run in runs if (run / "last" / "state.json").is_file()), runs[0])
        return f"is not a run folder, but contains some; name one of them, such as {first}"
    return "is not a run folder: no config.yaml; make one with charlm train"


def similar_run(folder: Path) -> Path | None:
    """Return a run beside a missing folder, or under runs/, that has a similar name.

    `my` and `runs/my` may be the beginning of `runs/my-20260101-120000`: the last one is returned.
    """
    found = [path.parent for place in (RUNS, folder.parent) for path in place.glob("*/config.yaml")]
    runs = {run.name: run for run in found}
    longer = [name for name in runs if name.startswith(f"{folder.name}-")]
    names = sorted(longer)[-1:] or difflib.get_close_matches(folder.name, runs, n=1)
    return runs[names[0]] if names else None


def check_is_run(folder: Path) -> None:
    """Raise CheckpointError if `folder` is not a run folder."""
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(f"{folder}: {_why_not_a_run(folder)}")


def load_run(folder: Path) -> RunFiles:
    """Return configuration, tokenizer and corpus facts of a run folder.

    Raises:
        CheckpointError: The folder is not a run folder, or is damaged.
    """
    check_is_run(folder)
    try:
        check_contents(folder)
        check_run_files(folder)
        return _read_run_files(folder)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; {RESTORE}"
        ) from None
    except CheckpointError:
        raise
    except ConfigError as error:  # It states place and remedy; the folder may be intact.
        raise CheckpointError(f"cannot load the run folder: {error}") from None
    except (ValueError, CharlmError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}; {RESTORE}") from None


def open_run_corpus(folder: Path, config: ResolvedConfig, facts: Mapping[str, Any]) -> Corpus:
    """Return the corpus that a run was trained on.

    Args:
        folder: Run folder.
        config: Configuration of the run.
        facts: What corpus.json states about the corpus.

    Raises:
        CheckpointError: The model was imported without its text; or a text is missing, and the
            message says where to write its new path.
        CorpusError: A text cannot be read.
    """
    if not facts["fingerprints"]:
        raise CheckpointError(
            f"{folder}: was imported without its training text; train it on a text with "
            f"charlm train TEXT --from {shlex.quote(str(folder))}"
        )
    try:
        return open_corpus(config)
    except MissingTextError as error:
        parts = ("text", "valid_text", "test_text")
        field = next(
            (part for part in parts if error.name in (getattr(config.corpus, part) or ())), "text"
        )
        raise CheckpointError(
            f"{error.problem}; if the text was moved, write its new path as corpus.{field} into "
            f"{folder / 'config.yaml'}"
        ) from None


def newest_run(root: Path) -> Path:
    """Return the run under `root` whose checkpoint was saved last.

    Raises:
        CheckpointError: There is no run with a checkpoint.
    """
    states = [path for path in root.glob("*/last/state.json") if path.is_file()]
    if not states:
        raise CheckpointError(
            f"{root}/: contains no run with a checkpoint; train one: charlm train --config "
            "quickstart"
        )
    return max(states, key=lambda path: path.stat().st_mtime).parent.parent


def _read_run_files(folder: Path) -> RunFiles:
    config = load_resolved(folder / "config.yaml")
    tokenizer = load_tokenizer(_read(folder, "tokenizer.json").decode(), config.tokenizer)
    corpus = validate_facts(parse_json(_read(folder, "corpus.json")), CorpusFacts)
    counts = len(corpus["train_token_counts"])
    if counts != tokenizer.vocabulary_size:
        raise ValueError(
            f"corpus.json counts {counts} tokens, but tokenizer.json has "
            f"{tokenizer.vocabulary_size}"
        )
    run = RunFiles(config=config, tokenizer=tokenizer, corpus=corpus)
    is_known = len(set(run.labels)) == len(run.labels)
    if not is_known or (len(run.labels) > 1) != config.task.has_labels:
        raise ValueError(
            f"corpus.json has {len(run.labels)} labels, which do not suit the task "
            f"{config.task.kind} of config.yaml"
        )
    return run


def _read(folder: Path, name: str) -> bytes:
    return read_regular_file(folder / name, max_bytes=MAX_BYTES[name])
