"""Tensors from the bytes of a safetensors file that a stranger may have written."""

import safetensors
import safetensors.torch
from torch import Tensor

from charlm.storage.untrusted import one_line


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, by name. What its header claims must be there: nothing is made larger.

    Raises:
        ValueError: It is no such file, or holds what torch has no type for; in one line.
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
        raise ValueError(one_line(f"is no safetensors file, or a damaged one: {error}")) from None
