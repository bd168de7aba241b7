"""`charlm runs`: a table of runs."""

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import Json, as_path
from charlm.cli.terminal import emit_table, say
from charlm.storage.tables import TableForm


def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", parser=as_path, help="Folder with run folders.")
    ] = Path("runs"),
    form: Annotated[
        TableForm, typer.Option("--format", help="Aligned text, CSV, or a LaTeX table.")
    ] = "table",
    as_json: Json = False,
) -> None:
    """List the runs in a folder with their settings and validation scores.

    The scores are those of the best evaluation; of a task, the loss per target token or label, and
    the accuracy. Run folders in subfolders are listed too. For a comparison on the same text, use
    charlm eval compare.

    Try: charlm runs --format csv
    """
    from charlm.runs.listing import find_runs, summarize_readable

    summaries = summarize_readable(find_runs(folder), warn=say)
    data = {"runs": [summary.to_json() for summary in summaries]}
    emit_table(data, summaries.lines(form), as_json=as_json)
