"""Figures of tasks whose model writes a target for a source."""

from collections.abc import Sequence

from charlm.tasks.completion import Completed, Completions
from charlm.views.html import join, tag
from charlm.views.label_errors import shortened
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, data_table, percentage, records_read, the_first

_HEAD = ("source", "target", "written", "edits", "nats")


def completion_figures(
    run: RunMeasurements, result: Completions, of_run: str
) -> tuple[Figure, Figure]:
    """Return the most surprising errors and the first records of a run."""
    return (
        _figure(
            result.errors,
            key=f"errors-{run.number + 1}",
            title=f"Most surprising errors{of_run}",
            findings=describe_completions(run.name, result),
        ),
        _figure(
            result.examples,
            key=f"examples-{run.number + 1}",
            title=f"Examples{of_run}",
            findings=describe_examples(result.examples),
        ),
    )


def describe_completions(name: str, result: Completions) -> str:
    """Return sentences about exact targets, edits, and the errors that are shown."""
    cut = records_read(result.records, result.settings["records_of_split"])
    sentence = (
        f"{name} writes {percentage(result.exact_match)} of the targets exactly, in {cut} "
        f"of the validation split; the mean edit distance is {result.edit_distance:.2f}, "
        f"{result.edits_per_character:.3f} edits per character."
    )
    if not result.errors:
        return sentence
    shown = "Shown is the only error."
    if len(result.errors) > 1:
        shown = (
            f"Shown are the {len(result.errors)} errors whose right target has the lowest "
            "probability."
        )
    return (
        f"{sentence} {shown} Edits: the least number of characters to insert, delete or replace; "
        "nats: −ln p of the right target."
    )


def describe_examples(examples: Sequence[Completed]) -> str:
    """Return a sentence about the first records."""
    exact = sum(record.written == record.target for record in examples)
    return (
        f"Shown: {the_first(len(examples), 'record')} of the validation split, {exact} of "
        f"{len(examples)} written exactly."
    )


def _figure(records: Sequence[Completed], *, key: str, title: str, findings: str) -> Figure:
    rows = [
        (
            tag("code", shortened(record.source)),
            tag("code", shortened(record.target)),
            tag("code", shortened(record.written) or "∅"),
            f"{record.edit_distance:,}",
            f"{record.nats:.2f}",
        )
        for record in records
    ]
    numbers = [
        [record.source, record.target, record.written, record.edit_distance, record.nats]
        for record in records
    ]
    head = [*_HEAD[:3], "edit distance", "nats"]
    return Figure(
        key=key,
        title=title,
        findings=findings,
        body=data_table(_HEAD, rows, class_="errors", has_heads=True) if rows else join(),
        numbers=Numbers.of_rows(head, numbers),
        has_svg=False,
    )
