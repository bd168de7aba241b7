"""One checkpoint on disk: state.json and safetensors files."""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from charlm.errors import CheckpointError
from charlm.model.language_model import named_weights
from charlm.runs.files import CONTINUE, RESTORE, CheckpointName, write_file
from charlm.runs.folder import RunFiles
from charlm.runs.verify import (
    FORMAT,
    PARSE_ERRORS,
    check_run_checksums,
    read_state,
    run_checksums,
    seal_state,
)
from charlm.runs.verify_weights import check_shapes, check_weights, read_tensor_file
from charlm.storage.atomic import link_file, remove_temporary_files
from charlm.storage.tensors import Tensors
from charlm.storage.untrusted import one_line


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        folder: Folder of the checkpoint.
        state: Contents of state.json, such as step, seconds, position and scores.
        tensors: Tensors by file and name: `weights`, as they were scored, and in a checkpoint to
            resume from also `training`.
    """

    folder: Path
    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights as they were scored; empty if the checkpoint has none."""
        return self.tensors.get("weights", {})


def save_checkpoint(
    folder: Path,
    state: Mapping[str, Any],
    tensors: Mapping[str, Tensors],
    *,
    remedy: str = CONTINUE,
) -> None:
    """Write a checkpoint, then remove the files of the previous one and of interrupted saves.

    A tensor file that another checkpoint of the run has already becomes a hard link.

    Args:
        folder: Folder of the checkpoint.
        state: Facts for state.json.
        tensors: Tensors by file and name.
        remedy: Remedy in the error message.

    Raises:
        CheckpointError: The folder cannot be written; the previous checkpoint is then complete.
    """
    try:
        run = run_checksums(folder.parent)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; {remedy}"
        ) from None
    files = {name: _save_tensors(folder, name, tensors[name], remedy) for name in tensors}
    facts = {"format": FORMAT, **state, "run": run, "files": files}
    write_file(folder / "state.json", seal_state(facts), remedy=remedy)
    _remove_other_files(folder, {entry["file"] for entry in files.values()})
    remove_temporary_files(folder)


def load_checkpoint(folder: Path, *, only: str | None = None) -> Checkpoint:
    """Read a checkpoint and compare every file with its checksum.

    A training may replace the checkpoint at any time: then the new one is read.

    Args:
        folder: Folder of the checkpoint, such as `best/` of a run.
        only: Name of the only tensor file to read, such as `weights`.

    Raises:
        CheckpointError: A file is missing, damaged, or of a newer format.
    """
    try:
        return _read_checkpoint(folder, only)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename}: is missing, so the checkpoint cannot be loaded; {RESTORE}"
        ) from None
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read: {error.strerror}; {RESTORE}"
        ) from None
    except PARSE_ERRORS as error:
        problem = f"has no {error}" if isinstance(error, KeyError) else one_line(str(error))
        raise CheckpointError(f"{folder / 'state.json'}: damaged: {problem}; {RESTORE}") from None


def _read_checkpoint(folder: Path, only: str | None) -> Checkpoint:
    state = read_state(folder)
    files = state["files"]
    try:
        check_run_checksums(folder, state)
        names = [only] if only else list(files)
        tensors = {name: read_tensor_file(folder, **files[name]) for name in names}
    except FileNotFoundError:
        if read_state(folder)["files"] == files:
            raise
        return _read_checkpoint(folder, only)  # A training has replaced the files meanwhile.
    return Checkpoint(folder=folder, state=state, tensors=tensors)


def load_run_weights(
    run: RunFiles, folder: Path, which: CheckpointName, *, use_last: str
) -> Checkpoint:
    """Return a checkpoint of a run with the weights, which fit the configuration.

    Args:
        run: Files of the run folder.
        folder: Run folder.
        which: Checkpoint to read.
        use_last: How to use `last/` instead, for the error message if `best/` is damaged and
            `last/` is sound.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
    """
    try:
        return _load_fitting(run, folder / which)
    except CheckpointError as error:
        if which == "last":
            raise
        try:
            _load_fitting(run, folder / "last")
        except CheckpointError:
            raise error from None
        raise CheckpointError(f"{error}; last/ is sound: {use_last}") from None


def _load_fitting(run: RunFiles, folder: Path) -> Checkpoint:
    saved = load_checkpoint(folder, only="weights")
    size = run.tokenizer.vocabulary_size
    check_weights(saved.weights, run.config.model, size, place=folder, head=run.head)
    return saved


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a model by name; a shared weight occurs once."""
    return {name: tensor.detach() for name, tensor in named_weights(model)}


def load_weights(model: nn.Module, weights: Tensors, place: Path) -> None:
    """Copy weights into a model.

    Args:
        model: The model.
        weights: Its weights by name.
        place: Folder of the checkpoint, for error messages.

    Raises:
        CheckpointError: Names or shapes differ from those of the model.
    """
    check_shapes(model, weights, place)
    with torch.no_grad():
        for name, tensor in named_weights(model):
            tensor.copy_(weights[name])


def _save_tensors(folder: Path, name: str, tensors: Tensors, remedy: str) -> dict[str, str]:
    """Write a safetensors file, unless it exists; return its name and checksum."""
    data = safetensors.torch.save(
        {key: tensor.detach().contiguous() for key, tensor in tensors.items()}
    )
    checksum = hashlib.sha256(data).hexdigest()
    path = folder / f"{name}-{checksum[:12]}.safetensors"
    if not _exists_or_is_linked(path, data):
        write_file(path, data, remedy=remedy)
    return {"file": path.name, "sha256": checksum}


def _exists_or_is_linked(path: Path, data: bytes) -> bool:
    """Return whether a file exists, if need be as a new hard link to another checkpoint's file."""
    for copy in (path, *path.parent.parent.glob(f"*/{path.name}")):
        with suppress(OSError):  # The file is written instead.
            if copy.read_bytes() == data:
                if copy != path:
                    link_file(copy, path)
                return True
    return False


def _remove_other_files(folder: Path, names: set[str]) -> None:
    for path in folder.glob("*.safetensors"):
        if path.name not in names:
            with suppress(OSError):  # The checkpoint is complete; the next save tries again.
                path.unlink(missing_ok=True)
