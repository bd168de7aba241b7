"""Output that cannot be written: a full disk, a closed pipe, a closed stream."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL, TEXT

from charlm.cli import terminal
from charlm.cli.main import run as charlm

FULL = Path("/dev/full")
SETTINGS = [part for override in SMALL for part in ("--set", override)]
# The arguments of every command, but those that download; RUN stands for a run folder.
COMMANDS = [
    "--help",
    "--version",
    "train --help",
    "train text.txt --steps 1 --out new",
    "tune text.txt --search model.hidden_size=4,8 --trials 1 --out search --set training.steps=1",
    "sample RUN --length 30",
    "sample RUN --length 30 --count 2",
    "sample RUN --length 30 --json",
    "sample RUN --length 9 --beams 2",
    "eval --help",
    "eval perplexity RUN",
    "eval sentences RUN text.txt",
    "eval tokens RUN",
    "eval compare RUN RUN",
    "eval novelty RUN --size 200",
    "eval agreement RUN --sentences 10",
    "eval gradients RUN --window 4 --windows 2",
    "inspect RUN",
    "inspect RUN --json",
    "compress RUN text.txt --force",
    "compress RUN text.txt --out -",
    "decompress text.txt.charlm --run RUN --out -",
    "corpus list",
    "corpus show names",
    "corpus build agreement --set sentences=100 --to pairs.txt",
    "corpus encode text.txt",
    "corpus stats text.txt",
    "config show",
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT[:2000], encoding="utf-8")
    return tmp_path


def arguments(command: str, run: Path) -> list[str]:
    words = [str(run) if word == "RUN" else word for word in command.split()]
    return [*words, *(SETTINGS if words[0] in ("train", "tune") and "--help" not in words else [])]


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_every_command_ends_with_one_line_where_its_output_cannot_be_written(
    folder, trained, monkeypatch, capfd
):
    assert charlm(["compress", str(trained), "text.txt"]) == 0
    for command in COMMANDS:
        capfd.readouterr()
        with FULL.open("w", encoding="utf-8") as full, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            assert charlm(arguments(command, trained)) == 1, command
        *_, last = capfd.readouterr().err.splitlines()
        problem = "stdout: cannot be written: No space left on device; write to another place"
        assert last.endswith(problem), (command, last)


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_message_that_cannot_be_written_does_not_end_a_command(monkeypatch, capfd):
    with FULL.open("w", encoding="utf-8") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", full)
        assert charlm(["inspect", "missing"]) == 1
        terminal.say("one more line")
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_program_whose_output_is_full_or_closed_ends_without_a_traceback():
    """As a process, because Python writes the rest of its output once more at the end."""
    program = f"{sys.executable} -m charlm config show"
    commands = {
        f"{program} > /dev/full": (1, "", "charlm: stdout: cannot be written"),
        f"{program} | true; exit ${{PIPESTATUS[0]}}": (1, "", ""),
        f"{program} >&-": (0, "", ""),
        f"{program} missing 2>&-": (1, "", ""),
        f"{program} missing 2>/dev/full": (1, "", ""),
    }
    for command, (status, out, err) in commands.items():
        ended = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
        )
        assert ended.returncode == status, (command, ended.stderr)
        assert ended.stdout.startswith(out) and ended.stderr.startswith(err), command
        assert ended.stdout.count("\n") == bool(out), command
        assert ended.stderr.count("\n") == bool(err), command


def test_ctrl_c_while_the_command_line_is_imported_ends_in_one_line(monkeypatch, capsys):
    class Interrupting:
        """Interrupts the import of the command line, as Ctrl-C in the first second does."""

        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "charlm.cli.main":
                raise KeyboardInterrupt

    from charlm.__main__ import main

    monkeypatch.delitem(sys.modules, "charlm.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "charlm: interrupted\n"


def test_ctrl_c_during_a_command_ends_in_one_line(monkeypatch, capsys):
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("charlm.cli.inspect.load_any", interrupt)
    assert charlm(["inspect", "run"]) == 130
    assert capsys.readouterr().err == "charlm: interrupted\n"
