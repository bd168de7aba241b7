"""The weights of a model by the names of the JavaScript engine, and their bytes in three types."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from charlm.export.targets import Precision
from charlm.model.cells.base import Cell
from charlm.model.embedding import OneHot
from charlm.model.fast.products import Product
from charlm.model.language_model import LanguageModel
from charlm.model.projection import AdaptiveSoftmax, MixtureOfSoftmaxes

_DTYPES = {"int8": "i1", "fp16": "<f2", "fp32": "<f4"}
_LARGEST = 127  # The integers are symmetric: -128 is not used.


class Rows(NamedTuple):
    """A matrix in 8 bits: weight = scale of the row x integer.

    Attributes:
        integers: Integers from -127 to 127, (rows, columns).
        scales: Scales in fp32, (rows,).
    """

    integers: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]


@dataclass(frozen=True)
class PackedWeights:
    """Weights as bytes.

    Attributes:
        tensors: Name, type, rows and columns of each tensor; a vector has 0 rows.
        data: Bytes of all tensors in this order, little-endian; before the integers of a matrix in
            int8 come its scales.
    """

    tensors: list[tuple[str, str, int, int]]
    data: bytes


def quantize_rows(weight: npt.NDArray[np.float32]) -> Rows:
    """Return a matrix with the integers nearest to it; the largest entry of a row becomes 127."""
    largest = np.abs(weight).max(axis=1, initial=0)
    scales = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return Rows(np.rint(weight / scales[:, None]).astype(np.int8), scales)


def engine_weights(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight of a model of one direction, by the name of the engine.

    A tied matrix comes twice; see `pack_weights`.
    """
    encoder = model.encoder
    if not isinstance(encoder.embedding, OneHot):
        yield "embedding.weight", encoder.embedding.weight
    if encoder.ngrams is not None:
        yield "ngrams.weight", encoder.ngrams.weight
    recurrence = encoder.recurrence
    for layer, cell in enumerate(recurrence.layers):
        for name, tensor in _cell_weights(cell):
            yield f"layers.{layer}.{name}", tensor
        if recurrence.blocks:
            for name, tensor in recurrence.blocks[layer].named_parameters():
                yield f"layers.{layer}.block.{name}", tensor
        for name, tensor in recurrence.norms[layer].named_parameters():
            yield f"layers.{layer}.norm.{name}", tensor
        for number, tensor in enumerate(recurrence.learned_states[layer]):
            yield f"layers.{layer}.initial.{number}", tensor
    for name, tensor in model.output_adapter.named_parameters():
        yield f"adapter.{name}", tensor
    yield from _projection_weights(model.projection)


def pack_weights(model: LanguageModel, precision: Precision) -> PackedWeights:
    """Return the weights of a model: its matrices in a type, and its vectors in fp32.

    A matrix that several products share is stored once, under its first name; the others have the
    type "= FIRST NAME".
    """
    tensors: list[tuple[str, str, int, int]] = []
    parts: list[bytes] = []
    names: dict[int, str] = {}
    for name, tensor in engine_weights(model):
        if tensor.data_ptr() in names:
            tensors.append((name, f"= {names[tensor.data_ptr()]}", 0, 0))
            continue
        names[tensor.data_ptr()] = name
        values = tensor.detach().cpu().float().numpy()
        rows, columns = values.shape if values.ndim == 2 else (0, len(values))
        stored_as = precision if rows else "fp32"
        tensors.append((name, stored_as, rows, columns))
        parts.append(_to_bytes(values, stored_as))
    return PackedWeights(tensors, b"".join(parts))


@torch.no_grad()
def read_weights(
    model: LanguageModel, tensors: Sequence[tuple[str, str, int, int]], data: bytes
) -> None:
    """Put packed weights into a model of the same shape; the arguments are those of the pack."""
    targets = dict(engine_weights(model))
    position = 0
    for name, stored_as, rows, columns in tensors:
        if stored_as.startswith("= "):
            continue
        shape = (rows, columns) if rows else (columns,)
        values, position = _from_bytes(data, position, stored_as, shape)
        targets[name].copy_(torch.from_numpy(values))


def _cell_weights(cell: Cell) -> Iterator[tuple[str, Tensor]]:
    for name, module in cell.named_modules():
        if isinstance(module, Product):
            yield f"{name}.weight", module.weight
            if module.bias is not None:
                yield f"{name}.bias", module.bias
    for name, tensor in cell.named_parameters(recurse=False):
        yield name, tensor


def _projection_weights(projection: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if isinstance(projection, AdaptiveSoftmax):
        for name, tensor in projection.layers.named_parameters():
            yield f"projection.{name}", tensor
    elif isinstance(projection, nn.Linear):
        yield "projection.weight", projection.weight
        yield "projection.bias", projection.bias
    if isinstance(projection, MixtureOfSoftmaxes):
        for name in ("prior", "latent"):
            for part, tensor in getattr(projection, name).named_parameters():
                yield f"projection.{name}.{part}", tensor


def _to_bytes(values: npt.NDArray[np.float32], stored_as: str) -> bytes:
    if stored_as == "int8":
        rows = quantize_rows(values)
        return rows.scales.astype("<f4").tobytes() + rows.integers.tobytes()
    return values.astype(_DTYPES[stored_as]).tobytes()


def _from_bytes(
    data: bytes, position: int, stored_as: str, shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], int]:
    """Return a tensor whose bytes begin at a position, and the position after it."""
    scales = np.ones(1, dtype=np.float32)
    if stored_as == "int8":
        scales = np.frombuffer(data, "<f4", shape[0], position)[:, None]
        position += scales.nbytes
    numbers = np.frombuffer(data, _DTYPES[stored_as], math.prod(shape), position)
    return numbers.reshape(shape).astype(np.float32) * scales, position + numbers.nbytes
