"""Reports on one or several runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm.api.runs import AnyRun, StrPath
from charlm.config.values import checked
from charlm.errors import CharlmError, OptionError
from charlm.storage.atomic import atomic_write

if TYPE_CHECKING:
    from charlm.views.report import Report


@checked
def report(runs: AnyRun | Sequence[AnyRun], **options: Any) -> "Report":
    """Return a report on one or several runs, which a notebook shows.

        charlm.report(charlm.load_labels("runs/reviews"))

    Args:
        runs: The runs; the others are compared with the first.
        options: Fields of `ReportOptions`, such as `text` and `sections`.

    Raises:
        OptionError: There is no run, or a section does not exist.
    """
    first, *others = _listed(runs)
    return first.report(others, **options)


@checked
def write_report(
    runs: AnyRun | Sequence[AnyRun],
    out: StrPath | None = None,
    *,
    report_progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> Path:
    """Write a report on one or several runs: one HTML file that needs no network.

    Args:
        runs: The runs; the others are compared with the first.
        out: File to write; by default `report.html` in the folder of the first run.
        report_progress: Function that is called with the name of each measure before it begins.
        options: Fields of `ReportOptions`, such as `text` and `sections`.

    Returns:
        The file.

    Raises:
        OptionError: There is no run, or a section does not exist.
        CharlmError: The file cannot be written.
    """
    from charlm.views.report import report_on

    given = _listed(runs)
    made = report_on([run.trained for run in given], options, report_progress)
    path = Path(out) if out is not None else given[0].folder / "report.html"
    remedy = "name another file for the report"
    with atomic_write(path, error_type=CharlmError, remedy=remedy) as file:
        file.write(made.html.encode())
    return path


def _listed(runs: AnyRun | Sequence[AnyRun]) -> Sequence[AnyRun]:
    given = [runs] if isinstance(runs, AnyRun) else runs
    if not given:
        raise OptionError("runs", "must be at least one run", value=given)
    return given
