"""Section "Cells": which units follow a label, and how gates are used."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from charlm.evaluation.probes.cells import BestUnit, Cells, Tracks, Unit
from charlm.evaluation.probes.gates import Gates
from charlm.evaluation.probes.passage import Passage
from charlm.views.figures import Axis, scatter
from charlm.views.html import Html, join, show_invisible, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    NEEDS_SCRIPT,
    Figure,
    Numbers,
    Section,
    choose_run,
    data_table,
    fact_list,
    listed,
    paragraph,
)
from charlm.views.passages import HINT, passage_slider, visible

_Tracked = tuple[RunMeasurements, Cells, Tracks, Passage]


def cells_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs whose units were probed."""
    shown = [(run, run.cells) for run in runs if isinstance(run.cells, Cells)]
    parts: list[Figure | tuple[Figure, ...]] = [_units_figure(shown)]
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
    gated = [(run, run.gates) for run in runs if isinstance(run.gates, Gates)]
    if gated:
        parts.append(_gates_figure(gated))
    return Section("cells", "Cells", parts)


def describe_units(name: str, cells: Cells) -> str:
    """Return a sentence about the labels that a single unit follows."""
    followed = [row for row in cells.best if row.score > row.control + 0.1]
    if not followed:
        return f"{name}: no single unit follows a label clearly better than shifted labels."
    labels = [
        f"{row.label} ({_measure_name(row)} {row.score:.2f}, control {row.control:.2f})"
        for row in followed
    ]
    return f"{name}: single units follow {listed(labels)}."


def _measure_name(row: BestUnit) -> str:
    return "AUC" if row.measure == "auc" else "correlation"


def _unit_name(unit: Unit) -> str:
    part = "h" if unit.part == "hidden" else "c"
    return f"{part}{unit.number} of layer {int(unit.layer.removeprefix('layer_')) + 1}"


def _units_figure(shown: Sequence[tuple[RunMeasurements, Cells]]) -> Figure:
    rows = [
        (
            f"{row.label}, {run.name}",
            _measure_name(row),
            f"{row.score:.3f}",
            f"{row.control:.3f}",
            _unit_name(row.unit),
            "rises" if row.rises else "falls",
        )
        for run, cells in shown
        for row in cells.best
    ]
    head = ("label", "measure", "score", "control", "unit", "with the label")
    omitted = [
        f"Not measured for {run.name}: "
        + listed([f"{label} ({reason})" for label, reason in cells.omitted.items()])
        + "."
        for run, cells in shown
        if cells.omitted
    ]
    body: list[object] = []
    if rows:
        body.append(tag("div", data_table(head, rows, class_="layers"), class_="scroll"))
    body += [tag("p", sentence, class_="hint") for sentence in omitted]
    return Figure(
        key="units",
        title="Best unit for each label",
        findings=paragraph(
            *(describe_units(run.name, cells) for run, cells in shown),
            "The unit is chosen on one half of the held-out text and scored on the other. The "
            "control is the best of labels that are shifted along the text.",
        ),
        body=join(*body),
        numbers=Numbers(list(head), [list(column) for column in zip(*rows, strict=True)])
        if rows
        else Numbers(list(head), [[] for _ in head]),
        has_svg=False,
    )


def _tracks_figure(tracked: Sequence[_Tracked]) -> Figure:
    _, cells, tracks, passage = tracked[0]
    label = cells.best[0].label
    texts = [token.text for token in passage.tokens]
    styles = [_value_style(value) for value in tracks.best[label]]
    options = [
        tag("option", row.label, value=row.label, selected=number == 0)
        for number, row in enumerate(cells.best)
    ]
    controls = tag(
        "div",
        tag("label", "Label ", tag("select", *options, id="unit-label"), class_="pick"),
        choose_run("unit", [run.name for run, *_ in tracked]),
        class_="ctlrow",
        **NEEDS_SCRIPT,
    )
    text = tag(
        "div",
        passage_slider("unit", texts, styles, "Position in the passage"),
        _value_scale(),
    )
    panel = _panel(cells.best[0], texts[0], tracks.best[label][0])
    return Figure(
        key="unit",
        title="One unit on the passage",
        findings="The passage is coloured by the unit that follows the chosen label best. Select a "
        "range of the text to list the units that are high throughout, and other places where "
        "they are.",
        body=join(tag("div", text, panel, class_="split"), HINT),
        controls=controls,
        data={"runs": [_track_data(*row) for row in tracked]},
        has_svg=False,
    )


def _panel(best: BestUnit, text: str, value: float) -> Html:
    """Return the panel for the first token of the passage."""
    facts = {
        "value": f"{value:.2f}".replace("-", "−"),
        _measure_name(best): f"{best.score:.3f}",
        "control": f"{best.control:.3f}",
        "with the label": "rises" if best.rises else "falls",
    }
    heading = tag("h4", f"{_unit_name(best.unit)} ", tag("code", visible(text)))
    return tag(
        "div", heading, fact_list(facts), class_="panel", id="panel-unit", aria_live="polite"
    )


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
                "values": [round(100 * value) for value in tracks.best[row.label]],
            }
            for row in cells.best
        },
    }


def _gates_figure(gated: Sequence[tuple[RunMeasurements, Gates]]) -> Figure:
    run, gates = gated[0]
    groups = {
        f"layer {int(gate.layer.removeprefix('layer_')) + 1}, {gate.gate} gate": (
            gate.open,
            gate.closed,
        )
        for gate in gates.gates
    }
    sentences = []
    for name, (opened, closed) in groups.items():
        open_mean, closed_mean = sum(opened) / len(opened), sum(closed) / len(closed)
        sentences.append(f"{name}: open at {open_mean:.0%} and closed at {closed_mean:.0%}")
    charts = [
        scatter(
            closed,
            opened,
            Axis(title="closed (below 0.1), %", from_zero=True),
            Axis(title="open (above 0.9), %", from_zero=True),
            title=name,
        )
        for name, (opened, closed) in groups.items()
    ]
    rows = [
        (name, unit, opened[unit], closed[unit])
        for name, (opened, closed) in groups.items()
        for unit in range(len(opened))
    ]
    return Figure(
        key="gates",
        title=f"Gate saturation, {run.name}",
        findings=f"Each dot is one unit's gate. Mean over units, of all positions: "
        f"{'; '.join(sentences)}.",
        body=tag("div", *charts, class_="grid3"),
        numbers=Numbers(
            ["gate", "unit", "open", "closed"], [list(column) for column in zip(*rows, strict=True)]
        ),
    )
