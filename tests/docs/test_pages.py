"""What the documentation names exists: links, commands, options, settings; and its lines are short."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer  # noqa: TID251 - it walks the command tree
from pydantic import BaseModel

import charlm
from charlm.cli.main import app
from charlm.cli.main import run as command

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GUIDES = [page for page in PAGES if "lab" not in page.parts and page.name != "cli.md"]
TUTORIAL = ROOT / "docs" / "tutorial.md"
TREE = typer.main.get_command(app)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
every_guide = pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> Iterator[str]:
    """Yield the lines outside fenced code."""
    fenced = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield line


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = (line.lstrip("#").strip().lower() for line in prose(page) if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[str]:
    """Yield every charlm command line of a page: those of code blocks, and those within a text."""
    text = re.sub(r"\\\n *", "", page.read_text(encoding="utf-8"))
    yield from re.findall(r"(?:^    |\| |-m )(charlm [a-z].*?)(?: >.*| +#.*)?$", text, re.MULTILINE)
    yield from re.findall(r"`(charlm [a-z][^`\n]*)`", text)


@every_page
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", "\n".join(prose(page))):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{target} is missing"
        if anchor:
            assert anchor in anchors(linked), f"{target}: no such heading"


@every_page
def test_no_line_of_prose_is_longer_than_120_columns(page):
    """Tables, comments and the generated folder map have lines as long as they need."""
    may_be_long = re.compile(r"\||<!--| *- `[\w/.]+`: ")
    assert not [line for line in prose(page) if len(line) > 120 and not may_be_long.match(line)]


@every_guide
def test_every_command_of_a_page_has_the_options_that_it_is_given(page):
    for line in commands(page):
        words, group = shlex.split(line.replace("...", ""))[1:], TREE
        while words and words[0] in getattr(group, "commands", {}):
            group = group.commands[words.pop(0)]
        assert not getattr(group, "commands", {}) or not words, f"{line}: no such command"
        known = {option for parameter in group.params for option in parameter.opts}
        for word in words:
            option = word.partition("=")[0]
            assert not re.match(r"--[a-z]", word) or option in known, f"{line}: no option {option}"


@every_guide
def test_every_setting_that_a_page_changes_exists(page):
    text = page.read_text(encoding="utf-8")
    text = text.replace("--set section.key=value", "")
    for dotted in re.findall(r"--(?:set|search) \"?([a-z]+\.[a-z_.0-9]+)=", text):
        section: type[BaseModel] | None = charlm.Config
        for key in dotted.split("."):
            assert section is not None and key in section.model_fields, dotted
            annotation = section.model_fields[key].annotation
            is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
            section = annotation if is_section else None


def test_the_results_have_at_most_150_lines():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert len(results.splitlines()) <= 150


def test_the_tutorials_commands_work_one_after_another(tmp_path, monkeypatch, capfd):
    """As they stand, but for a smaller text, a smaller network and three steps."""
    monkeypatch.chdir(tmp_path)
    Path("small.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 400)
    small = "--steps 3 --set model.hidden_size=8 --set corpus.text=small.txt"
    lines = re.findall(r"^    (charlm .*)$", TUTORIAL.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line.replace("--steps 2000", small))
        assert command(words[1:]) == 0, line
        assert capfd.readouterr().out
    assert {run.name for run in Path("runs").iterdir()} == {"first", "second"}
