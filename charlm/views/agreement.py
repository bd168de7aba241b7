"""Section "Agreement": whether verbs agree with their subjects."""

from collections.abc import Mapping, Sequence
from typing import Any

from charlm.evaluation.probes.agreement import Agreement
from charlm.views.charts import Chart, Series
from charlm.views.figures.axes import Axis
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, Section, per_run, percentage

_Tables = Sequence[tuple[RunMeasurements, list[dict[str, Any]]]]


def agreement_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs that were trained on the corpus agreement."""
    shown = [(run, run.agreement) for run in runs if isinstance(run.agreement, Agreement)]
    by_distance = _agreement_figure(
        [(run, result.by_distance) for run, result in shown],
        field="distance_from",
        key="agreement-by-distance",
        quantity="words from subject to verb",
        findings=describe_agreement({run.name: result for run, result in shown}),
    )
    by_nouns = _agreement_figure(
        [(run, result.by_nouns) for run, result in shown],
        field="nouns",
        key="agreement-by-nouns",
        quantity="nouns between subject and verb",
        findings="A guess is right in half of the pairs.",
    )
    return Section("agreement", "Agreement", [(by_distance, by_nouns)])


def describe_agreement(results: Mapping[str, Agreement]) -> str:
    """Return a sentence about the verbs that agree with their subject."""
    shares = {name: percentage(result.accuracy) for name, result in results.items()}
    return f"Verbs that agree with their subject: {per_run(shares)}."


def _agreement_figure(
    tables: _Tables, *, field: str, key: str, quantity: str, findings: str
) -> Figure:
    longest = max((table for _, table in tables), key=len)
    chart = Chart(
        series=[
            Series(
                run=run,
                x=[row[field] for row in table],
                y=[100 * row["accuracy"] for row in table],
            )
            for run, table in tables
        ],
        x=Axis(title=quantity, whole=True),
        y=Axis(title="% correct", from_zero=True),
        heads=[f"{row[field]}" for row in longest],
        write="{:.1f} %".format,
        at=-1,
    )
    rows = [
        [run.name, row[field], row["count"], row["accuracy"]]
        for run, table in tables
        for row in table
    ]
    return Figure(
        key=key,
        title=f"Agreement by {quantity}",
        findings=findings,
        body=chart.body,
        numbers=Numbers.of_rows(["run", quantity, "pairs", "accuracy"], rows),
        data=chart.data,
    )
