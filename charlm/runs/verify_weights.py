"""Checks of weights that may come from an untrusted source.

Weights have the names and shapes of the model in the configuration before that model is made.
"""

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from charlm.config.model import Model as ModelSection
from charlm.errors import CheckpointError
from charlm.model.any_model import Head
from charlm.model.language_model import named_weights
from charlm.model.uninitialized import model_of_shapes
from charlm.runs.files import RESTORE
from charlm.runs.verify import MAX_BYTES
from charlm.storage.tensors import Tensors, read_tensors
from charlm.storage.untrusted import one_line, read_regular_file

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_weights(
    weights: Tensors,
    section: ModelSection,
    vocabulary_size: int,
    *,
    place: Path,
    head: Head | None = None,
) -> None:
    """Check weights before the model is made, whose size an untrusted configuration states.

    Args:
        weights: Weights of a checkpoint.
        section: Configuration of the model.
        vocabulary_size: Number of tokens in the vocabulary.
        place: Folder of the checkpoint, for error messages.
        head: What the model is made for; None for a language model.

    Raises:
        CheckpointError: Names or shapes differ from those of the model, or a weight is not finite.
    """
    layers = len(section.hidden_sizes)
    if section.cell.kind != "bag" and layers > len(weights):
        raise CheckpointError(
            f"{place}: the weights do not fit config.yaml: {len(weights)} tensors are too few for "
            f"{layers} layers; use the files of one run"
        )
    check_shapes(model_of_shapes(section, vocabulary_size, head), weights, place)
    for name, tensor in weights.items():
        if tensor.dtype not in _FLOATS or not all(map(math.isfinite, _extremes(tensor))):
            raise CheckpointError(
                f"{place}: {one_line(name)} has a value that is not a finite number: the training "
                "diverged, or the file is not from charlm; train again"
            )


def check_shapes(model: nn.Module, weights: Tensors, place: Path) -> None:
    """Raise CheckpointError if names or shapes of weights differ from those of a model."""
    expected = {name: tuple(tensor.shape) for name, tensor in named_weights(model)}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    names = sorted(expected.keys() | shapes.keys())
    wrong = next((name for name in names if expected.get(name) != shapes.get(name)), None)
    if wrong is not None:
        raise CheckpointError(
            f"{place}: the weights do not fit config.yaml: the shape of {one_line(wrong)} is "
            f"{shapes.get(wrong)}, expected {expected.get(wrong)}; use the files of one run"
        )


def read_tensor_file(checkpoint: Path, file: str, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a file that state.json names.

    Args:
        checkpoint: Folder of the checkpoint.
        file: Name of the file; folders in it are ignored, so that it cannot lead out of the folder.
        sha256: Expected checksum.

    Raises:
        OSError: The file cannot be read.
        ValueError: The name is not printable.
        CheckpointError: The file is damaged, or too large for the memory.
    """
    if not file.isprintable():
        raise ValueError(f"it names a file {file!r}")
    path = checkpoint / Path(file).name
    try:
        data = read_regular_file(path, max_bytes=MAX_BYTES["safetensors"])
    except MemoryError:
        raise CheckpointError(f"{path}: is larger than the free memory; {RESTORE}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(
            f"{path}: damaged or cut short: its checksum is not the one that it was saved with; "
            f"{RESTORE}"
        )
    try:
        return read_tensors(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; {RESTORE}") from None


def _extremes(tensor: Tensor) -> list[float]:
    """Return the smallest and the largest value, NaN if there is one.

    Unlike `isfinite`, this makes no copy of the tensor.
    """
    return [float(value) for value in tensor.aminmax()] if tensor.numel() else []
