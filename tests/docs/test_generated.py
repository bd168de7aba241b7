"""The generated parts of the documentation are what their generators write now."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = module_of(DOCS / "reference" / "generate.py")
folder_map = module_of(DOCS / "generate_folder_map.py")


@pytest.mark.parametrize("name", reference.PAGES)
def test_a_reference_page_is_what_its_generator_writes(monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "100")
    page = (DOCS / "reference" / name).read_text(encoding="utf-8")
    assert page == reference.PAGES[name](), "run: make docs"


def test_the_folder_map_is_made_from_the_docstrings_of_now():
    page = folder_map.PAGE.read_text(encoding="utf-8")
    assert page == folder_map.HEADER + folder_map.folder_map(), "run: make docs"


def test_the_folder_map_names_every_module_in_the_order_of_the_layers(tmp_path):
    for name in (
        "cli/__init__",
        "cli/main",
        "data/__init__",
        "data/deep/__init__",
        "errors",
        "zoo",
    ):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""About {name}.\n\nMore."""\n' if name != "zoo" else "x = 1\n")
    (tmp_path / "cli" / "data.txt").write_text("no module")
    assert folder_map.folder_map(tmp_path).splitlines() == [
        "- `errors.py`: About errors.",
        "- `data/`: About data/__init__.",
        "  - `deep/`: About data/deep/__init__.",
        "- `cli/`: About cli/__init__.",
        "  - `main.py`: About cli/main.",
        "- `zoo.py`",
    ]


def test_the_configuration_page_has_every_key_of_the_schema():
    page = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
    for section, field in reference.charlm.Config.model_fields.items():
        table = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
        for key in field.annotation.model_fields:
            assert f"\n| `{key}` |" in table, f"{section}.{key}"
