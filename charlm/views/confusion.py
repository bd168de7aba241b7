"""Figures of the tasks `classify` and `tag`: scores of labels, calibration, and confusion."""

import math
from collections.abc import Mapping, Sequence

from charlm.errors import counted
from charlm.tasks.labels import ConfidenceBin, LabelScores, ScoreOfLabel
from charlm.views.charts import Chart, Series
from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import INK_STYLES
from charlm.views.figures.lines import Line
from charlm.views.figures.points import Row, dot_chart
from charlm.views.html import join
from charlm.views.matrices import ShareMatrix
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    MISSING,
    Figure,
    Numbers,
    paragraph,
    per_run,
    percentage,
    records_read,
    run_list,
)
from charlm.views.passages import visible

MAX_LABELS = 20  # In a larger matrix, the names of labels would cover each other on a phone.
_MAX_ROWS = 20  # Largest number of labels in a chart with a row for each.
_NAME_LENGTH = 24  # Characters of a label in a chart.
_CALIBRATED = 0.02  # Difference of confidence and accuracy that is not worth a sentence.
Scored = Sequence[tuple[RunMeasurements, LabelScores]]


def label_score_figures(scored: Scored) -> tuple[Figure, Figure]:
    """Return the scores of each label and the reliability diagram, side by side."""
    return _by_label_figure(scored), _reliability_figure(scored)


def describe_scores(name: str, scores: LabelScores) -> str:
    """Return sentences about accuracy, macro F1 and the most frequent label."""
    cut = records_read(scores.records, scores.settings["records_of_split"])
    what = counted(scores.predictions, "token" if scores.settings["task"] == "tag" else "text")
    spans = "" if scores.span_f1 is None else f" F1 of spans: {scores.span_f1:.3f}."
    return (
        f"{name} labels {percentage(scores.accuracy)} of {what} rightly, in "
        f"{cut} of the validation split; always the most frequent label would be right for "
        f"{percentage(scores.majority)}. Macro F1: {scores.macro_f1:.3f}.{spans}"
    )


def describe_calibration(scores: Mapping[str, LabelScores]) -> str:
    """Return sentences about the calibration error and its direction."""
    errors = {name: f"{result.calibration_error:.3f}" for name, result in scores.items()}
    directions: dict[str, list[str]] = {}
    for name, result in scores.items():
        gap = confidence_of(result.reliability) - result.accuracy
        if abs(gap) >= _CALIBRATED:
            directions.setdefault("too high" if gap > 0 else "too low", []).append(
                f"{name} by {100 * abs(gap):.1f} points"
            )
    wrong = [f"{how} for {', '.join(names)}" for how, names in directions.items()]
    return paragraph(
        f"Expected calibration error: {per_run(errors)}.",
        f"On average the probabilities are {' and '.join(wrong)}." if wrong else "",
    )


def confidence_of(bins: Sequence[ConfidenceBin]) -> float:
    """Return the mean probability of the predicted labels."""
    total = sum(found.count for found in bins)
    return sum(found.count * found.confidence for found in bins if found.confidence) / total


def _by_label_figure(scored: Scored) -> Figure:
    tables = [{row.label: row for row in scores.by_label} for _, scores in scored]
    labels = list(dict.fromkeys(label for table in tables for label in table))
    hardest = sorted(labels, key=lambda label: _lowest_f1(label, tables))[:_MAX_ROWS]
    rows = [
        Row(
            name=visible(label)[:_NAME_LENGTH],
            values=[table[label].f1 if label in table else None for table in tables],
        )
        for label in hardest
    ]
    runs = [run for run, _ in scored]
    shown = f"The {len(hardest)} of {len(labels)} labels with the lowest F1."
    return Figure(
        key="labels",
        title="F1 of each label",
        findings=paragraph(
            *(describe_scores(run.name, scores) for run, scores in scored),
            shown if len(hardest) < len(labels) else "",
        ),
        body=join(
            run_list(runs),
            dot_chart(rows, [run.number for run in runs], Axis(title="F1", limits=(0.0, 1.0))),
        ),
        numbers=_by_label_numbers(scored),
    )


def _by_label_numbers(scored: Scored) -> Numbers:
    rows = [
        [run.name, row.label, row.right, row.predicted, row.precision, row.recall, row.f1]
        for run, scores in scored
        for row in scores.by_label
    ]
    head = ["run", "label", "right", "predicted", "precision", "recall", "F1"]
    return Numbers.of_rows(head, rows)


def _lowest_f1(label: str, tables: Sequence[Mapping[str, ScoreOfLabel]]) -> float:
    """Return the lowest F1 of a label, above 1 if it has none."""
    found = [table[label].f1 for table in tables if label in table]
    return min((f1 for f1 in found if f1 is not None), default=2.0)


def _reliability_figure(scored: Scored) -> Figure:
    chart = _reliability_chart(scored)
    rows = [
        [run.name, found.low, found.high, found.count, found.confidence, found.accuracy]
        for run, scores in scored
        for found in scores.reliability
    ]
    head = ["run", "from", "to", "predictions", "mean probability", "accuracy"]
    return Figure(
        key="reliability",
        title="Accuracy by probability",
        findings=paragraph(
            describe_calibration({run.name: scores for run, scores in scored}),
            "Below the dotted line, labels are right less often than their probability says.",
        ),
        body=chart.body,
        numbers=Numbers.of_rows(head, rows),
        data=chart.data,
    )


