"""Imports point to earlier rooms only: the order of docs/reference/modules.md."""

import ast
from functools import cache
from pathlib import Path

import charlm

PACKAGE = Path(charlm.__file__).parent
# Rooms in the order of the data flow. Rooms on one line do not import each other.
ORDER = [
    {"errors", "version"},
    {"storage"},
    {"config"},
    {"data", "model"},
    {"training"},
    {"runs"},
    {"trained_model"},
    {"model_texts"},
    {"sampling"},
    {"evaluation", "compression", "tasks"},
    {"tracking"},
    {"views"},
    {"api"},
    {"tuning", "serving", "export"},
    {"cli"},
    {"__main__"},
]
RANK = {room: number for number, rooms in enumerate(ORDER) for room in rooms}
PURE = ("model/", "training/", "sampling/")
NOT_PURE = (
    "sampling/constraints/byte_automaton",
    "sampling/constraints/regex_process",
    "training/devices",
    "training/launcher",
    "training/process_group",
)  # They read the system they run on.
FORBIDDEN = {"pathlib", "os", "yaml", "sys", "tqdm", "typer"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return the syntax tree of every module by its path in the package, without `.py`."""
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in PACKAGE.rglob("*.py")
    }


def room_of(module: str) -> str:
    return module.split("/")[0]


def imports_of(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return names


def rooms_imported(tree: ast.Module) -> set[str]:
    parts = [name.split(".") for name in imports_of(tree) if name.startswith("charlm.")]
    return {names[1] for names in parts if names[1] in RANK}


def test_every_module_belongs_to_a_room():
    assert {room_of(name) for name in modules()} - {"__init__"} == RANK.keys()


def test_imports_point_to_earlier_rooms_only():
    for name, tree in modules().items():
        room = room_of(name)
        for imported in rooms_imported(tree) - {room}:
            if room != "__init__":
                assert RANK[imported] < RANK[room], f"{name} imports {imported}"


def test_no_room_imports_in_a_circle():
    graph = {
        name.replace("/", "."): {
            imported.removeprefix("charlm.")
            for imported in imports_of(tree)
            if imported.startswith("charlm.")
        }
        for name, tree in modules().items()
        if name != "__init__"
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for imported in graph[name] & graph.keys():
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_model_training_and_sampling_know_neither_paths_nor_yaml_nor_the_terminal():
    for name, tree in modules().items():
        if name.startswith(PURE) and name not in NOT_PURE:
            assert not FORBIDDEN & set(imports_of(tree)), name
