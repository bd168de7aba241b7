"""The examples in docstrings give what they say."""

import doctest
import importlib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_examples_in_docstrings_are_right():
    wrong, count = [], 0
    for path in sorted((ROOT / "charlm").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            result = doctest.testmod(importlib.import_module(name))
            wrong += [name] * result.failed
            count += result.attempted
    assert count > 0
    assert wrong == []
