"""A run folder with any one byte changed, or any file cut at any length: it is told, or it changes no output.

All but two files have a checksum, which is checked before anything is parsed, so that a look at the checkpoints is all
that damage gets to. The two are metrics.jsonl, from whose lines nothing is computed, and the lock.
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
FLIPS = (0x01, 0x20, 0x80)  # Another digit; another case; no UTF-8 any more.
LARGE = 1200  # Bytes; larger files are damaged here and there, and at every byte with -m slow.


@pytest.fixture
def folder(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "run"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def outputs(folder: Path) -> list[torch.Tensor]:
    """Return the ids of a text and what the model of each checkpoint makes of them."""
    found = []
    for which in ("best", "last"):
        loaded = load(folder, which=which, device="cpu")
        ids = torch.tensor(loaded.tokenizer.encode("The cat sat on the roof.").tolist())[:, None]
        with torch.inference_mode():
            found += [ids, loaded.model(ids)[0]]
    return found


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def is_told(path: Path, folder: Path) -> bool:
    """Read one file of a run folder as loading does; return whether it is refused."""
    try:
        if path.parent == folder:
            check_run_files(folder)
        else:
            load_checkpoint(
                path.parent, only="training" if path.name.startswith("training") else "weights"
            )
    except CheckpointError:
        return True
    return False


def damages(path: Path, stride: int) -> Iterator[None]:
    """Change a file in place, each byte in turn, then cut it shorter and shorter; it is left whole."""
    data = path.read_bytes()
    stride = stride if len(data) > LARGE else 1
    handle = os.open(path, os.O_RDWR)
    for at in range(0, len(data), stride):
        for flip in FLIPS if stride == 1 and len(data) > LARGE else FLIPS[at % 3 :][:1]:
            os.pwrite(handle, bytes([data[at] ^ flip]), at)
            yield
        os.pwrite(handle, data[at : at + 1], at)
    for length in reversed(range(0, len(data), stride)):
        os.ftruncate(handle, length)
        yield
    os.pwrite(handle, data, 0)
    os.close(handle)


def test_the_files_of_a_run_folder_are_those_that_are_damaged_here(folder):
    assert {path.name.split("-")[0] for path in files_of(folder)} == {
        "config.yaml",
        "tokenizer.json",
        "corpus.json",
        "state.json",
        "weights",
        "training",
        *WITHOUT_CHECKSUM,
    }


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_whatever_byte_is_changed_and_wherever_a_file_is_cut_it_is_told_or_changes_nothing(
    folder, stride
):
    whole, told, harmless = outputs(folder), 0, 0
    for path in files_of(folder):
        for _ in damages(path, stride) if path.name not in WITHOUT_CHECKSUM else ():
            if is_told(path, folder):
                told += 1
            else:
                assert same(outputs(folder), whole), path
                harmless += path.name != "config.yaml"
    assert same(outputs(folder), whole)
    # Of all bytes, those alone are harmless that name the checksum: the rest of state.json is then as it was. And of
    # config.yaml, comments and where its texts are.
    assert told > 1000 and harmless <= 2 * len("sha256")


def test_files_without_a_checksum_change_nothing(folder):
    whole = outputs(folder)
    for name in WITHOUT_CHECKSUM:
        (folder / name).unlink()
    assert same(outputs(folder), whole)


def test_metrics_that_are_damaged_anywhere_are_cut_where_they_are_whole(folder):
    path = folder / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    for damaged in (b"\x80", b"[" * 5000, b'{"step": "x"}', b'{"step": NaN}', b"null", b'"' * 9):
        path.write_bytes(b"\n".join([lines[0], damaged, *lines[1:]]))
        truncate_metrics(folder, after_step=10**9, halvings=0)
        assert path.read_bytes().splitlines() == lines


def test_what_loading_says_of_damage_is_one_plain_line(folder):
    for path in files_of(folder):
        data = path.read_bytes()
        for changed in (
            data[:-1],
            b"",
            data[: len(data) // 2] + b"\x80" + data[len(data) // 2 + 1 :],
        ):
            path.write_bytes(changed)
            try:
                outputs(folder)
            except CharlmError as error:
                assert str(error).isprintable() and str(path) in str(error) and "; " in str(error)
            else:
                assert path.name in (*WITHOUT_CHECKSUM, "config.yaml") or path.name.startswith(
                    "training"
                )
        path.write_bytes(data)
