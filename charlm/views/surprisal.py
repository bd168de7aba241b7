"""Section "Surprisal": where a text differs from what the network expects."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from charlm.evaluation.probes.passage import Passage
from charlm.evaluation.surprisal import Surprisal
from charlm.views.charts import Chart, Series
from charlm.views.figures.axes import Axis
from charlm.views.figures.points import Row, dot_chart
from charlm.views.html import Html, join, show_invisible, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    MISSING,
    Figure,
    Numbers,
    Part,
    Section,
    bar_rows,
    bin_legend,
    fact_list,
    panel,
    paragraph,
    per_run,
    percentage,
    run_buttons,
    run_list,
    the_first,
)
from charlm.views.passages import (
    HINT,
    SURPRISAL_EDGES,
    bin_of,
    describe_direction,
    passage_slider,
    visible,
)

_MIN_TOKENS = 20  # The mean of fewer tokens says little.


def surprisal_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs that have a passage."""
    shown = [(run, run.passage) for run in runs if isinstance(run.passage, Passage)]
    parts: list[Part] = [_surprisal_figure(shown)]
    summed = [(run, run.surprisal) for run in runs if isinstance(run.surprisal, Surprisal)]
    if summed:
        classes = _classes_figure(summed)
        with_words = [(run, result) for run, result in summed if len(_position_bits(result)) > 1]
        parts.append((classes, _positions_figure(with_words)) if with_words else classes)
    return Section("surprisal", "Surprisal", parts)


def describe_surprisal(passages: Mapping[str, Passage]) -> str:
    """Return sentences about the mean surprisal of a passage and its most surprising token.

    Args:
        passages: Result of each run, by its name.
    """
    means = {}
    for name, passage in passages.items():
        bits = [token.surprisal_bits for token in passage.tokens]
        means[name] = f"{sum(bits) / len(bits):.2f}"
    name, first = next(iter(passages.items()))
    most = first.tokens[_most_surprising(first)]
    is_cut = first.settings.get("is_cut")
    return paragraph(
        f"Shown: {the_first(len(first.tokens), 'token')} of the text." if is_cut else "",
        f"Mean surprisal of the passage in bits per token: {per_run(means)}. The most surprising "
        f"token for {name} is {visible(most.label)} with {most.surprisal_bits:.1f} bits.",
    )


def _surprisal_figure(shown: Sequence[tuple[RunMeasurements, Passage]]) -> Figure:
    first = shown[0][1]
    texts = [token.text for token in first.tokens]
    styles = [f"u{bin_of(token.surprisal_bits, SURPRISAL_EDGES)}" for token in first.tokens]
    edges = [*map(str, SURPRISAL_EDGES[:-1]), f"{SURPRISAL_EDGES[-1]}+"]
    text = tag(
        "div",
        passage_slider("surprisal", texts, styles, "Position in the passage"),
        bin_legend("u", edges, "bits, lower end of each step"),
    )
    return Figure(
        key="surprisal",
        title="Surprisal of each token",
        findings=paragraph(
            "Each token is coloured by its surprisal, −log₂ of the probability that the network "
            "gave it.",
            describe_surprisal({run.name: passage for run, passage in shown}),
            describe_direction([run for run, _ in shown]),
        ),
        body=join(tag("div", text, _panel(*shown[0]), class_="split"), HINT),
        controls=run_buttons("surprisal", [run.name for run, _ in shown]),
        data={"runs": [_surprisal_data(run, passage) for run, passage in shown]},
        has_svg=False,
    )


def _most_surprising(passage: Passage) -> int:
    return max(range(len(passage.tokens)), key=lambda at: passage.tokens[at].surprisal_bits)


def _heading(texts: Sequence[str], at: int, label: str, *, backward: bool) -> Html:
    """Return a token with what is read before it: in a backward run, the text after it."""
    token = tag("code", label)
    near = texts[at + 1 : at + 13] if backward else texts[max(0, at - 12) : at]
    text = "".join(map(show_invisible, near)).replace("\n", "↵")
    if backward:
        return tag("h4", token, f" {text[:24]}…" if text else " end")
    return tag("h4", f"…{text[-24:]} " if text else "start ", token)


