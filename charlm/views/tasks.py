"""Section "Task": how well a network does what it has learned, and what it does wrong."""

from collections.abc import Sequence

from charlm.tasks.completion import Completions
from charlm.tasks.labels import LabelScores
from charlm.views.attention import attention_figures
from charlm.views.completions import completion_figures
from charlm.views.confusion import confusion_figure, label_score_figures
from charlm.views.label_errors import label_error_figure
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Part, Section
from charlm.views.tags import tags_figure


def task_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs that have learned a task."""
    labelled = [(run, run.task) for run in runs if isinstance(run.task, LabelScores)]
    parts: list[Part] = []
    if labelled:
        parts.append(label_score_figures(labelled))
    for run in runs:
        parts += _figures(run, is_alone=len(runs) == 1)
    return Section("task", "Task", parts)


def _figures(run: RunMeasurements, *, is_alone: bool) -> list[Part]:
    """Return the figures of one run."""
    title = "" if is_alone else f", {run.name}"
    if isinstance(run.task, LabelScores):
        shown = [
            confusion_figure(run, run.task, title),
            tags_figure(run, run.task, title),
            label_error_figure(run, run.task, title),
        ]
        return [figure for figure in shown if figure is not None]
    if isinstance(run.task, Completions):
        attention = run.attention if isinstance(run.attention, list) else []
        figures: list[Part] = [*completion_figures(run, run.task, title)]
        return [*figures, *attention_figures(run, attention, title)]
    return []
