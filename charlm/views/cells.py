"""Section "Cells": which units follow a label, and how gates are used."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from charlm.evaluation.probes.cells import BestUnit, Cells, Tracks, Unit
from charlm.evaluation.probes.gates import Gates, GateSaturation
from charlm.evaluation.probes.passage import Passage
from charlm.model.descriptions import part_name
from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import run_style
from charlm.views.figures.points import Row, dot_chart, scatter
from charlm.views.html import Html, join, show_invisible, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    NEEDS_SCRIPT,
    Figure,
    Numbers,
    Part,
    Section,
    fact_list,
    listed,
    panel,
    paragraph,
    per_run,
    percentage,
    run_buttons,
    run_list,
)
from charlm.views.passages import HINT, passage_slider, visible

_CLEAR = 0.1  # A smaller difference from the control means little.
_Tracked = tuple[RunMeasurements, Cells, Tracks, Passage]


def cells_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs whose units were probed."""
    shown = [(run, run.cells) for run in runs if isinstance(run.cells, Cells)]
    parts: list[Part] = [_units_figure(shown)]
    tracked = [
        (run, run.cells, run.tracks, run.passage)
        for run in runs
        if isinstance(run.tracks, Tracks)
        and isinstance(run.cells, Cells)
        and isinstance(run.passage, Passage)
        and run.cells.best
    ]
    if tracked:
        parts.append(_tracks_figure(tracked))
    parts += [_gates_figure(run, run.gates) for run in runs if isinstance(run.gates, Gates)]
    return Section("cells", "Cells", parts)


def describe_units(results: Mapping[str, Cells]) -> str:
    """Return sentences about the labels that a single unit follows.

    Args:
        results: Result of each run, by its name.
    """
    counts = {
        name: f"{sum(map(_follows, cells.best))} of {len(cells.best)}"
        for name, cells in results.items()
    }
    rows = [(name, row) for name, cells in results.items() for row in cells.best if _follows(row)]
    sentence = (
        f"Labels whose best unit scores more than {_CLEAR} above its control: {per_run(counts)}."
    )
    if not rows:
        return sentence
    name, best = max(rows, key=lambda pair: pair[1].score - pair[1].control)
    return (
        f"{sentence} The largest difference is that of {best.label} in {name}: "
        f"{_measure_name(best)} {best.score:.2f}, control {best.control:.2f}."
    )


def describe_omitted_labels(results: Mapping[str, Cells]) -> list[str]:
    """Return a sentence for each label that was not measured, with the runs and the reason."""
    runs: dict[tuple[str, str], list[str]] = {}
    for name, cells in results.items():
        for omission in cells.omitted.items():
            runs.setdefault(omission, []).append(name)
    return [
        f"{label} was not measured for {listed(names)}: {reason}."
        for (label, reason), names in runs.items()
    ]


def _follows(row: BestUnit) -> bool:
    return row.score > row.control + _CLEAR


def _measure_name(row: BestUnit) -> str:
    return "AUC" if row.measure == "auc" else "correlation"


def _unit_name(unit: Unit) -> str:
    part = "h" if unit.part == "hidden" else "c"
    return f"{part}{unit.number} of {part_name(unit.layer)}"


def _units_figure(shown: Sequence[tuple[RunMeasurements, Cells]]) -> Figure:
    results = {run.name: cells for run, cells in shown}
    auc = _units_chart(shown, "auc", Axis(title="AUC (0.5 = chance)", limits=(0.5, 1)))
    correlation = Axis(title="|rank correlation| (0 = chance)", limits=(0, 1))
    charts = [chart for chart in (auc, _units_chart(shown, "correlation", correlation)) if chart]
    control = tag("path", class_="ctl", d="M6,0v12")
    control = tag("svg", control, class_="sw", width=12, height=12, aria_hidden="true")
    key = tag("li", control, f"best unit for shifted labels, {shown[0][0].name}")
    omitted = [tag("p", text, class_="hint") for text in describe_omitted_labels(results)]
    return Figure(
        key="units",
        title="Best unit for each label",
        findings=paragraph(
            describe_units(results),
            "The unit is chosen on one half of the held-out text and scored on the other. The "
            "control is the best unit for labels that are shifted along the text.",
        ),
        body=join(
            run_list([run for run, _ in shown], key) if charts else None,
            tag("div", *charts, class_="grid2") if charts else None,
            *omitted,
        ),
        numbers=_unit_numbers(shown),
        has_svg=bool(charts),
    )


def _units_chart(
    shown: Sequence[tuple[RunMeasurements, Cells]], measure: str, axis: Axis
) -> Html | None:
    """Return the chart of the labels with one measure; None if there is none."""
    tables = [
        {row.label: row for row in cells.best if row.measure == measure} for _, cells in shown
    ]
    labels = list(dict.fromkeys(label for table in tables for label in table))
    if not labels:
        return None
    low, high = axis.limits or (0, 1)
    scores = {
        label: [
            min(high, max(low, table[label].score)) if label in table else None for table in tables
        ]
        for label in labels
    }
    first = tables[0]
    rows = [
        Row(
            name=label,
            values=scores[label],
            control=max(low, first[label].control) if label in first else None,
            note=f"{shown[0][0].name}: {_unit_name(first[label].unit)}" if label in first else "",
        )
        for label in labels
    ]
    return tag("div", dot_chart(rows, [run.number for run, _ in shown], axis))


