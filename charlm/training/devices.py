"""Devices, precisions, and process-wide settings for speed."""

import ctypes
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from charlm.config.model import Model as ModelSection
from charlm.config.values import DEVICES
from charlm.errors import ConfigError, DeviceError, OptionError, counted
from charlm.model.any_model import Head
from charlm.model.log_probabilities import autocast
from charlm.model.uninitialized import model_of_shapes

# Words of /proc/cpuinfo of processors that multiply bf16 matrices faster than fp32 ones: about five
# times with AMX tiles, and AMD's AVX-512. Intel's AVX-512 without AMX has the instruction, but
# reaches 0.6 of the speed of fp32. Without any of these, bf16 is a hundred times slower.
_AMX, _AVX512_BF16, _AMD = "amx_bf16", "avx512_bf16", "AuthenticAMD"
# Parameters of `mallopt` in glibc's malloc.h: number of free bytes at the end of the heap that are
# returned to the system; number of allocations with their own pages, which are returned when freed.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


@dataclass(frozen=True)
class Hardware:
    """Where, and in which precision, a model computes.

    Attributes:
        device: Device of the model.
        precision: Type of the matrix products; weights and sums are fp32.
    """

    device: torch.device
    precision: torch.dtype = torch.float32

    def autocast(self) -> torch.autocast:
        """Return the context in which the model computes."""
        return autocast(self.device, self.precision)

    def loss_scale(self, batch_size: int) -> float:
        """Return the factor of J before the backward pass, by which gradients are divided after it.

        On a GPU cuDNN's recurrent layers compute in fp16 under any autocast, where numbers below
        6e-8 are lost. J is a mean over the batch; multiplied by about the batch size, the gradient
        of a token is of the order of one. The factor is a power of two, so it rounds nothing.

        Args:
            batch_size: Number of streams or records that J is a mean over.
        """
        computes_in_fp16 = self.device.type == "cuda" and self.precision != torch.float32
        return 2.0 ** math.ceil(math.log2(batch_size)) if computes_in_fp16 else 1.0


def choose_device(name: str, *, local_rank: int = 0) -> torch.device:
    """Return the device that `name` stands for; `auto` takes a GPU if there is one.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:N`.
        local_rank: Rank of this process on its machine, and number of its GPU unless `name` has
            one.

    Raises:
        OptionError: The name is not that of a device.
        DeviceError: The CUDA device does not exist.
    """
    if not re.fullmatch(DEVICES, name):
        raise OptionError("device", "must be auto, cpu, cuda or cuda:N", value=name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank:
        name = f"cuda:{local_rank}"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {name}: is not available to this PyTorch; use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {name}: does not exist; this machine has "
            f"{counted(torch.cuda.device_count(), 'GPU')}, numbered from cuda:0 on"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the type of matrix products; `auto` takes bf16 on a device that is faster in it."""
    if name == "auto":
        name = "bf16" if _is_faster_in_bf16(device) else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def precision_name(precision: torch.dtype) -> str:
    """Return the name of a precision in a configuration: `bf16` or `fp32`."""
    return "bf16" if precision == torch.bfloat16 else "fp32"


def can_compute_in(name: str, device: torch.device) -> bool:
    """Return whether a device has instructions for a precision; without them bf16 is too slow."""
    if name != "bf16":
        return True
    if device.type == "cuda":
        return _is_faster_in_bf16(device)
    return bool({_AMX, _AVX512_BF16} & _processor_words())


def _is_faster_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks the current GPU.
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    words = _processor_words()
    return _AMX in words or {_AVX512_BF16, _AMD} <= words


def _processor_words() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return set()


@contextmanager
def fast_math(device: torch.device) -> Iterator[None]:
    """Compute without denormal numbers, with TF32 on a GPU, and keep freed memory in the process.

    Denormal numbers are many times slower than others, and here as good as zero. The activations of
    a window are freed before those of the next one are allocated. By default glibc returns blocks
    above 32 megabytes to the system, which then clears them page by page for the next window. That
    can take a third of the time. The setting of memory stays until the process ends.

    Args:
        device: Device that computes. On a CPU fp32 is multiplied in fp32, also beside a GPU.
    """
    torch.set_flush_denormal(True)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    _keep_freed_memory()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_flush_denormal(False)


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory in the process; other C libraries have no such setting."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError on Windows.
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def check_size(section: ModelSection, vocabulary_size: int, head: Head | None = None) -> None:
    """Check that the weights of a model fit into the memory of this machine, without creating them.

    Raises:
        ConfigError: The memory is too small.
    """
    model = model_of_shapes(section, vocabulary_size, head)
    weights = sum(tensor.numel() for tensor in model.parameters())
    needed = 4 * weights
    if not hasattr(os, "sysconf"):  # Windows: no check.
        return
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > available:
        raise ConfigError(
            f"model: {weights:,} weights need {needed / 1e9:,.0f} GB, and this machine has "
            f"{available / 1e9:,.0f} GB; lower model.hidden_size, model.num_layers or "
            "tokenizer.vocabulary_size"
        )