def _reliability_chart(scored: Scored) -> Chart:
    first = scored[0][1].reliability
    series = [
        Series(
            run=run,
            x=[_percent(found.confidence) for found in scores.reliability],
            y=[_percent(found.accuracy) for found in scores.reliability],
        )
        for run, scores in scored
    ]
    filled = [number for number, found in enumerate(first) if found.count]
    whole = (0.0, 100.0)
    return Chart(
        series=series,
        x=Axis(title="mean probability of the predicted label, %", limits=whole),
        y=Axis(title="% right", limits=whole),
        heads=[f"{100 * found.low:.0f} to {100 * found.high:.0f} %" for found in first],
        write=lambda value: f"{value:.1f} %" if math.isfinite(value) else MISSING,
        at=filled[-1],
        reference=Line(name="", style=INK_STYLES[2], x=whole, y=whole, dotted=True),
    )


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def describe_confusion(scores: LabelScores) -> str:
    """Return a sentence about the most frequent confusion."""
    confused = [
        (count, right, predicted)
        for right, row in scores.confusion.items()
        for predicted, count in row.items()
        if right != predicted
    ]
    count, right, predicted = max(confused, key=lambda found: found[0])
    if count == 0:
        return "No label was confused with another one."
    of_right = sum(scores.confusion[right].values())
    return (
        f"The most frequent confusion: {visible(predicted)} instead of {visible(right)}, "
        f"{count:,} of {of_right:,}."
    )


def shown_labels(scores: LabelScores) -> list[str]:
    """Return the labels of a drawn matrix: all, or those that are part of most confusions."""
    labels = list(scores.confusion)
    if len(labels) <= MAX_LABELS:
        return labels
    wrong = {
        row.label: row.right + row.predicted - 2 * scores.confusion[row.label][row.label]
        for row in scores.by_label
    }
    size = {row.label: row.right for row in scores.by_label}
    chosen = sorted(labels, key=lambda label: (-wrong[label], -size[label]))[:MAX_LABELS]
    return [label for label in labels if label in chosen]


def confusion_figure(run: RunMeasurements, scores: LabelScores, of_run: str) -> Figure:
    """Return the confusion matrix of a run."""
    labels = shown_labels(scores)
    counts = _merged(scores.confusion, labels)
    number_of_others = len(scores.confusion) - len(labels)
    names = list(map(visible, labels))
    names += [counted(number_of_others, "other")] if number_of_others else []
    sums = [sum(row) for row in counts]
    shares = [
        [count / max(1, total) for count in row] for row, total in zip(counts, sums, strict=True)
    ]
    matrix = ShareMatrix(
        rows=names,
        columns=names,
        shares=shares,
        values=[
            [_cell(count, total) for count in row] for row, total in zip(counts, sums, strict=True)
        ],
        texts=[[f"{count}" if count else "" for count in row] for row in counts],
        row_title="right",
        column_title="predicted",
        at=_most_confused(counts, len(labels)),
        diagonal=len(labels),
    )
    note = f"Shown: the {len(labels)} of {len(scores.confusion)} labels that are confused most."
    return Figure(
        key=f"confusion-{run.number + 1}",
        title=f"Confusion{of_run}",
        findings=paragraph(
            describe_confusion(scores),
            "A cell is coloured by its share of the right label; outlined cells are right.",
            note if number_of_others else "",
        ),
        body=matrix.body,
        numbers=_confusion_numbers(scores),
        data=matrix.data,
    )


def _cell(count: int, total: int) -> str:
    share = f" ({percentage(count / total)})" if total else ""
    return f"{count:,} of {total:,}{share}"


def _merged(confusion: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> list[list[int]]:
    """Return the counts of labels, the others summed in a last row and column if there are any."""
    place = {label: number for number, label in enumerate(labels)}
    last = len(labels)
    size = last + (len(confusion) > last)
    counts = [[0] * size for _ in range(size)]
    for right, row in confusion.items():
        for predicted, count in row.items():
            counts[place.get(right, last)][place.get(predicted, last)] += count
    return counts


def _most_confused(counts: Sequence[Sequence[int]], num_labels: int) -> tuple[int, int]:
    """Return the largest cell of two labels beside the diagonal; the first cell without any."""
    most, place = 0, (0, 0)
    for row, line in enumerate(counts[:num_labels]):
        for column, count in enumerate(line[:num_labels]):
            if row != column and count > most:
                most, place = count, (row, column)
    return place


def _confusion_numbers(scores: LabelScores) -> Numbers:
    found = [
        (right, predicted, count)
        for right, row in scores.confusion.items()
        for predicted, count in row.items()
        if count
    ]
    found.sort(key=lambda entry: (entry[0] == entry[1], -entry[2]))
    rows = [
        [right, predicted, count, count / sum(scores.confusion[right].values())]
        for right, predicted, count in found
    ]
    return Numbers.of_rows(["right", "predicted", "count", "share of the right label"], rows)
