"""Runs a notebook in percent format as Jupyter would: cells in order, in one namespace.

python tests/notebooks.py FILE prints one JSON object: what the cells show in HTML.
"""

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        is_text: Whether it is Markdown.
        source: Its lines; those of a Markdown cell are without the leading `#`.
        line: Number of its first line in the file.
    """

    is_text: bool
    source: str
    line: int


def read_cells(path: Path) -> list[Cell]:
    """Return the cells of a file; what stands before the first one is no cell."""
    cells = []
    text = path.read_text(encoding="utf-8")
    heads = [*re.finditer(r"(?m)^# %%(.*)\n", text)]
    starts = [*(head.start() for head in heads), len(text)]
    for head, end in zip(heads, starts[1:], strict=True):
        source, is_text = text[head.end() : end], "[markdown]" in head[1]
        if is_text:
            source = re.sub(r"(?m)^# ?", "", source)
        cells.append(Cell(is_text, source, text.count("\n", 0, head.end()) + 1))
    return cells


def run(path: Path) -> list[str]:
    """Run all cells; return the HTML of those whose last line is a value with `_repr_html_`."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in read_cells(path):
        if not cell.is_text:
            value = _run_cell(cell, str(path), namespace)
            if hasattr(value, "_repr_html_"):
                shown.append(value._repr_html_())
    return shown


def _run_cell(cell: Cell, name: str, namespace: dict[str, Any]) -> Any:
    tree = ast.parse("\n" * (cell.line - 1) + cell.source, name)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), namespace)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]))) + "\n")
