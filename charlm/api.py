"""What a command does, one call does: `train` and `load`, `Run.sample` and `Run.perplexity`."""

import time
from pathlib import Path
from typing import Literal

from charlm.config.schema import Config
from charlm.model.language_model import LanguageModel
from charlm.runs import prepare, session
from charlm.runs.checkpoint import Which, check_weights, load_checkpoint, put_weights
from charlm.runs.folder import load_run, newest_run
from charlm.tracking import check_installed, tracked
from charlm.trained.scoring import Scorer
from charlm.trained.writing import Fill as Fill
from charlm.trained.writing import Sample as Sample
from charlm.training.devices import choose_device


class Run(Scorer):
    """A trained model in its run folder; it writes and scores."""


def train(
    config: Config, *, out: str | Path | None = None, track: Literal["tensorboard"] | None = None
) -> Run:
    """Train a model; return the best of the run.

    Args:
        config: From `charlm.load_config`.
        out: The run folder; by default a new one under `runs/`.
        track: Also write metrics and samples for TensorBoard, to its folder `tensorboard`.

    Raises:
        CharlmError: The corpus, the device or the folder cannot be used, or the training diverged.
    """
    folder = Path(out) if out is not None else new_run_folder("run")
    if track is not None:
        check_installed()
    experiment = prepare.begin(config, folder)
    events = session.run(experiment)
    for _ in events if track is None else tracked(experiment, events):
        pass
    return load(folder)


def load(folder: str | Path | None = None, *, which: Which = "best", device: str = "auto") -> Run:
    """Load a trained model. Nothing in the run folder is executed.

    Args:
        folder: The run folder; by default the newest under `runs/`.
        which: `best` by validation loss, or `last`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`, whichever it was trained on.

    Raises:
        CheckpointError: It is no run folder, or damaged.
    """
    folder = Path(folder) if folder is not None else newest_run(Path("runs"))
    config, tokenizer, corpus = load_run(folder)
    if which == "best" and not (folder / "best" / "state.json").is_file():
        which = "last"  # Stopped before its first evaluation.
    saved = load_checkpoint(folder / which, only="weights")
    chosen = choose_device(device)
    check_weights(config.model, tokenizer.vocabulary_size, saved)
    model = LanguageModel(config.model, tokenizer.vocabulary_size)
    put_weights(model, saved.tensors["weights"], saved.folder)
    return Run(
        folder, which, config, tokenizer, model.to(chosen).eval(), corpus, saved.state, chosen
    )


def new_run_folder(name: str) -> Path:
    """Return a folder under `runs/` that does not exist yet, named after the configuration and the time."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path("runs") / stem, 2
    while folder.exists():
        folder, number = Path("runs") / f"{stem}-{number}", number + 1
    return folder
