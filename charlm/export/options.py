"""Options of an export, validated once. The command line and Python build the same object.

This module imports neither torch nor numpy, so that the command line can take defaults from it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from charlm.config.values import checked
from charlm.errors import CharlmError, OptionError, refuse_beside
from charlm.export.targets import TARGETS, Precision, Target, TargetName


@checked
@dataclass(frozen=True)
class ExportOptions:
    """The target of an export, its output, and its verification.

    Attributes:
        to: Name of the target.
        out: File or folder to write.
        precision: Precision of the weights; None for the first one of the target.
        new_only: html: whether the page can leave out texts of the training part. The file then
            contains a hash of each of them, which reveals whether a text is among them.
        embed: html: whether to write only the engine, as a JavaScript module.
        text: Text with which the export is verified; None for the beginning of the validation
            text of the run.
        force: Whether a file that exists is replaced.
    """

    to: TargetName
    out: Path
    precision: Precision | None = None
    new_only: bool = False
    embed: bool = False
    text: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Validate all options.

        Raises:
            OptionError: The target does not exist, or does not have one of the options.
        """
        if self.to not in TARGETS:
            raise OptionError("to", f"must be one of {', '.join(TARGETS)}", value=self.to)
        if self.precision is not None:
            self._check_precision(self.precision)
        for name in ("new_only", "embed"):
            if getattr(self, name) and name not in self.target.options:
                raise OptionError(name, f"has no meaning for {self.to}; remove it")
        if self.embed:
            refuse_beside("embed", new_only=self.new_only)
        if self.text == "":
            raise OptionError("text", "must not be empty")

    def _check_precision(self, precision: Precision) -> None:
        known = self.target.precisions if precision in get_args(Precision) else get_args(Precision)
        if precision not in known:
            raise OptionError(
                "precision", f"must be {' or '.join(known)} for {self.to}", value=precision
            )

    @property
    def target(self) -> Target:
        """Facts about the target."""
        return TARGETS[self.to]

    @property
    def weight_precision(self) -> Precision:
        """Precision of the weights."""
        return self.precision or self.target.precisions[0]


def check_output(out: Path, *, is_folder: bool, force: bool) -> None:
    """Raise CharlmError if a file or folder cannot be written without losing something.

    A file is replaced only with `force`; a folder must be empty.
    """
    if is_folder:
        if out.exists() and not out.is_dir():
            raise CharlmError(f"{out}: is a file; name a folder with --out")
        if out.is_dir() and any(out.iterdir()):
            raise CharlmError(f"{out}: the folder is not empty; name another one with --out")
        return
    if out.is_dir():
        raise CharlmError(f"{out}: is a folder; name a file with --out")
    if out.exists() and not force:
        raise CharlmError(
            f"{out}: the file exists; name another one with --out, or overwrite it with --force "
            "(in Python force=True)"
        )
