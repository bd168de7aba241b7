"""The table of export targets: what each one writes, needs, and cannot represent."""

from dataclasses import dataclass
from typing import Literal

TargetName = Literal["html", "onnx", "torch", "transformers"]
Precision = Literal["fp32", "fp16", "int8"]
Direction = Literal["forward", "backward", "both"]


@dataclass(frozen=True)
class Target:
    """Facts about a target.

    Attributes:
        writes: What is written, for messages.
        is_folder: Whether that is a folder, else a file.
        precisions: Precisions of the weights; the first one is the default.
        options: Names of the options in `ExportOptions` that only some targets have.
        directions: Directions of reading that it represents.
        extra: Name of the extra of charlm that it needs, or None.
        modules: Modules of that extra that must be installed.
    """

    writes: str
    is_folder: bool
    precisions: tuple[Precision, ...] = ("fp32",)
    options: tuple[str, ...] = ()
    directions: tuple[Direction, ...] = ("forward",)
    extra: str | None = None
    modules: tuple[str, ...] = ()


TARGETS: dict[TargetName, Target] = {
    "html": Target(
        writes="an HTML file",
        is_folder=False,
        precisions=("int8", "fp16", "fp32"),
        options=("new_only", "embed"),
        directions=("forward", "backward"),
    ),
    "onnx": Target(
        writes="an ONNX file",
        is_folder=False,
        precisions=("fp32", "int8"),
        directions=("forward", "backward"),
        extra="onnx",
        modules=("onnx", "onnxruntime"),
    ),
    "torch": Target(
        writes="a folder with a module of torch and its weights",
        is_folder=True,
        directions=("forward", "backward"),
    ),
    "transformers": Target(
        writes="a folder for transformers",
        is_folder=True,
        extra="transformers",
        modules=("transformers",),
    ),
}
