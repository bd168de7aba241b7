"""Tensors from the bytes of an untrusted safetensors file."""

import safetensors
import safetensors.torch
from torch import Tensor

from charlm.storage.untrusted import one_line


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name.

    The tensors never take more memory than the file has bytes, whatever its header claims.

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