def _panel(run: RunMeasurements, passage: Passage) -> Html:
    """Return the panel for the most surprising token."""
    at = _most_surprising(passage)
    token = passage.tokens[at]
    texts = [other.text for other in passage.tokens]
    facts = {
        "surprisal": f"{token.surprisal_bits:.2f} bits",
        "probability": percentage(token.probability),
        "rank": f"{token.rank:,} of {passage.vocabulary_size:,}",
        "entropy": f"{token.entropy_bits:.2f} bits",
    }
    near = [(visible(other.text), other.probability) for other in token.alternatives]
    limit = max(0.25, near[0][1])
    bars = bar_rows(near, visible(token.label), limit=limit)
    return panel(
        "surprisal",
        _heading(texts, at, visible(token.label), backward=run.is_backward),
        fact_list(facts),
        tag("div", "Most probable tokens", class_="mut"),
        tag("ol", *bars, class_="bars"),
    )


def _surprisal_data(run: RunMeasurements, passage: Passage) -> dict[str, Any]:
    return {
        "name": run.name,
        "backward": run.is_backward,
        "at": _most_surprising(passage),
        "size": passage.vocabulary_size,
        "text": [show_invisible(token.text) for token in passage.tokens],
        "label": [visible(token.label) for token in passage.tokens],
        "bits": [round(token.surprisal_bits, 5) for token in passage.tokens],
        "p": [float(f"{token.probability:.5g}") for token in passage.tokens],
        "rank": [token.rank for token in passage.tokens],
        "entropy": [round(token.entropy_bits, 5) for token in passage.tokens],
        "near": [
            [[visible(other.text), round(other.probability, 6)] for other in token.alternatives]
            for token in passage.tokens
        ],
    }


def describe_classes(name: str, result: Surprisal) -> str:
    """Return a sentence about the classes of tokens that cost most."""
    costly = max(result.by_class, key=lambda row: row["surprise_bits"])
    largest = max(result.by_class, key=lambda row: row["share_of_surprise"])
    return (
        f"In {name}, the class with the most bits per token is {costly['class']}; "
        f"{percentage(largest['share_of_surprise'])} of all bits are those of {largest['class']}."
    )


def _classes_figure(summed: Sequence[tuple[RunMeasurements, Surprisal]]) -> Figure:
    runs = [run for run, _ in summed]
    names = list(dict.fromkeys(row["class"] for _, result in summed for row in result.by_class))
    tables = [
        {row["class"]: row["surprise_bits"] for row in result.by_class} for _, result in summed
    ]
    rows = [Row(name=name, values=[table.get(name) for table in tables]) for name in names]
    axis = Axis(title="bits per token", from_zero=True)
    return Figure(
        key="surprisal-by-class",
        title="By class of token",
        findings=describe_classes(runs[0].name, summed[0][1]),
        body=join(run_list(runs), dot_chart(rows, [run.number for run in runs], axis)),
        numbers=Numbers(
            ["class", *(run.name for run in runs)],
            [names, *([table.get(name) for name in names] for table in tables)],
        ),
    )


def describe_positions(tables: Mapping[str, Mapping[int, float]]) -> str:
    """Return a sentence about the first and the last position in a word.

    Args:
        tables: Bits per token by position in the word, of each run.
    """
    parts = []
    for name, table in tables.items():
        first, last = min(table), max(table)
        parts.append(
            f"{name} needs {table[first]:.2f} bits for character {first} of a word"
            + (f" and {table[last]:.2f} for character {last}" if last > first else "")
        )
    return "; ".join(parts) + "."


def _positions_figure(summed: Sequence[tuple[RunMeasurements, Surprisal]]) -> Figure:
    tables = {run.name: _position_bits(result) for run, result in summed}
    positions = sorted({position for table in tables.values() for position in table})
    values = [[table.get(at, math.nan) for at in positions] for table in tables.values()]
    chart = Chart(
        series=[
            Series(run=run, x=positions, y=row)
            for (run, _), row in zip(summed, values, strict=True)
        ],
        x=Axis(title="character in the word", whole=True),
        y=Axis(title="bits per token", from_zero=True),
        heads=[f"character {position}" for position in positions],
        write=lambda bits: MISSING if math.isnan(bits) else f"{bits:.2f}",
        at=0,
    )
    return Figure(
        key="surprisal-by-position",
        title="By position in the word",
        findings=describe_positions(tables),
        body=chart.body,
        numbers=Numbers(
            ["position", *tables],
            [positions, *([table.get(at) for at in positions] for table in tables.values())],
        ),
        data=chart.data,
    )


def _position_bits(result: Surprisal) -> dict[int, float]:
    """Return the bits per token by position in the word, without positions of few tokens."""
    return {
        row["position"]: row["surprise_bits"]
        for row in result.by_position
        if row["tokens"] >= _MIN_TOKENS
    }
