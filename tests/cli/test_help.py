"""The help: nothing is cut off, and the many options of `charlm sample` are in groups."""

import re

import pytest
import typer  # noqa: TID251 - it walks the command tree

from charlm.cli.main import app
from charlm.cli.main import run as charlm

TREE = typer.main.get_command(app)


@pytest.fixture
def help_of(capfd, monkeypatch):
    """A function that returns the help of a command for a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def help_of(*path: str) -> str:
        assert charlm([*path, "--help"]) == 0
        return capfd.readouterr().out

    return help_of


def test_the_summary_of_every_command_is_shown_in_full(help_of):
    groups = {(): TREE} | {
        (name,): command for name, command in TREE.commands.items() if hasattr(command, "commands")
    }
    assert len(groups) >= 4
    for path, group in groups.items():
        text = help_of(*path)
        assert max(map(len, text.splitlines())) <= 80, path
        listed = re.sub(r"\s+", " ", text.split("\nCommands:\n")[1])
        for name, command in group.commands.items():
            paragraph = re.sub(r"\s+", " ", command.help.split("\n\n")[0]).strip()
            sentence = re.split(r"(?<=\.)\s", paragraph)[0]
            assert f" {name} {sentence}" in listed, (path, name)


def test_the_options_of_sample_are_in_groups_each_once(help_of):
    text = help_of("sample")
    sections = re.split(r"^(\S[^\n]*):\n", text.split("\nArguments:\n")[1], flags=re.MULTILINE)
    groups = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert len(groups) == 6 and list(groups)[-1] == "Options"
    assert "  --temperature " in groups["How a token is drawn"]
    assert "  --prompt " in groups["Beginning and end"]
    for option in TREE.commands["sample"].params:
        name = option.opts[-1]
        if name.startswith("--"):
            places = [group for group, lines in groups.items() if f"  {name} " in lines]
            assert len(places) == 1, name
    assert max(section.count("\n  -") for section in groups.values()) <= 10
