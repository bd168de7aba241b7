"""Precision by processor, and memory that stays in the process."""

import ctypes
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from charlm.training.devices import choose_precision, fast_math


def test_bf16_is_chosen_on_a_processor_that_is_faster_in_it(monkeypatch):
    for processor, precision in (
        ("GenuineIntel avx512f avx512_bf16 amx_bf16", torch.bfloat16),
        ("GenuineIntel avx512f avx512_bf16", torch.float32),
        ("AuthenticAMD avx512f avx512_bf16", torch.bfloat16),
        ("AuthenticAMD avx2", torch.float32),
    ):
        monkeypatch.setattr(Path, "read_text", lambda *_, text=processor, **__: text)
        assert choose_precision("auto", torch.device("cpu")) == precision, processor


COUNT_PAGE_FAULTS = """
import resource, torch
from charlm.training.devices import fast_math

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(12_000_000)  # 48 megabytes: 11,719 pages.
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
with fast_math(torch.device("cpu")):
    faults()
    print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_freed_memory_stays_in_the_process_for_the_next_allocation():
    done = subprocess.run(
        [sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True
    )
    by_default, kept = map(int, done.stdout.split())
    assert by_default > 50_000 and kept < by_default / 2  # A few blocks may still be new.


def test_bf16_is_chosen_if_the_named_gpu_has_it_and_not_the_current_one(monkeypatch):
    current = [0]

    @contextmanager
    def selected(device):
        current.append(device.index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", selected)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1] == 1)
    assert choose_precision("auto", torch.device("cuda:0")) == torch.float32
    assert choose_precision("auto", torch.device("cuda:1")) == torch.bfloat16


def test_tf32_is_allowed_only_where_a_gpu_computes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device, precision in (("cpu", "highest"), ("cuda:1", "high")):
        with fast_math(torch.device(device)):
            assert torch.get_float32_matmul_precision() == precision
        assert torch.get_float32_matmul_precision() == "highest"
