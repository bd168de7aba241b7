"""Load the run that a command names; a wrong path is reported before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import AnyRun, Run


def existing_run(folder: Path | None) -> Path:
    """Return a run folder, None for the newest; raise CheckpointError if there is none."""
    from charlm.runs.files import RUNS
    from charlm.runs.folder import check_is_run, newest_run

    if folder is None:
        return newest_run(RUNS)
    check_is_run(folder)
    return folder


def load(folder: Path | None, *, which: Literal["best", "last"], device: str) -> "Run":
    """Load a language model; arguments and exceptions as for `charlm.load`."""
    folder = existing_run(folder)
    from charlm import api

    return api.load(folder, which=which, device=device)


def load_any(folder: Path | None, *, which: Literal["best", "last"], device: str) -> "AnyRun":
    """Load a model of any task; arguments and exceptions as for `load`."""
    folder = existing_run(folder)
    from charlm import api

    return api.load_any(folder, which=which, device=device)
