"""`charlm runs`: a table of runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Json, as_path
from charlm.cli.terminal import emit_table, say
from charlm.errors import CharlmError
from charlm.storage.tables import TableForm, format_rows

if TYPE_CHECKING:
    from charlm.runs.listing import RunSummary


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
    from charlm.runs.listing import find_runs, summarize

    summaries = []
    for path in find_runs(folder):
        try:
            summaries.append(summarize(path))
        except CharlmError as error:
            say(f"{path}: not listed: {error}")
    data = {"runs": [summary.to_json() for summary in summaries]}
    emit_table(data, [_table(summaries, form)], as_json=as_json)


def _table(summaries: "list[RunSummary]", form: TableForm) -> str:
    """Return a table with a row per run."""
    has_tasks = any(summary.task != "language_model" for summary in summaries)
    columns = {
        name: cell for name, cell in _COLUMNS.items() if has_tasks or name not in _TASK_COLUMNS
    }
    rows = [[cell(summary) for cell in columns.values()] for summary in summaries]
    return format_rows(list(columns), rows, form)


def _score(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


_TASK_COLUMNS = ("accuracy", "task")  # Shown if a run has learned a task.
_COLUMNS: "dict[str, Callable[[RunSummary], str]]" = {
    "run": lambda run: run.run,
    "bits/char": lambda run: _score(run.bits_per_character, 3),
    "perplexity": lambda run: _score(run.perplexity, 2),
    "nats/token": lambda run: _score(run.loss_nats, 4),
    "accuracy": lambda run: "-" if run.accuracy is None else f"{run.accuracy:.2%}",
    "task": lambda run: "-" if run.task == "language_model" else run.task,
    "level": lambda run: run.level,
    "cell": lambda run: run.cell,
    "units": lambda run: " ".join(map(str, run.hidden_sizes)),
    "parameters": lambda run: "-" if run.parameters is None else str(run.parameters),
    "seed": lambda run: str(run.seed),
    "budget": lambda run: run.budget,
    "steps": lambda run: str(run.steps),
    "seconds": lambda run: f"{run.seconds:.0f}",
    "text": lambda run: run.text,
}
