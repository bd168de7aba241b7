"""Figure of the tasks `classify` and `tag`: the most surprising errors."""

from charlm.errors import counted
from charlm.tasks.labels import LabelError, LabelScores
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, data_table, percentage
from charlm.views.passages import visible

_MAX_CHARACTERS = 240  # A longer text is shown without its middle.
_HEAD = ("text", "right", "predicted", "probability", "of the right label")


def describe_errors(scores: LabelScores) -> str:
    """Return sentences about the number of errors, and how sure the network was of the first."""
    wrong = round((1 - scores.accuracy) * scores.predictions)
    if not scores.errors:
        return "No label is wrong."
    lowest = _probability(scores.errors[0].right_probability)
    if wrong == 1:
        return (
            f"1 of {counted(scores.predictions, 'label')} is wrong. The right one has the "
            f"probability {lowest}."
        )
    return (
        f"{wrong:,} of {scores.predictions:,} labels are wrong. Shown are the {len(scores.errors)} "
        f"whose right label has the lowest probability, {lowest} for the first one."
    )


def label_error_figure(run: RunMeasurements, scores: LabelScores, of_run: str) -> Figure:
    """Return the table of the most surprising errors of a run."""
    rows = [
        (
            _marked(error),
            visible(error.right),
            visible(error.predicted),
            percentage(error.probability),
            _probability(error.right_probability),
        )
        for error in scores.errors
    ]
    numbers = [
        [
            error.before,
            error.text,
            error.after,
            error.right,
            error.predicted,
            error.probability,
            error.right_probability,
        ]
        for error in scores.errors
    ]
    head = ["before", "text", "after", "right", "predicted", *_HEAD[3:]]
    return Figure(
        key=f"errors-{run.number + 1}",
        title=f"Most surprising errors{of_run}",
        findings=describe_errors(scores),
        body=data_table(_HEAD, rows, class_="errors", has_heads=True) if rows else join(),
        numbers=Numbers.of_rows(head, numbers),
        has_svg=False,
    )


def _probability(value: float) -> str:
    """Return a probability in percent, with two digits if it is small."""
    return percentage(value) if value >= 0.001 or value == 0 else f"{100 * value:.1g} %"


def _marked(error: LabelError) -> Html:
    """Return the labelled token within its text, or the whole text."""
    if not error.before and not error.after:
        return tag("code", shortened(error.text))
    before, after = (text.replace("\n", "↵") for text in (error.before, error.after))
    return tag("code", before, tag("mark", visible(error.text)), after)


def shortened(text: str) -> str:
    """Return a text without its middle if it is long."""
    if len(text) <= _MAX_CHARACTERS:
        return text
    half = _MAX_CHARACTERS // 2
    return f"{text[:half]} … {text[-half:]}"
