"""The notebooks in examples/ parse, name what exists, and run to their end."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from notebooks import read_cells

import charlm

EXAMPLES = Path(__file__).parents[1] / "examples"
# Figures and reports that each notebook shows.
SHOWN = {"rnn_from_equation_to_text": 2, "vanishing_gradients": 4, "memory_of_cells": 2}
PATHS = [EXAMPLES / f"{name}.py" for name in SHOWN]
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@every_notebook
def test_a_notebook_begins_with_its_title_and_ends_with_exercises(path):
    cells = read_cells(path)
    texts = [cell.source for cell in cells if cell.is_text]
    assert texts[0].startswith("# ")
    exercises = texts[-1].partition("## Exercises")[2]
    assert cells[-1].is_text and len(re.findall(r"(?m)^\d\. ", exercises)) >= 4
    assert sum(not cell.is_text for cell in cells) >= 8


@every_notebook
def test_the_code_of_a_notebook_parses_cell_by_cell(path):
    for cell in read_cells(path):
        if not cell.is_text:
            ast.parse(cell.source)


@every_notebook
def test_everything_of_charlm_that_a_notebook_names_exists(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("charlm"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, name.name) for name in node.names), ast.unparse(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {"charlm": charlm, "run": charlm.Run, "source": charlm.Run}.get(node.value.id)
            if owner is not None:
                fields = getattr(owner, "__dataclass_fields__", ())
                assert hasattr(owner, node.attr) or node.attr in fields, ast.unparse(node)
                names += 1
    assert names >= 5


def test_the_overview_lists_every_file():
    linked = re.findall(r"\]\((\w+)\.py\)", (EXAMPLES / "README.md").read_text("utf-8"))
    files = [*EXAMPLES.glob("*.py")]
    assert sorted(linked) == sorted(path.stem for path in files)
    assert {path.stem for path in files if read_cells(path)} == set(SHOWN)


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_and_shows_its_figures(path, tmp_path, cache):
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("notebooks.py"))]
    package = os.pathsep.join(filter(None, [str(EXAMPLES.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"CHARLM_CACHE": str(cache), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [*command, str(path)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": package},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout.splitlines()[-1])
    assert len(shown) == SHOWN[path.stem]
    assert all("<svg" in html or "srcdoc=" in html for html in shown)
