"""The weights of a model by the names of the JavaScript engine, and their bytes in three types."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from charlm.model.cells.base import Cell
from charlm.model.embedding import OneHot
from charlm.model.fast.products import Product
from charlm.model.language_model import LanguageModel
from charlm.model.projection import AdaptiveSoftmax, MixtureOfSoftmaxes

WeightType = Literal["int8", "fp16", "fp32"]
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
    recurrence = encoder.recurrence
    for layer, cell in enumerate(recurrence.layers):
        for name, tensor in _cell_weights(cell):
            yield f"layers.{layer}.{name}", tensor
        for name, tensor in recurrence.norms[layer].named_parameters():
            yield f"layers.{layer}.norm.{name}", tensor
        for number, tensor in enumerate(recurrence.learned_states[layer]):
            yield f"layers.{layer}.initial.{number}", tensor
    for name, tensor in model.output_adapter.named_parameters():
        yield f"adapter.{name}", tensor
    yield from _projection_weights(model.projection)


def pack_weights(model: LanguageModel, weight_type: WeightType) -> PackedWeights:
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
        stored_as = weight_type if rows else "fp32"
        tensors.append((name, stored_as, rows, columns))
        parts.append(_to_bytes(values, stored_as))
    return PackedWeights(tensors, b"".join(parts))


@torch.no_grad()
def round_weights(model: LanguageModel, weight_type: WeightType) -> None:
    """Replace the matrices of a model by what the engine reads: weights rounded to a type."""
    for _, tensor in engine_weights(model):
        if tensor.ndim == 2:
            tensor.copy_(torch.from_numpy(_rounded(tensor.cpu().float().numpy(), weight_type)))


def _cell_weights(cell: Cell) -> Iterator[tuple[str, Tensor]]:
    for name, module in cell.named_modules():
        if isinstance(module, Product):
            yield f"{name}.weight", module.weight
            if module.bias is not None:
                yield f"{name}.bias", module.bias


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
    return values.astype("<f2" if stored_as == "fp16" else "<f4").tobytes()


def _rounded(
    values: npt.NDArray[np.float32], weight_type: WeightType
) -> npt.NDArray[np.float32]:
    if weight_type == "int8":
        rows = quantize_rows(values)
        return rows.scales[:, None] * rows.integers.astype(np.float32)
    return values.astype(np.float16).astype(np.float32) if weight_type == "fp16" else values
