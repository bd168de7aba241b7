"""Load the runs of a folder."""

import warnings
from pathlib import Path

import torch

from charlm import trained_model
from charlm.api.runs import AnyRun, LabelRun, Run, StrPath, Translator
from charlm.config.values import checked
from charlm.runs.files import RUNS, CheckpointName
from charlm.runs.folder import newest_run
from charlm.runs.listing import RunList, find_runs, summarize_readable
from charlm.tasks import label_run
from charlm.trained_model import LanguageModelRequiredError


@checked
def load(
    folder: StrPath | None = None,
    *,
    which: CheckpointName = "best",
    device: str | torch.device = "auto",
) -> Run:
    """Load a trained model. Nothing in the run folder is executed.

    Args:
        folder: Run folder; None takes the newest under `runs/`.
        which: `best` by validation loss, or `last`.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or a device of torch; the device of the training
            does not matter.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
        CharlmError: The model has labels, or an encoder and a decoder.
        DeviceError: The device is not available.
    """
    return Run(trained_model.load(_given_or_newest(folder), which, str(device)))


@checked
def load_labels(
    folder: StrPath | None = None,
    which: CheckpointName = "best",
    device: str | torch.device = "auto",
) -> LabelRun:
    """Load a trained model of labels. Nothing in the run folder is executed.

    Args:
        folder: As for `load`.
        which: As for `load`.
        device: As for `load`.

    Raises:
        CheckpointError: The folder is no run folder, or is damaged.
        CharlmError: The model has another task.
    """
    return LabelRun(label_run.load_labels(_given_or_newest(folder), which, str(device)))


@checked
def load_translator(
    folder: StrPath | None = None,
    which: CheckpointName = "best",
    device: str | torch.device = "auto",
) -> Translator:
    """Load a trained encoder and decoder; arguments and exceptions as for `load_labels`."""
    return Translator(trained_model.load_translator(_given_or_newest(folder), which, str(device)))


@checked
def load_any(
    folder: StrPath | None = None,
    *,
    which: CheckpointName = "best",
    device: str | torch.device = "auto",
) -> AnyRun:
    """Load a trained model: a `Run`, a `LabelRun` of task classify or tag, or a `Translator`.

    Args:
        folder: As for `load`.
        which: As for `load`.
        device: As for `load`.

    Raises:
        CheckpointError: As for `load`.
    """
    try:
        return load(folder, which=which, device=device)
    except LanguageModelRequiredError as error:
        load_it = load_translator if error.kind == "translate" else load_labels
        return load_it(error.folder, which, str(device))


@checked
def list_runs(folder: StrPath = RUNS) -> RunList:
    """Return settings and validation scores of the runs in a folder and in its subfolders.

    Printed, they are the table of `charlm runs`.
    `pandas.DataFrame([run.to_json() for run in charlm.list_runs()])` is a table of them.
    A damaged run is left out, with a UserWarning.

    Raises:
        CheckpointError: There are no runs.
    """
    return summarize_readable(find_runs(Path(folder)), warn=_warn)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=5)  # The line that calls `list_runs`, which `checked` wraps.


def _given_or_newest(folder: StrPath | None) -> Path:
    return newest_run(RUNS) if folder is None else Path(folder)
