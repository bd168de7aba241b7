"""Write the folder map of architecture.md from the first docstring line of every module.

Usage: python docs/generate_folder_map.py

The map stands between two markers. A test compares it with the code: run this script again
(`make docs`) after a module was added, renamed or described in other words.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

DOCS = Path(__file__).parent
PAGE = DOCS / "architecture.md"
PACKAGE = DOCS.parent / "charlm"
BEGIN, END = "<!-- folder map: begin -->\n", "<!-- folder map: end -->\n"
# The order of the layers (tests/test_layering.py). Other rooms follow, sorted by name.
ROOMS = [
    "errors.py",
    "version.py",
    "storage",
    "config",
    "data",
    "model",
    "training",
    "runs",
    "trained_model.py",
    "sampling",
    "evaluation",
    "compression",
    "tasks",
    "tracking.py",
    "views",
    "api",
    "serving",
    "export",
    "tuning",
    "cli",
]


def folder_map(package: Path = PACKAGE) -> str:
    """Return the map: a nested list of folders and modules."""
    return "".join(f"{line}\n" for line in lines(package, depth=0))


def lines(folder: Path, depth: int) -> Iterator[str]:
    """Yield a line for each module and each package in a folder, and for what they contain."""
    for path in sorted(filter(is_shown, folder.iterdir()), key=position if depth == 0 else None):
        docstring = first_line(path / "__init__.py" if path.is_dir() else path)
        name = f"{path.name}/" if path.is_dir() else path.name
        yield f"{'  ' * depth}- `{name}`: {docstring}".removesuffix(": ")
        if path.is_dir():
            yield from lines(path, depth + 1)


def is_shown(path: Path) -> bool:
    """Return whether a path is a package or a module other than `__init__.py`."""
    if path.is_dir():
        return (path / "__init__.py").is_file()
    return path.suffix == ".py" and path.name != "__init__.py"


def position(path: Path) -> tuple[int, str]:
    """Return the sort key of a file or folder directly in the package."""
    return ROOMS.index(path.name) if path.name in ROOMS else len(ROOMS), path.name


def first_line(module: Path) -> str:
    """Return the first line of a module's docstring, or nothing."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def page_with(map_: str, page: str) -> str:
    """Return `page` with the text between the markers replaced by `map_`."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: the markers of the folder map are missing")
    return f"{before}{BEGIN}\n{map_}\n{END}{after}"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page_with(folder_map(), text), encoding="utf-8")
