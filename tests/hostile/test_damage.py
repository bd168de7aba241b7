"""A run folder with any byte changed, or any file truncated, is refused or gives the same outputs.

All files but two have a checksum that is verified before anything is parsed, so damage reaches only
the reading of the checkpoints. The two are metrics.jsonl, from which nothing is computed, and the
lock file.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from charlm.api import load
from charlm.errors import CharlmError, CheckpointError
from charlm.runs.checkpoint import load_checkpoint
from charlm.runs.metrics import truncate_metrics
from charlm.runs.verify import check_run_files

WITHOUT_CHECKSUM = ("metrics.jsonl", ".lock")
BIT_FLIPS = (0x01, 0x20, 0x80)  # Another digit; another case; invalid UTF-8.
SMALL_BYTES = 1200  # Smaller files are damaged at every byte.
# Strides in larger files. Reading a damaged config.yaml is slow, as its comments have no checksum.
STRIDES = {"config.yaml": 211}
DEFAULT_STRIDE = 29


@pytest.fixture
def folder(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "run"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def outputs(folder: Path) -> list[torch.Tensor]:
    """Return the ids of a text and the logits of each checkpoint's model."""
    tensors = []
    for which in ("best", "last"):
        run = load(folder, which=which, device="cpu")
        ids = torch.tensor(run.tokenizer.encode("The cat sat on the roof.").tolist())[:, None]
        with torch.inference_mode():
            tensors += [ids, run.model(ids)[0]]
    return tensors


def are_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def is_refused(path: Path, folder: Path) -> bool:
    """Read one file of a run folder as `load` does; return whether it is refused."""
    try:
        if path.parent == folder:
            check_run_files(folder)
        else:
            part = "training" if path.name.startswith("training") else "weights"
            load_checkpoint(path.parent, only=part)
    except CheckpointError:
        return True
    return False


def damages(path: Path, stride: int) -> Iterator[None]:
    """Change the bytes of a file in place one by one, then truncate it step by step; restore it."""
    data = path.read_bytes()
    handle = os.open(path, os.O_RDWR)
    for offset in range(0, len(data), stride):
        flips = BIT_FLIPS if stride == 1 and len(data) > SMALL_BYTES else [BIT_FLIPS[offset % 3]]
        for flip in flips:
            os.pwrite(handle, bytes([data[offset] ^ flip]), offset)
            yield
        os.pwrite(handle, data[offset : offset + 1], offset)
    for length in reversed(range(0, len(data), stride)):
        os.ftruncate(handle, length)
        yield
    os.pwrite(handle, data, 0)
    os.close(handle)


def test_every_file_of_a_run_folder_is_damaged_here(folder):
    assert {path.name.split("-")[0] for path in files_of(folder)} == {
        "config.yaml",
        "tokenizer.json",
        "corpus.json",
        "state.json",
        "weights",
        "training",
        *WITHOUT_CHECKSUM,
    }


@pytest.mark.parametrize("every_byte", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_damaged_byte_or_truncation_is_refused_or_harmless(folder, every_byte):
    expected = outputs(folder)
    num_refused = num_harmless = 0
    for path in files_of(folder):
        if path.name in WITHOUT_CHECKSUM:
            continue
        is_small = path.stat().st_size <= SMALL_BYTES
        stride = 1 if every_byte or is_small else STRIDES.get(path.name, DEFAULT_STRIDE)
        for _ in damages(path, stride):
            if is_refused(path, folder):
                num_refused += 1
            else:
                assert are_equal(outputs(folder), expected), path
                num_harmless += path.name != "config.yaml"
    assert are_equal(outputs(folder), expected)
    assert num_refused > 1000
    # Harmless are the comments and text paths of config.yaml, and the bytes of the key that names a
    # checksum: without that key state.json is what earlier versions wrote.
    assert num_harmless <= 2 * len("sha256")


def test_files_without_a_checksum_change_no_output(folder):
    expected = outputs(folder)
    for name in WITHOUT_CHECKSUM:
        (folder / name).unlink()
    assert are_equal(outputs(folder), expected)


def test_damaged_lines_of_metrics_are_removed(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    for line in (b"\x80", b"[" * 5000, b'{"step": "x"}', b'{"step": NaN}', b"null", b'"' * 9):
        path.write_bytes(b"\n".join([lines[0], line, *lines[1:]]))
        truncate_metrics(folder, after_step=10**9, halvings=0)
        assert path.read_bytes().splitlines() == lines, line


def test_the_message_about_a_damaged_file_is_one_line_with_its_path_and_a_remedy(folder):
    for path in files_of(folder):
        data = path.read_bytes()
        middle = len(data) // 2
        for damaged in (data[:-1], b"", data[:middle] + b"\x80" + data[middle + 1 :]):
            path.write_bytes(damaged)
            try:
                outputs(folder)
            except CharlmError as error:
                message = str(error)
                assert message.isprintable() and str(path) in message and "; " in message, message
            else:
                is_checked = path.name not in (*WITHOUT_CHECKSUM, "config.yaml")
                assert not is_checked or path.name.startswith("training"), path
        path.write_bytes(data)
