"""Where to compute, and in which precision."""

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from charlm.config.schema import Model as ModelSection
from charlm.errors import ConfigError, DeviceError
from charlm.model.language_model import LanguageModel

# Where a processor multiplies bf16 matrices faster than fp32 ones: AMX tiles, about five times; AVX-512 on AMD. Intel's
# AVX-512 without AMX has the instruction, at 0.6 of the speed of fp32; without any, bf16 is a hundred times slower.
_AMX, _AVX512_BF16, _AMD = "amx_bf16", "avx512_bf16", "AuthenticAMD"
# Of glibc's malloc.h: what is freed at the heap's end is given back beyond so many bytes; how many pieces have pages of
# their own, which are given back as they are freed.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """Return the device that `name` stands for; `auto` takes a GPU if there is one.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.
        local_rank: Rank of this process on its machine: where no GPU is named, each takes its own.

    Raises:
        DeviceError: CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank:
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"training.device: {name} is not available to this PyTorch; use auto or cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"training.device: there is no {name}, but {torch.cuda.device_count()} GPU(s) from cuda:0 on"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type that matrix products are computed in: weights and sums stay fp32."""
    if name == "auto":
        name = "bf16" if _is_faster_in_bf16(device) else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return the context in which the model runs."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16)


def loss_scale(device: torch.device, precision: torch.dtype, columns: int) -> float:
    """Return what J, a mean over so many columns, is multiplied by on the way back, and its gradient divided by.

    On a GPU cuDNN's recurrent layers compute in fp16 under any autocast, and what is below 6e-8 is lost there. With
    the mean undone a token's gradient is of the order of one. A power of two changes no digit.
    """
    in_half = device.type == "cuda" and precision != torch.float32
    return 2.0 ** math.ceil(math.log2(columns)) if in_half else 1.0


def _is_faster_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return False
    return _AMX in words or {_AVX512_BF16, _AMD} <= words


@contextmanager
def fast_math() -> Iterator[None]:
    """Compute without denormal numbers, and with memory that is kept when it is freed, as long as the process lives.

    Denormal numbers are many times slower, and as good as zero here. A window's activations are freed before the next
    one's are asked for: pieces beyond 32 megabytes glibc would give back to the system each time, which fills them with
    zeros page by page when they are wanted again. That can take a third of all the time. A GPU multiplies fp32 as TF32.
    """
    torch.set_flush_denormal(True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.cuda.is_available() else before)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_flush_denormal(False)


def check_size(section: ModelSection, vocabulary_size: int) -> None:
    """Make sure that this machine can hold a model's weights, before they are made.

    Raises:
        ConfigError: It has not so much memory.
    """
    with torch.device("meta"):  # Shapes without memory.
        weights = sum(
            tensor.numel() for tensor in LanguageModel(section, vocabulary_size).parameters()
        )
    needed, there = 4 * weights, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ConfigError(
            f"model: has {weights:,} weights, which take {needed / 1e9:,.0f} GB, and this machine has "
            f"{there / 1e9:,.0f} GB; lower model.hidden_size, model.num_layers or tokenizer.vocabulary_size"
        )
