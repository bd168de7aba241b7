"""`charlm compress` and `charlm decompress` as a person types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEXT

from charlm.cli.main import run as charlm


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Run each command in a folder of its own, with a text in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.txt").write_bytes(TEXT[:1200].encode() + b"\r\n\xff\0 \xe4\xb8\x80")
    return tmp_path


def refused(capfd, *arguments: object, status: int = 1) -> str:
    """Run a command that must be refused in one line on stderr; return the line."""
    assert charlm([*map(str, arguments)]) == status
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err


def test_compress_then_decompress_gives_back_the_identical_bytes(capfd, trained):
    original = Path("my.txt").read_bytes()
    assert charlm(["compress", str(trained), "my.txt", "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert err == "" and found["file"] == "my.txt.charlm"
    assert (
        found["bytes_in"] == len(original)
        and found["bytes_out"] == Path("my.txt.charlm").stat().st_size
    )
    assert found["bytes_out"] < found["bytes_in"] / 2
    assert found["bits_per_character"] == 8 * found["bytes_out"] / found["characters"]
    assert found["settings"]["run"] == str(trained) and found["settings"]["streams"] == 1
    assert found["unknown"] == 4 and 0 < found["literal_bytes"] < 20
    assert charlm(["decompress", "my.txt.charlm", "--run", str(trained), "--out", "again.txt"]) == 0
    assert capfd.readouterr() == ("again.txt\n", "")
    assert Path("again.txt").read_bytes() == original


def test_without_options_the_newest_run_and_the_files_own_names(capfd, trained):
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(trained)
    original = Path("my.txt").read_bytes()
    assert charlm(["compress", "my.txt", "--streams", "1"]) == 0
    out, err = capfd.readouterr()
    names = [line.split()[0] for line in out.splitlines()]
    assert (
        err == ""
        and names[:2] == ["bytes_in", "bytes_out"]
        and "ratio_to_lzma" in names
        and "streams 1," in out
    )
    Path("my.txt").unlink()
    assert charlm(["decompress", "my.txt.charlm"]) == 0
    assert capfd.readouterr().out == "my.txt\n" and Path("my.txt").read_bytes() == original


def test_a_file_that_is_there_is_written_over_only_by_force(capfd, trained):
    Path("my.txt.charlm").write_text("mine")
    assert "my.txt.charlm: is there already; " in refused(capfd, "compress", trained, "my.txt")
    assert Path("my.txt.charlm").read_text() == "mine"
    assert charlm(["compress", str(trained), "my.txt", "--force"]) == 0
    capfd.readouterr()
    original = Path("my.txt").read_bytes()
    assert "my.txt: is there already; " in refused(
        capfd, "decompress", "my.txt.charlm", "--run", trained
    )
    Path("my.txt").write_text("other")
    assert charlm(["decompress", "my.txt.charlm", "--run", str(trained), "--force"]) == 0
    assert Path("my.txt").read_bytes() == original


def test_through_a_pipe_in_processes_of_their_own(trained):
    original = Path("my.txt").read_bytes()

    def pipe(data: bytes, *arguments: str) -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "charlm", *arguments],
            input=data,
            capture_output=True,
            check=True,
            env=os.environ | {"OMP_NUM_THREADS": "2"},
        )
        assert done.stderr == b""
        return done.stdout

    compressed = pipe(original, "compress", str(trained), "-")
    assert len(compressed) < len(original) / 2
    assert pipe(compressed, "decompress", "-", "--run", str(trained)) == original


def test_mistakes_are_told_in_one_line(capfd, trained, trained_records):
    assert charlm(["compress", str(trained), "my.txt"]) == 0
    capfd.readouterr()
    whole = Path("my.txt.charlm").read_bytes()
    again = ["--out", "again.txt"]
    line = refused(capfd, "decompress", "my.txt.charlm", "--run", trained_records, *again)
    assert (
        "my.txt.charlm: was compressed with another model (weights " in line and "--run RUN" in line
    )
    Path("my.txt.charlm").write_bytes(whole[:-7])
    assert "my.txt.charlm: is damaged or cut" in refused(
        capfd, "decompress", "my.txt.charlm", "--run", trained, *again
    )
    Path("my.txt.charlm").write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    assert "is damaged or cut" in refused(
        capfd, "decompress", "my.txt.charlm", "--run", trained, *again
    )
    assert "my.txt: is no file that charlm" in refused(
        capfd, "decompress", "my.txt", "--run", trained, *again
    )
    assert "none.txt: cannot be read: No such file" in refused(
        capfd, "compress", trained, "none.txt"
    )
    assert "no/such: no such run folder" in refused(capfd, "compress", "no/such", "my.txt", *again)
    assert "does not end in .charlm" in refused(capfd, "decompress", "my.txt", status=2)
    assert "one RUN and one FILE" in refused(capfd, "compress", "a", "b", "c", status=2)
    assert "--json" in refused(
        capfd, "compress", trained, "my.txt", "--out", "-", "--json", status=2
    )
    assert ".: is a folder" in refused(capfd, "compress", trained, "my.txt", "--out", ".")
    assert not Path("again.txt").exists()


def test_without_constriction_it_says_how_to_get_it(capfd, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    assert "pip install 'charlm[eval]'" in refused(capfd, "compress", trained, "my.txt")


def test_help_loads_neither_torch_nor_constriction():
    code = "import sys; from charlm.cli.main import run; run(['--help']); run(['compress', '--help']); "
    code += (
        "run(['decompress', '--help']); print({'torch', 'constriction', 'tqdm'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.endswith("set()\n")
