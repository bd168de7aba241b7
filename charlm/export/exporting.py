"""Export a run: check, write beside the target, verify with the target's own runtime, rename."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from charlm.api import Run
from charlm.config.cell import CELL_KINDS
from charlm.config.values import check_names, checked
from charlm.errors import CharlmError
from charlm.export.options import ExportOptions, check_output
from charlm.export.targets import Precision, TargetName
from charlm.export.verification import (
    Computed,
    Passage,
    Verification,
    choose_passage,
    compare_logits,
    compute_logits,
)
from charlm.storage.atomic import atomic_output
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel
from charlm.version import install_hint


class Exporter(NamedTuple):
    """The two functions of a target.

    Attributes:
        write: Writes a trained model to a path, which does not exist: a file, or a folder that the
            function creates. It raises CharlmError if it cannot represent the model.
        compute: Computes logits on a passage by the runtime of the target, from what `write` wrote
            alone, and with fresh code: nothing of charlm's model is used.
    """

    write: Callable[[TrainedModel, ExportOptions, Path], None]
    compute: Callable[[Path, Passage, ExportOptions], Computed]


@dataclass(frozen=True)
class Export(Result):
    """What was exported.

    Attributes:
        run: Run folder.
        checkpoint: Checkpoint, `best` or `last`.
        to: Name of the target.
        path: The file or folder.
        precision: Precision of the weights.
        bytes: Size of all files together.
        verification: Differences from charlm.
    """

    run: str
    checkpoint: str
    to: TargetName
    path: str
    precision: Precision
    bytes: int
    verification: Verification

    def lines(self) -> Iterator[str]:
        """Yield the file and the comparison with charlm."""
        found = self.verification
        yield f"{self.path}: {self.bytes:,} bytes, {self.precision}"
        logits = f"largest difference of a logit {found.largest_logit_difference:.1e}"
        if found.logit_bound is not None:
            logits += f" (limit {found.logit_bound:.1e})"
        yield (
            f"compared with charlm on {found.tokens:,} tokens of {found.passage}, by "
            f"{found.runtime}: {logits}, "
            f"{found.nats_difference:+.1e} nats per token (limit {found.nats_bound:g})"
        )


@checked
def export_run(run: Run, to: TargetName, out: str | Path, **options: Any) -> Export:
    """Export a run, verified with the runtime of the target; see `charlm export`.

    Args:
        run: The run.
        to: `html`, `onnx`, `torch` or `transformers`.
        out: File or folder to write.
        options: Other fields of `ExportOptions`.

    Returns:
        What was written, and how far its logits are from those of charlm.

    Raises:
        CharlmError: The target cannot represent the model, something is not installed, the output
            exists or cannot be written, or the export differs from charlm. Nothing is written.
    """
    check_names(options, [field.name for field in fields(ExportOptions)])
    return export(run.trained, ExportOptions(to, Path(out), **options))


def export(trained: TrainedModel, options: ExportOptions) -> Export:
    """Export a trained model; see `export_run`."""
    _check_representable(trained, options)
    _check_installed(options)
    check_output(options.out, is_folder=options.target.is_folder, force=options.force)
    exporter = _exporter(options.to)
    passage = choose_passage(trained, options.text)
    expected = compute_logits(trained, passage)
    remedy = "name another place with --out"
    with atomic_output(options.out, error_type=CharlmError, remedy=remedy) as path:
        exporter.write(trained, options, path)
        computed = exporter.compute(path, passage, options)
        verification = compare_logits(expected, computed, passage, options.weight_precision)
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    return Export(
        run=str(trained.folder),
        checkpoint=trained.origin.which,
        to=options.to,
        path=str(options.out),
        precision=options.weight_precision,
        bytes=size,
        verification=verification,
    )


def _check_representable(trained: TrainedModel, options: ExportOptions) -> None:
    """Raise CharlmError if the target cannot represent the model."""
    section = trained.config.model
    if section.direction not in options.target.directions:
        known = " or ".join(options.target.directions)
        raise CharlmError(
            f"{trained.folder}: the model reads {_direction(section.direction)}, which "
            f"{options.to} cannot represent, only {known}; train it with model.direction="
            f"{options.target.directions[0]}"
        )
    if section.cell.kind not in CELL_KINDS:
        raise CharlmError(
            f"{trained.folder}: the cell {section.cell.kind} is not one of charlm, so no target "
            "has its equations; export a run of another cell"
        )


def _direction(direction: str) -> str:
    return "in both directions" if direction == "both" else direction


def _check_installed(options: ExportOptions) -> None:
    """Raise CharlmError if a module that the target needs is not installed."""
    target = options.target
    missing = [module for module in target.modules if find_spec(module) is None]
    if missing and target.extra is not None:
        raise CharlmError(
            f"export to {options.to}: needs {', '.join(missing)}, which is not installed: "
            f"{install_hint(target.extra)}"
        )


def _exporter(to: TargetName) -> Exporter:
    """Return the functions of a target, whose module may import what is not always installed."""
    if to == "html":
        from charlm.export import html

        return Exporter(html.write, html.compute)
    if to == "onnx":
        from charlm.export import onnx

        return Exporter(onnx.write, onnx.compute)
    if to == "torch":
        from charlm.export import torch

        return Exporter(torch.write, torch.compute)
    from charlm.export import transformers

    return Exporter(transformers.write, transformers.compute)
