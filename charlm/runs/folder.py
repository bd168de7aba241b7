"""The run folder: config, tokenizer, weights, optimizer, generator states, position. Nothing in it is ever executed.

    runs/NAME/config.yaml       the resolved configuration
    runs/NAME/tokenizer.json    Hugging Face's format
    runs/NAME/corpus.json       what the parts of the corpus hold, and how often each token occurs in training
    runs/NAME/metrics.jsonl     a line an evaluation
    runs/NAME/best/, last/      state.json and the safetensors files that it names, each with its checksum
    runs/NAME/good/             the like: where a training that halves its rate goes back to when it diverges
    runs/NAME/tensorboard/      what metrics.jsonl tells, and samples, where a training is tracked
    runs/NAME/.lock             held by the process that trains

`state.json` holds the checksums of its own contents, of the tensors and of the first three files, which belong to them.
A checkpoint's files are named by their contents, and `state.json` is replaced last and in one step: at any instant it
names a whole checkpoint.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

from charlm.config.load import load_resolved
from charlm.config.schema import ResolvedConfig
from charlm.config.show import dump
from charlm.data.tokenizer import Tokenizer, load_tokenizer
from charlm.errors import CharlmError, CheckpointError
from charlm.runs.checkpoint import _read_state, _write, forget_checkpoint
from charlm.runs.verify import (
    _DAMAGED,
    _MOST_BYTES,
    _REMEDY,
    _RUN_FILES,
    _SAVE_REMEDY,
    LOCK,
    Kept,
    _check_contents,
    _check_run,
    _checked,
    _CorpusFacts,
)
from charlm.storage.locks import ProcessLock
from charlm.storage.untrusted import parse_json, read_regular_file


def start_run(
    folder: Path, config: ResolvedConfig, tokenizer: Tokenizer, corpus: Mapping[str, Any]
) -> None:
    """Make a run folder of one that holds a checkpoint: config.yaml comes last, so that what has one is whole.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    for name, text in (
        ("tokenizer.json", tokenizer.to_json()),
        ("corpus.json", json.dumps(corpus)),
        ("config.yaml", dump(config)),
    ):
        _write(folder / name, text.encode())


def check_new(folder: Path) -> None:
    """Raise CheckpointError if `folder` cannot become a new run folder."""
    if folder.exists() and (
        not folder.is_dir() or any(path.name != LOCK for path in folder.iterdir())
    ):
        going_on = (
            f", or go on with it: charlm train --resume {folder}"
            if (folder / "config.yaml").is_file()
            else ""
        )
        raise CheckpointError(
            f"{folder}: is there already and not empty; give another --out{going_on}"
        )


@contextmanager
def beginning(folder: Path) -> Iterator[None]:
    """Leave nothing in a run folder that cannot be begun, so that the same command can be given again."""
    try:
        yield
    except CheckpointError as error:
        forget_checkpoint(folder / "last")
        for name in _RUN_FILES:
            with suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        raise CheckpointError(
            str(error).replace(_SAVE_REMEDY, "free the disk, or give another --out")
        ) from None


def lock_of(folder: Path) -> ProcessLock:
    """Return the lock of a run folder, not taken yet."""
    return ProcessLock(folder / LOCK)


def check_there(folder: Path) -> None:
    """Raise CheckpointError if a run folder that was there is not any more: it would be made anew without a config."""
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{folder}: is no run folder any more, so nothing was saved; put it back, then --resume"
        )


def load_run(folder: Path) -> tuple[ResolvedConfig, Tokenizer, dict[str, Any]]:
    """Return configuration, tokenizer and corpus facts of a run folder.

    Raises:
        CheckpointError: It is no run folder, or damaged.
    """
    if not (folder / "config.yaml").is_file():
        problem = (
            "is no run folder (it has no config.yaml)" if folder.is_dir() else "no such run folder"
        )
        raise CheckpointError(f"{folder}: {problem}; charlm train makes them under runs/")
    try:
        _check_contents(folder)
        verify(folder)
        config = load_resolved(folder / "config.yaml")
        text = read_regular_file(
            folder / "tokenizer.json", max_bytes=_MOST_BYTES["tokenizer.json"]
        ).decode()
        tokenizer = load_tokenizer(text, config.tokenizer)
        data = read_regular_file(folder / "corpus.json", max_bytes=_MOST_BYTES["corpus.json"])
        corpus = _checked(parse_json(data), _CorpusFacts)
        counts = len(corpus["train_token_counts"])
        if counts != tokenizer.vocabulary_size:
            raise ValueError(
                f"corpus.json counts {counts} tokens, tokenizer.json has {tokenizer.vocabulary_size}"
            )
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; the run folder is damaged"
        ) from None
    except CheckpointError:
        raise
    except (ValueError, CharlmError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}; {_REMEDY}") from None
    return config, tokenizer, corpus


def newest_run(root: Path) -> Path:
    """Return the run under `root` whose checkpoint was saved last.

    Raises:
        CheckpointError: There is none.
    """
    found = (path for path in root.glob("*/last/state.json") if path.is_file())
    states = sorted(found, key=lambda path: path.stat().st_mtime)
    if not states:
        raise CheckpointError(
            f"{root}/: holds no run with a checkpoint; train one: charlm train --config quickstart"
        )
    return states[-1].parent.parent


def verify(folder: Path) -> None:
    """Raise CheckpointError if a run's files are not those that its checkpoints belong to: before they are parsed.

    A checkpoint that is damaged itself says nothing here; whoever loads it is told.
    """
    for kept in get_args(Kept):
        with suppress(OSError, *_DAMAGED, CheckpointError):
            state = _read_state(folder / kept)
            break
    else:
        return
    _check_run(folder / kept, state.get("run", {}))
