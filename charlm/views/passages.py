"""Sections "Surprisal", "Memory" and "Cells": passages whose tokens are coloured."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from charlm.evaluation.probes.cells import BestUnit, Cells, Tracks, Unit
from charlm.evaluation.probes.gates import Gates
from charlm.evaluation.probes.known_letters import LetterAccuracy
from charlm.evaluation.probes.memory import Memory
from charlm.evaluation.probes.passage import Passage
from charlm.evaluation.surprisal import Surprisal
from charlm.views.figures import PAIR, Axis, Line, dot_chart, line_chart, run_style, scatter, swatch
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    Figure,
    Numbers,
    Section,
    choose_run,
    data_table,
    legend,
    listed,
    paragraph,
    scale,
)

SURPRISAL_EDGES = (0, 0.5, 1, 2, 3, 4, 5, 7)  # Bits.
MEMORY_EDGES = (0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)  # Of the row's maximum.
_MIN_TOKENS = 20  # The mean of fewer tokens says little.
_HINT = (
    "Point at, tap or use the arrow keys on the passage. Click or Enter keeps a place, Esc "
    "releases it."
)


def surprisal_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs that have a passage."""
    shown = [(run, run.passage) for run in runs if isinstance(run.passage, Passage)]
    parts: list[Figure | tuple[Figure, ...]] = [_surprisal_figure(shown)]
    summed = [(run, run.surprisal) for run in runs if isinstance(run.surprisal, Surprisal)]
    if summed:
        classes = _classes_figure(summed)
        with_words = [(run, result) for run, result in summed if _position_bits(result)]
        parts.append((classes, _positions_figure(with_words)) if with_words else classes)
    return Section("surprisal", "Surprisal", parts)


