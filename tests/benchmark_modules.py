"""Benchmarks as modules, for their tests."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    """Return a benchmark's module, loaded with its folder first in the path, as for a program."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    path = sys.path[:]
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def parse(module: ModuleType, monkeypatch, *arguments: object) -> argparse.Namespace:
    """Return the parsed command line of a benchmark, as its function `arguments` returns it."""
    monkeypatch.setattr(sys, "argv", [Path(module.__file__).name, *map(str, arguments)])
    return module.arguments()
