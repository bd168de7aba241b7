"""`charlm view`: a report on runs."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.loading import load_any
from charlm.cli.options import (
    Device,
    Folders,
    Which,
    as_path,
    as_target,
    not_empty,
    runs_or_newest,
    some_text,
)
from charlm.cli.terminal import emit, say
from charlm.errors import refuse_beside
from charlm.storage.arguments import refuse_file_name

Passage = Annotated[
    str | None,
    typer.Option(
        callback=some_text,
        help="Passage to show. [the beginning of the validation split of the first run]",
    ),
]
PassageFile = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=as_path, help="File with the passage.")
]
Only = Annotated[
    str | None,
    typer.Option(
        metavar="SECTION,SECTION",
        callback=not_empty,
        help="Sections: curves, task, network, surprisal, memory, context, cells, embeddings, "
        "agreement. [all]",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", parser=as_target, help="HTML file to write. [report.html in the run]"
    ),
]
OpenBrowser = Annotated[bool, typer.Option("--open", help="Open the report in the browser.")]


def view(
    runs: Folders = None,
    text: Passage = None,
    text_file: PassageFile = None,
    only: Only = None,
    out: Out = None,
    open_browser: OpenBrowser = False,
    which: Which = "best",
    device: Device = "auto",
) -> None:
    """Write a report on what a model learned: one HTML file that needs no network.

    The report shows how a run learned, what surprises it, what it remembers, which units carry
    meaning, and how far back it looks; of a task, its scores and its most surprising errors.
    Several runs are shown side by side.

    Try: charlm view --only curves,memory --open
    """
    from charlm.views.options import SECTIONS, ReportOptions

    sections = only.split(",") if only else SECTIONS
    shown = ReportOptions(text=_passage(text, text_file), sections=sections)
    loaded = [load_any(folder, which=which, device=device) for folder in runs_or_newest(runs)]
    from charlm.api import write_report

    path = write_report(loaded, out, text=shown.text, sections=shown.sections, report_progress=say)
    emit(str(path))
    if open_browser:
        webbrowser.open(path.absolute().as_uri())


def _passage(text: str | None, file: Path | None) -> str | None:
    """Return the passage to show: --text, or the contents of --text-file."""
    from charlm.evaluation.text_files import read_text_file

    if file is not None:
        refuse_beside("text_file", text=text)
        return read_text_file(file, remedy="correct the path")
    refuse_file_name("text", text, "use {} for a file", others=["text_file"])
    return text
