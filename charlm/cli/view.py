"""`charlm view`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import Device, Which, as_path, as_target, not_empty, some_text
from charlm.cli.terminal import emit, say
from charlm.errors import OptionError


def view(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", parser=as_path, help="Run folders. [the newest under runs/]"
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            callback=some_text,
            help="Passage to show. [the beginning of the validation split of the first run]",
        ),
    ] = None,
    text_file: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=as_path, help="File with the passage.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="SECTION,SECTION",
            callback=not_empty,
            help="Sections: curves, task, network, surprisal, memory, context, cells, embeddings, "
            "agreement. [all]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=as_target, help="HTML file to write. [report.html in the run]"
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the report in the browser.")
    ] = False,
    which: Which = "best",
    device: Device = "auto",
) -> None:
    """Write a report on what a model learned: one HTML file that needs no network.

    The report shows how a run learned, what surprises it, what it remembers, which units carry
    meaning, and how far back it looks; of a task, its scores and its most surprising errors.
    Several runs are shown side by side.

    Try: charlm view --only curves,memory --open
    """
    from charlm.api import load_any, write_report
    from charlm.evaluation.text_files import read_text_file
    from charlm.views.measurements import SECTIONS

    if text is not None and text_file is not None:
        raise OptionError("text", "cannot be combined with {}", others=["text_file"])
    if text_file is not None:
        text = read_text_file(text_file, remedy="correct the path")
    folders: list[Path | None] = [*(runs or [])] or [None]
    loaded = [load_any(folder, which=which, device=device) for folder in folders]
    path = write_report(
        loaded,
        out,
        text=text,
        sections=only.split(",") if only else SECTIONS,
        report_progress=say,
    )
    emit(str(path))
    if open_browser:
        webbrowser.open(path.absolute().as_uri())