def memory_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs whose memory was measured."""
    shown = [(run, run.memory) for run in runs if isinstance(run.memory, Memory)]
    parts: list[Figure | tuple[Figure, ...]] = [_memory_figure(shown)]
    distance = _dependence_figure(shown)
    letters = [
        (run, run.letters)
        for run in runs
        if isinstance(run.letters, LetterAccuracy) and run.letters.by_known
    ]
    parts.append((distance, _letters_figure(letters)) if letters else distance)
    return Section("memory", "Memory", parts)


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


def bin_of(value: float, edges: Sequence[float]) -> int:
    """Return the number of the bin of a value, given the lower ends of the bins.

    >>> bin_of(0.4, SURPRISAL_EDGES), bin_of(9, SURPRISAL_EDGES)
    (0, 7)
    """
    return max(number for number, edge in enumerate(edges) if number == 0 or value >= edge)


def describe_surprisal(name: str, passage: Passage) -> str:
    """Return a sentence about the mean and the largest surprisal of a passage."""
    bits = [token.surprisal_bits for token in passage.tokens]
    most = max(passage.tokens, key=lambda token: token.surprisal_bits)
    return (
        f"{name} needs {sum(bits) / len(bits):.2f} bits per token of this passage; the most "
        f"surprising one is {visible(most.label)} with {most.surprisal_bits:.1f} bits."
    )


def describe_memory(name: str, memory: Memory) -> str:
    """Return a sentence about the distance up to which a mean prediction depends on the text."""
    reached = [row.distance for row in memory.by_distance if row.relative >= 0.1]
    if not reached:
        return f"{name}: no earlier token reaches a tenth of the row's maximum on average."
    return (
        f"{name}: tokens up to {max(reached)} back reach a tenth of the row's maximum on average."
    )


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


def visible(text: str) -> str:
    r"""Return a token with visible spaces and line ends.

    >>> visible(" a\n")
    '␣a↵'
    """
    return text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") or "∅"


def _measure_name(row: BestUnit) -> str:
    return "AUC" if row.measure == "auc" else "correlation"


def _unit_name(unit: Unit) -> str:
    part = "h" if unit.part == "hidden" else "c"
    return f"{part}{unit.number} of layer {int(unit.layer.removeprefix('layer_')) + 1}"


def _tokens(texts: Sequence[str], styles: Sequence[str]) -> Html:
    """Return the tokens of a passage with their classes; line ends are visible."""
    elements = []
    for text, style in zip(texts, styles, strict=True):
        ends_line = text.endswith("\n")
        classes = f"{style} nl".strip() if ends_line else style
        elements.append(tag("i", text.replace("\n", "↵"), class_=classes or None))
        if ends_line:
            elements.append(Html("\n"))
    return join(*elements)


def _passage(key: str, texts: Sequence[str], styles: Sequence[str], label: str) -> Html:
    """Return a coloured passage that is one tab stop, and its text for screen readers."""
    return join(
        tag("p", "Passage: ", "".join(texts), class_="vh"),
        tag(
            "div",
            _tokens(texts, styles),
            class_="text slider",
            id=key,
            tabindex=0,
            role="slider",
            aria_label=label,
            aria_valuemin=1,
            aria_valuemax=len(texts),
            aria_valuenow=1,
        ),
    )


def _surprisal_figure(shown: Sequence[tuple[RunMeasurements, Passage]]) -> Figure:
    first = shown[0][1]
    texts = [token.text for token in first.tokens]
    styles = [f"u{bin_of(token.surprisal_bits, SURPRISAL_EDGES)}" for token in first.tokens]
    edges = [*map(str, SURPRISAL_EDGES[:-1]), f"{SURPRISAL_EDGES[-1]}+"]
    text = tag(
        "div",
        _passage("sur", texts, styles, "Position in the passage"),
        scale("u", edges, "bits, lower end of each step"),
    )
    panel = tag("div", class_="panel", id="sur-panel", aria_live="polite")
    return Figure(
        key="sur",
        title="Surprisal of each token",
        findings=paragraph(*(describe_surprisal(run.name, passage) for run, passage in shown)),
        body=join(tag("div", text, panel, class_="split"), tag("p", _HINT, class_="hint")),
        controls=choose_run("sur", [run.name for run, _ in shown]),
        data={"runs": [_surprisal_data(run, passage) for run, passage in shown]},
        has_svg=False,
    )


def _surprisal_data(run: RunMeasurements, passage: Passage) -> dict[str, Any]:
    return {
        "name": run.name,
        "size": passage.vocabulary_size,
        "text": [token.text for token in passage.tokens],
        "label": [visible(token.label) for token in passage.tokens],
        "bits": [round(token.surprisal_bits, 3) for token in passage.tokens],
        "p": [float(f"{token.probability:.3g}") for token in passage.tokens],
        "rank": [token.rank for token in passage.tokens],
        "entropy": [round(token.entropy_bits, 3) for token in passage.tokens],
        "near": [
            [[visible(other.text), round(other.probability, 4)] for other in token.alternatives]
            for token in passage.tokens
        ],
    }


def _classes_figure(summed: Sequence[tuple[RunMeasurements, Surprisal]]) -> Figure:
    names = [row["class"] for row in summed[0][1].by_class]
    values = [
        [
            next((row["surprise_bits"] for row in result.by_class if row["class"] == name), None)
            for name in names
        ]
        for _, result in summed
    ]
    first = summed[0][1].by_class
    costly = max(first, key=lambda row: row["surprise_bits"])
    largest = max(first, key=lambda row: row["share_of_surprise"])
    return Figure(
        key="cls",
        title="By class of token",
        findings=(
            f"In {summed[0][0].name}, {costly['class']} cost most per token; {largest['class']} "
            f"are {largest['share_of_surprise']:.0%} of all bits."
        ),
        body=join(
            _run_legend([run for run, _ in summed]),
            dot_chart(names, values, Axis(title="bits per token", from_zero=True), key="cls"),
        ),
        numbers=Numbers(["class", *(run.name for run, _ in summed)], [names, *values]),
    )


def _positions_figure(summed: Sequence[tuple[RunMeasurements, Surprisal]]) -> Figure:
    tables = [_position_bits(result) for _, result in summed]
    positions = sorted({position for table in tables for position in table})
    lines = [
        Line(
            name=run.name,
            style=run_style(number),
            x=[position for position in positions if position in table],
            y=[table[position] for position in positions if position in table],
            marker=number,
        )
        for number, ((run, _), table) in enumerate(zip(summed, tables, strict=True))
    ]
    values = [
        [f"{table[position]:.2f}" if position in table else "" for position in positions]
        for table in tables
    ]
    chart = line_chart(
        lines,
        Axis(title="character in the word", whole=True),
        Axis(title="bits per token", from_zero=True),
        key="pos",
        width=PAIR,
        height=260,
    )
    heads = [f"character {position}" for position in positions]
    names = [run.name for run, _ in summed]
    return Figure(
        key="pos",
        title="By position in the word",
        findings="Where a word has begun, its next characters are easier to predict."
        if all(_falls(table, positions) for table in tables)
        else "The surprisal does not fall from the first to the last position shown.",
        body=join(
            legend(names, key="pos", at=heads[0], values=[row[0] for row in values]),
            tag("div", chart, class_="plot"),
        ),
        numbers=Numbers(
            ["position", *names],
            [positions, *([table.get(position) for position in positions] for table in tables)],
        ),
        data={"head": heads, "v": values, "at": 0},
    )


def _position_bits(result: Surprisal) -> dict[int, float]:
    """Return the bits per token by position in the word, without positions of few tokens."""
    return {
        row["position"]: row["surprise_bits"]
        for row in result.by_position
        if row["tokens"] >= _MIN_TOKENS
    }


def _falls(table: dict[int, float], positions: Sequence[int]) -> bool:
    known = [table[position] for position in positions if position in table]
    return len(known) > 1 and known[-1] < known[0]


def _run_legend(runs: Sequence[RunMeasurements]) -> Html:
    items = [tag("li", swatch(number), run.name) for number, run in enumerate(runs)]
    return tag("ul", *items, class_="legend")


def _memory_figure(shown: Sequence[tuple[RunMeasurements, Memory]]) -> Figure:
    rows = [_memory_row(number, run, memory) for number, (run, memory) in enumerate(shown)]
    edges = [f"{edge:g}" for edge in MEMORY_EDGES]
    first = shown[0][1]
    slider = tag(
        "div",
        tag("p", "Passage: ", "".join(row.text for row in first.predictions), class_="vh"),
        *rows,
        class_="slider",
        id="mem",
        tabindex=0,
        role="slider",
        aria_label="Position in the passage",
        aria_valuemin=1,
        aria_valuemax=len(first.predictions),
        aria_valuenow=1,
    )
    note = "squared norm relative to the row's maximum, lower end of each step"
    return Figure(
        key="mem",
        title="What each prediction depends on",
        findings=paragraph(
            "The outlined token is predicted; the darker an earlier token, the more the logit of "
            "the prediction depends on it.",
            *(describe_memory(run.name, memory) for run, memory in shown),
        ),
        body=join(slider, scale("m", edges, note), tag("p", _HINT, class_="hint")),
        data={
            "runs": [_memory_data(run, memory) for run, memory in shown],
            "at": _most_surprising(first),
        },
        has_svg=False,
        note="Squared norm of the gradient with respect to the one-hot input. The maxima of rows "
        "differ between runs.",
    )


def _most_surprising(memory: Memory) -> int:
    """Return the least probable token of the second half of a passage."""
    half = len(memory.predictions) // 2
    return min(
        range(half, len(memory.predictions)), key=lambda at: memory.predictions[at].probability
    )


def _memory_row(number: int, run: RunMeasurements, memory: Memory) -> Html:
    at = _most_surprising(memory)
    relative = memory.predictions[at].relative
    styles = [
        f"m{bin_of(relative[other], MEMORY_EDGES)}" if other < at else "cur" * (other == at)
        for other in range(len(memory.predictions))
    ]
    texts = [prediction.text for prediction in memory.predictions]
    return tag(
        "div",
        tag("div", swatch(number), run.name, class_="nm"),
        tag("div", _tokens(texts, styles), class_="text", attributes={"data-mem": number}),
        tag("ol", class_="bars", attributes={"data-top": number}),
        class_="mem",
    )


def _memory_data(run: RunMeasurements, memory: Memory) -> dict[str, Any]:
    return {
        "name": run.name,
        "text": [prediction.text for prediction in memory.predictions],
        "label": [visible(prediction.text) for prediction in memory.predictions],
        "rows": [
            [round(1000 * value) for value in prediction.relative]
            for prediction in memory.predictions
        ],
        "near": [
            [
                [visible(other.text), round(other.probability, 4)]
                for other in prediction.alternatives
            ]
            for prediction in memory.predictions
        ],
    }


def _dependence_figure(shown: Sequence[tuple[RunMeasurements, Memory]]) -> Figure:
    most = min(len(memory.by_distance) for _, memory in shown)
    distances = list(range(1, most + 1))
    columns = [[row.relative for row in memory.by_distance[:most]] for _, memory in shown]
    lines = [
        Line(name=run.name, style=run_style(number), x=distances, y=column, marker=number)
        for number, ((run, _), column) in enumerate(zip(shown, columns, strict=True))
    ]
    chart = line_chart(
        lines,
        Axis(title="distance in tokens", is_log=True),
        Axis(title="mean relative squared norm", from_zero=True),
        key="mdist",
        width=PAIR,
        height=260,
    )
    at = min(9, most - 1)
    values = [[f"{value:.3g}" for value in column] for column in columns]
    heads = [f"distance {distance}" for distance in distances]
    names = [run.name for run, _ in shown]
    means = [f"{column[at]:.2g} for {name}" for name, column in zip(names, columns, strict=True)]
    return Figure(
        key="mdist",
        title="Dependence by distance",
        findings=f"At {heads[at]} the mean is {listed(means)}.",
        body=join(
            legend(names, key="mdist", at=heads[at], values=[row[at] for row in values]),
            tag("div", chart, class_="plot"),
        ),
        numbers=Numbers(["distance", *names], [distances, *columns]),
        data={"head": heads, "v": values, "at": at},
    )


def _letters_figure(letters: Sequence[tuple[RunMeasurements, LetterAccuracy]]) -> Figure:
    known = [row.known for row in letters[0][1].by_known]
    lines, values, columns, heads = [], [], [], []
    for number, (run, result) in enumerate(letters):
        for guesses in (1, 3):
            column = [row.accuracy[guesses - 1] for row in result.by_known]
            lines.append(
                Line(
                    name=run.name,
                    style=run_style(number),
                    x=[row.known for row in result.by_known],
                    y=[100 * value for value in column],
                    dotted=guesses == 3,
                    marker=number,
                )
            )
            columns.append(column)
            heads.append(f"{run.name}, top {guesses}")
        values.append([f"{100 * row.accuracy[0]:.0f} %" for row in result.by_known])
    chart = line_chart(
        lines,
        Axis(title="known letters of the word", whole=True),
        Axis(title="% correct", from_zero=True),
        key="known",
        width=PAIR,
        height=260,
    )
    names = [run.name for run, _ in letters]
    at = min(3, len(known) - 1)
    return Figure(
        key="known",
        title="Next letter correct, by known letters",
        findings=paragraph(
            "Solid: the letter is the first guess. Dotted: it is among the first three.",
            *(
                f"{run.name} has {result.accuracy:.1%} of all tokens as its first guess."
                for run, result in letters
            ),
        ),
        body=join(
            legend(
                names,
                key="known",
                at=f"{known[at]} known",
                values=[row[min(at, len(row) - 1)] for row in values],
            ),
            tag("div", chart, class_="plot"),
        ),
        numbers=Numbers(
            ["run", "known letters", "letters", "top 1", "top 2", "top 3"],
            _letter_columns(letters),
        ),
        # Dotted lines have no number in the read-out.
        data={
            "head": [f"{number} known" for number in known],
            "v": values,
            "at": at,
            "lines": [2 * number for number in range(len(letters))],
        },
    )


def _letter_columns(letters: Sequence[tuple[RunMeasurements, LetterAccuracy]]) -> list[list[Any]]:
    rows = [
        [run.name, row.known, row.count, *row.accuracy]
        for run, result in letters
        for row in result.by_known
    ]
    return [list(column) for column in zip(*rows, strict=True)]


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


_Tracked = tuple[RunMeasurements, Cells, Tracks, Passage]


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
        tag("label", "Label ", tag("select", *options, id="act-label"), class_="pick"),
        choose_run("act", [run.name for run, *_ in tracked]),
        class_="ctlrow",
    )
    text = tag(
        "div",
        _passage("act", texts, styles, "Position in the passage"),
        _value_scale(),
    )
    panel = tag("div", class_="panel", id="act-panel", aria_live="polite")
    return Figure(
        key="act",
        title="One unit on the passage",
        findings="The passage is coloured by the unit that follows the chosen label best. Select a "
        "range of the text to list the units that are high throughout, and other places where "
        "they are.",
        body=join(tag("div", text, panel, class_="split"), tag("p", _HINT, class_="hint")),
        controls=controls,
        data={"runs": [_track_data(*row) for row in tracked]},
        has_svg=False,
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
        "text": [token.text for token in passage.tokens],
        "label": [visible(token.label) for token in passage.tokens],
        "units": [_unit_name(unit) for unit in tracks.units],
        "high": base64.b64encode(packed).decode(),
        "best": {
            row.label: {
                "unit": _unit_name(row.unit),
                "measure": _measure_name(row),
                "score": round(row.score, 3),
                "control": round(row.control, 3),
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
            key="gates",
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
