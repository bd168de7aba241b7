"""`charlm export`: a model for another program."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.arguments import options_from
from charlm.cli.loading import load
from charlm.cli.options import (
    Folder,
    Force,
    Json,
    NamedRun,
    Which,
    as_new_path,
    as_path,
    choose_run,
)
from charlm.cli.terminal import emit_result
from charlm.errors import CorpusError, OptionError, refuse_beside
from charlm.export.targets import Precision, TargetName

To = Annotated[TargetName | None, typer.Option(help="What to write.")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        parser=as_new_path,
        help="File to write (html, onnx), or new folder (torch, transformers).",
    ),
]
WeightPrecision = Annotated[
    Precision | None,
    typer.Option(
        help="Precision of the weights: html int8, fp16 or fp32; onnx fp32 or int8; else fp32. "
        "[the first]",
        show_default=False,
    ),
]
Int8 = Annotated[bool, typer.Option("--int8", help="The same as --precision int8.")]
Embed = Annotated[
    bool, typer.Option("--embed", help="html: write only the engine, a JavaScript module.")
]
NewOnly = Annotated[
    bool,
    typer.Option(
        "--new-only",
        help="html, records: the page can leave out records of the training part. The file "
        "then reveals whether a text is one of them.",
    ),
]
TextFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=as_path,
        help="Text to verify the export with. [the validation text of the run]",
    ),
]


@dataclass(frozen=True)
class ExportArguments:
    """The arguments of `charlm export`, in the order of its help."""

    run: Folder = None
    to: To = None
    out: Out = None
    precision: WeightPrecision = None
    int8: Int8 = False
    embed: Embed = False
    new_only: NewOnly = False
    text_file: TextFile = None
    force: Force = False
    named_run: NamedRun = None
    which: Which = "best"
    as_json: Json = False


@options_from(ExportArguments)
def export(arguments: ExportArguments) -> None:
    """Write a model for another program: one HTML page, onnxruntime, torch or transformers.

    The program itself computes the probabilities of a text from what was written. charlm prints the
    differences from its own, and writes nothing if they are too large.

    Try: charlm export --to html --out model.html
    """
    to, out = arguments.to, arguments.out
    if to is None or out is None:
        raise OptionError("to" if to is None else "out", "is missing; see charlm export --help")
    if arguments.precision is not None:
        refuse_beside("precision", int8=arguments.int8)
    text = None if arguments.text_file is None else _read_text(arguments.text_file)
    folder = choose_run(arguments.run, arguments.named_run)
    run = load(folder, which=arguments.which, device="cpu")
    from charlm.export.exporting import export_run

    result = export_run(
        run,
        to,
        out,
        precision="int8" if arguments.int8 else arguments.precision,
        embed=arguments.embed,
        new_only=arguments.new_only,
        text=text,
        force=arguments.force,
    )
    emit_result(result, as_json=arguments.as_json)


def _read_text(file: Path) -> str:
    """Return the text of a file; refuse an empty one, with which nothing can be verified."""
    from charlm.evaluation.text_files import read_text_file

    text = read_text_file(file, remedy="correct the path")
    if not text:
        raise CorpusError(f"{file}: the file is empty; name a text with --text-file")
    return text
