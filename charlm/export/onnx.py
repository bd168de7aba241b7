"""Export to onnx."""

from pathlib import Path

from charlm.errors import CharlmError
from charlm.export.options import ExportOptions
from charlm.export.verification import Computed, Passage
from charlm.trained_model import TrainedModel


def write(trained: TrainedModel, options: ExportOptions, path: Path) -> None:
    """Write a trained model."""
    raise CharlmError("export to onnx: is not written yet")


def compute(path: Path, passage: Passage, options: ExportOptions) -> Computed:
    """Compute logits from the written files."""
    raise CharlmError("export to onnx: is not written yet")