def _unit_numbers(shown: Sequence[tuple[RunMeasurements, Cells]]) -> Numbers:
    head = ["run", "label", "measure", "score", "control", "unit", "with the label"]
    rows = [
        (
            run.name,
            row.label,
            _measure_name(row),
            round(row.score, 4),
            round(row.control, 4),
            _unit_name(row.unit),
            "rises" if row.rises else "falls",
        )
        for run, cells in shown
        for row in cells.best
    ]
    return Numbers.of_rows(head, rows)


def _tracks_figure(tracked: Sequence[_Tracked]) -> Figure:
    _, cells, tracks, passage = tracked[0]
    label = cells.best[0].label
    texts = [token.text for token in passage.tokens]
    values = tracks.best[label]
    at = _strongest(values)
    styles = [_value_style(value) for value in values]
    styles[at] = f"{styles[at]} cur"
    text = tag(
        "div",
        passage_slider("unit", texts, styles, "Position in the passage"),
        _value_scale(),
    )
    facts = _panel(cells.best[0], texts[at], values[at])
    return Figure(
        key="unit",
        title="One unit on the passage",
        findings="The passage is coloured by the unit that follows the chosen label best. Select a "
        "range of the text to list the units that are high throughout, and other places where "
        "they are.",
        body=join(tag("div", text, facts, class_="split"), HINT),
        controls=_track_controls(cells, [run.name for run, *_ in tracked]),
        data={"runs": [_track_data(*row) for row in tracked]},
        has_svg=False,
    )


def _track_controls(cells: Cells, names: Sequence[str]) -> Html:
    """Return the choices of the label and of the run."""
    options = [
        tag("option", row.label, value=row.label, selected=number == 0)
        for number, row in enumerate(cells.best)
    ]
    label = tag("label", "Label ", tag("select", *options, id="unit-label"), class_="pick")
    return tag("div", label, run_buttons("unit", names), class_="ctlrow", **NEEDS_SCRIPT)


def _strongest(values: Sequence[float]) -> int:
    """Return the place with the largest absolute value."""
    return max(range(len(values)), key=lambda at: abs(values[at]))


def _panel(best: BestUnit, text: str, value: float) -> Html:
    """Return the panel for a token of the passage."""
    facts = {
        "value": f"{value:.2f}".replace("-", "−"),
        _measure_name(best): f"{best.score:.3f}",
        "control": f"{best.control:.3f}",
        "with the label": "rises" if best.rises else "falls",
    }
    heading = tag("h4", f"{_unit_name(best.unit)} ", tag("code", visible(text)))
    return panel("unit", heading, fact_list(facts))


def _value_style(value: float) -> str:
    step = min(4, int(abs(value) * 5))
    return ("p" if value > 0 else "n") + str(step) if step else "p0"


def _value_scale() -> Html:
    styles = ["n4", "n3", "n2", "n1", "p0", "p1", "p2", "p3", "p4"]
    edges = ["−1", "", "", "", "0", "", "", "", "1"]
    bins = [
        tag("div", tag("b", class_=style), tag("span", edge))
        for style, edge in zip(styles, edges, strict=True)
    ]
    note = tag("span", "value of the unit, relative to its largest on the passage")
    return tag(
        "div", tag("div", *bins, class_="scale nine", aria_hidden="true"), note, class_="scl"
    )


def _track_data(
    run: RunMeasurements, cells: Cells, tracks: Tracks, passage: Passage
) -> dict[str, Any]:
    high = np.zeros((len(tracks.high), len(tracks.units)), dtype=bool)
    for at, units in enumerate(tracks.high):
        high[at, units] = True
    packed = np.packbits(high, axis=1).tobytes()
    return {
        "name": run.name,
        "text": [show_invisible(token.text) for token in passage.tokens],
        "label": [visible(token.label) for token in passage.tokens],
        "units": [_unit_name(unit) for unit in tracks.units],
        "high": base64.b64encode(packed).decode(),
        "best": {
            row.label: {
                "unit": _unit_name(row.unit),
                "measure": _measure_name(row),
                "score": round(row.score, 5),
                "control": round(row.control, 5),
                "rises": row.rises,
                "at": _strongest(tracks.best[row.label]),
                "values": [round(100 * value) for value in tracks.best[row.label]],
            }
            for row in cells.best
        },
    }


def describe_gates(gates: Gates) -> str:
    """Return a sentence about how often each gate is open and closed."""
    parts = [
        f"{_gate_name(gate)} {percentage(_mean(gate.open))} and {percentage(_mean(gate.closed))}"
        for gate in gates.gates
    ]
    return f"Mean share of positions where it is open and where it is closed: {'; '.join(parts)}."


def _gates_figure(run: RunMeasurements, gates: Gates) -> Figure:
    charts = [
        scatter(
            gate.closed,
            gate.open,
            Axis(title="closed (below 0.1), % of positions"),
            Axis(title="open (above 0.9), % of positions"),
            title=_gate_name(gate),
            style=run_style(run.number),
        )
        for gate in gates.gates
    ]
    rows = [
        (_gate_name(gate), unit, gate.open[unit], gate.closed[unit])
        for gate in gates.gates
        for unit in range(len(gate.open))
    ]
    return Figure(
        key=f"gates-{run.number + 1}" if run.number else "gates",
        title=f"Gate saturation, {run.name}",
        findings=paragraph(
            "Each point is the gate of one unit; on the dotted line it is always open or closed.",
            describe_gates(gates),
        ),
        body=tag("div", *charts, class_="grid3"),
        numbers=Numbers.of_rows(["gate", "unit", "open", "closed"], rows),
    )


def _gate_name(gate: GateSaturation) -> str:
    return f"{part_name(gate.layer)}, {gate.gate} gate"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
