"""Tensors: read from an untrusted safetensors file, and their checksum."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from charlm.storage.untrusted import one_line

Tensors = Mapping[str, Tensor]


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    The tensors never take more memory than the file has bytes, even if its header claims more.

    Raises:
        ValueError: The bytes are not a valid safetensors file, or have a type that torch lacks. The
            message is one line.
    """
    try:
        return safetensors.torch.load(data)
    except (
        safetensors.SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        OverflowError,
    ) as error:
        raise ValueError(one_line(f"not a valid safetensors file: {error}")) from None


def tensors_checksum(tensors: Tensors, facts: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 of named tensors, and of facts that belong to them, in hexadecimal."""
    digest = hashlib.sha256(b"" if facts is None else json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
