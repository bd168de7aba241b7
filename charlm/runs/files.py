"""The files of a run folder: their names, and how they are written.

    runs/NAME/config.yaml       the resolved configuration
    runs/NAME/tokenizer.json    the tokenizer, in the format of Hugging Face tokenizers
    runs/NAME/corpus.json       title, fingerprints and sizes of the parts of the corpus, and how
                                often each token occurs in the training part
    runs/NAME/metrics.jsonl     one line per evaluation
    runs/NAME/samples.jsonl     a text that the model wrote after each evaluation
    runs/NAME/best/, last/      checkpoints: state.json and the safetensors files that it names
    runs/NAME/good/             a checkpoint to which a training with `on_divergence: halve` returns
    runs/NAME/tensorboard/      event files with the metrics and samples of a tracked training
    runs/NAME/.lock             held by the process that trains

Nothing in the folder is ever executed. `state.json` stores the checksums of its own contents, of
the safetensors files, and of the first three files, which belong to every checkpoint of the run.
The name of a safetensors file contains its checksum, and `state.json` is replaced last, in one
atomic step: at any time it names a complete checkpoint.
"""

from pathlib import Path
from typing import Literal

from charlm.errors import CheckpointError
from charlm.storage.atomic import atomic_write

RUNS = Path("runs")  # Folder of the run folders, in the current folder.
CheckpointName = Literal["best", "last"]  # The checkpoints that a trained model is loaded from.
CHECKPOINTS = ("best", "last", "good")
RUN_FILES = ("config.yaml", "tokenizer.json", "corpus.json")  # Every checkpoint needs them.
METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
EVENT_FILES = "tensorboard"
LOCK = ".lock"

RESTORE = "train again, or restore the folder from a backup"
CONTINUE = (
    "the previous checkpoint is complete; free disk space or make the folder writable, then "
    "continue with --resume"
)
BEGIN_AGAIN = "free disk space, or give another --out"


def write_file(path: Path, data: bytes, *, remedy: str = CONTINUE) -> None:
    """Write a file of a run folder atomically.

    Raises:
        CheckpointError: The file cannot be written.
    """
    with atomic_write(path, error_type=CheckpointError, remedy=remedy) as file:
        file.write(data)
