"""charlm: train recurrent language models on any text, sample from them, and score them honestly.

There is one call for each command. A call loads what it needs when it is first used:

    import charlm

    run = charlm.train("novel.txt", minutes=5)
    print(run.sample(temperature=0.8)[0].text)
    print(charlm.load("runs/x").perplexity(split="valid").loss_nats)
"""

from charlm.version import VERSION

TYPE_CHECKING = False  # Importing `typing` for it would take longer than importing this module.
if TYPE_CHECKING:
    from typing import Any

    from charlm.api import Run as Run
    from charlm.api import choose as choose
    from charlm.api import list_runs as list_runs
    from charlm.api import load as load
    from charlm.api import load_labels as load_labels
    from charlm.api import load_translator as load_translator
    from charlm.api import report as report
    from charlm.api import resume as resume
    from charlm.api import train as train
    from charlm.api import train_labels as train_labels
    from charlm.api import train_seeds as train_seeds
    from charlm.api import train_translator as train_translator
    from charlm.config.load import load_config as load_config
    from charlm.config.schema import Config as Config
    from charlm.errors import CharlmError as CharlmError
    from charlm.export.card import model_card as model_card
    from charlm.export.exporting import export_run as export_run
    from charlm.export.importing import import_run as import_run
    from charlm.model.cells.registry import register_cell as register_cell
    from charlm.serving.client import connect as connect

__version__ = VERSION

_HOMES = {
    "Run": "charlm.api",
    "choose": "charlm.api",
    "connect": "charlm.serving.client",
    "list_runs": "charlm.api",
    "load": "charlm.api",
    "load_labels": "charlm.api",
    "load_translator": "charlm.api",
    "report": "charlm.api",
    "resume": "charlm.api",
    "train": "charlm.api",
    "train_labels": "charlm.api",
    "train_seeds": "charlm.api",
    "train_translator": "charlm.api",
    "Config": "charlm.config.schema",
    "load_config": "charlm.config.load",
    "CharlmError": "charlm.errors",
    "export_run": "charlm.export.exporting",
    "import_run": "charlm.export.importing",
    "model_card": "charlm.export.card",
    "register_cell": "charlm.model.cells.registry",
}
__all__ = [
    "CharlmError",
    "Config",
    "Run",
    "choose",
    "connect",
    "export_run",
    "import_run",
    "list_runs",
    "load",
    "load_config",
    "load_labels",
    "load_translator",
    "model_card",
    "register_cell",
    "report",
    "resume",
    "train",
    "train_labels",
    "train_seeds",
    "train_translator",
]


def __dir__() -> "list[str]":
    """Return the names of the module with the public ones, which completion in a shell shows."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> "Any":
    """Import a public name when it is first used, so that `import charlm` loads no torch."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'charlm' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
