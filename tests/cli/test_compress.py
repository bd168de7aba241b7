"""`charlm compress` and `charlm decompress` as a user types them."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.running import refused
from conftest import TEXT

from charlm.cli.main import run as charlm


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Run each command in a folder of its own that has a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_bytes(TEXT[:1200].encode() + b"\r\n\xff\0 \xe4\xb8\x80")
    return tmp_path


def test_compress_then_decompress_gives_back_the_identical_bytes(capfd, trained):
    original = Path("my.txt").read_bytes()
    assert charlm(["compress", str(trained), "my.txt", "--json"]) == 0
    out, err = capfd.readouterr()
    data = json.loads(out)
    assert err == "" and data["file"] == "my.txt.charlm"
    assert data["bytes_in"] == len(original)
    assert data["bytes_out"] == Path("my.txt.charlm").stat().st_size < len(original) / 2
    assert data["bits_per_character"] == 8 * data["bytes_out"] / data["characters"]
    assert data["settings"]["run"] == str(trained) and data["settings"]["streams"] == 1
    assert data["unknown"] == 4 and 0 < data["literal_bytes"] < 20
    assert charlm(["decompress", "my.txt.charlm", "--run", str(trained), "--out", "again.txt"]) == 0
    assert capfd.readouterr() == ("again.txt\n", "")
    assert Path("again.txt").read_bytes() == original


def test_the_defaults_are_the_newest_run_and_the_file_s_name(capfd, trained):
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(trained)
    original = Path("my.txt").read_bytes()
    assert charlm(["compress", "my.txt", "--streams", "1"]) == 0
    out, err = capfd.readouterr()
    names = [line.split()[0] for line in out.splitlines()]
    assert err == "" and names[:2] == ["bytes_in", "bytes_out"]
    assert "ratio_to_lzma" in names and "streams 1," in out
    Path("my.txt").unlink()
    assert charlm(["decompress", "my.txt.charlm"]) == 0
    assert capfd.readouterr().out == "my.txt\n" and Path("my.txt").read_bytes() == original


def test_only_force_overwrites_a_file(capfd, trained):
    Path("my.txt.charlm").write_text("mine")
    assert "my.txt.charlm: the file exists; " in refused(capfd, "compress", trained, "my.txt")
    assert Path("my.txt.charlm").read_text() == "mine"
    assert charlm(["compress", str(trained), "my.txt", "--force"]) == 0
    capfd.readouterr()
    original = Path("my.txt").read_bytes()
    line = refused(capfd, "decompress", "my.txt.charlm", "--run", trained)
    assert "my.txt: the file exists; " in line
    Path("my.txt").write_text("other")
    assert charlm(["decompress", "my.txt.charlm", "--run", str(trained), "--force"]) == 0
    assert Path("my.txt").read_bytes() == original


def test_another_process_decompresses_through_pipes(capfdbinary, monkeypatch, trained):
    original = Path("my.txt").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "charlm", "compress", str(trained), "-"],
        input=original,
        capture_output=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert done.stderr == b"" and len(done.stdout) < len(original) / 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(done.stdout)))
    assert charlm(["decompress", "-", "--run", str(trained)]) == 0
    assert capfdbinary.readouterr() == (original, b"")


def test_a_mistake_is_one_line(capfd, trained, trained_records):
    assert charlm(["compress", str(trained), "my.txt"]) == 0
    capfd.readouterr()
    whole = Path("my.txt.charlm").read_bytes()
    again = ["--out", "again.txt"]
    line = refused(capfd, "decompress", "my.txt.charlm", "--run", trained_records, *again)
    assert "my.txt.charlm: was compressed with another model (weights " in line
    assert "--run RUN" in line
    for damaged in (whole[:-7], whole[:40] + bytes([whole[40] ^ 1]) + whole[41:]):
        Path("my.txt.charlm").write_bytes(damaged)
        line = refused(capfd, "decompress", "my.txt.charlm", "--run", trained, *again)
        assert "my.txt.charlm: the file is damaged or cut short" in line
    compress = ["compress", trained]
    for arguments, status, problem in [
        (["decompress", "my.txt", "--run", trained, *again], 1, "my.txt: not a file that charlm"),
        ([*compress, "none.txt"], 1, "none.txt: cannot be read: No such file"),
        (["compress", "no/such", "my.txt", *again], 1, "no/such: no such run folder"),
        (["decompress", "my.txt"], 2, "does not end in .charlm"),
        (["compress", "a", "b", "c"], 2, "at most one RUN and one FILE"),
        ([*compress, "my.txt", "--out", "-", "--json"], 2, "--json"),
        ([*compress, "my.txt", "--out", "."], 1, ".: is a folder"),
    ]:
        assert problem in refused(capfd, *arguments, status=status)
    assert not Path("again.txt").exists()


def test_without_constriction_the_error_names_the_extra(capfd, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    assert "pip install 'charlm-rnn[eval]'" in refused(capfd, "compress", trained, "my.txt")
