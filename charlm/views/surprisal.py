"""Section "Surprisal": where a text differs from what the network expects."""

from collections.abc import Sequence
from typing import Any

from charlm.evaluation.probes.passage import Passage
from charlm.evaluation.surprisal import Surprisal
from charlm.views.figures import PAIR, Axis, Line, dot_chart, line_chart, run_style, swatch
from charlm.views.html import Html, join, show_invisible, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    Figure,
    Numbers,
    Section,
    bar_rows,
    choose_run,
    fact_list,
    legend,
    paragraph,
    percentage,
    scale,
)
from charlm.views.passages import HINT, SURPRISAL_EDGES, bin_of, passage_slider, visible

_MIN_TOKENS = 20  # The mean of fewer tokens says little.


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


def describe_surprisal(name: str, passage: Passage) -> str:
    """Return a sentence about the mean and the largest surprisal of a passage."""
    bits = [token.surprisal_bits for token in passage.tokens]
    most = max(passage.tokens, key=lambda token: token.surprisal_bits)
    return (
        f"{name} needs {sum(bits) / len(bits):.2f} bits per token of this passage; the most "
        f"surprising one is {visible(most.label)} with {most.surprisal_bits:.1f} bits."
    )


def _surprisal_figure(shown: Sequence[tuple[RunMeasurements, Passage]]) -> Figure:
    first = shown[0][1]
    texts = [token.text for token in first.tokens]
    styles = [f"u{bin_of(token.surprisal_bits, SURPRISAL_EDGES)}" for token in first.tokens]
    edges = [*map(str, SURPRISAL_EDGES[:-1]), f"{SURPRISAL_EDGES[-1]}+"]
    text = tag(
        "div",
        passage_slider("surprisal", texts, styles, "Position in the passage"),
        scale("u", edges, "bits, lower end of each step"),
    )
    return Figure(
        key="surprisal",
        title="Surprisal of each token",
        findings=paragraph(*(describe_surprisal(run.name, passage) for run, passage in shown)),
        body=join(tag("div", text, _panel(first), class_="split"), HINT),
        controls=choose_run("surprisal", [run.name for run, _ in shown]),
        data={"runs": [_surprisal_data(run, passage) for run, passage in shown]},
        has_svg=False,
    )


def _most_surprising(passage: Passage) -> int:
    return max(range(len(passage.tokens)), key=lambda at: passage.tokens[at].surprisal_bits)


def _panel(passage: Passage) -> Html:
    """Return the panel for the most surprising token."""
    at = _most_surprising(passage)
    token = passage.tokens[at]
    before = "".join(show_invisible(other.text) for other in passage.tokens[max(0, at - 12) : at])
    place = f"…{before[-24:]} ".replace("\n", "↵") if before else "start "
    facts = {
        "surprisal": f"{token.surprisal_bits:.2f} bits",
        "probability": percentage(token.probability),
        "rank": f"{token.rank:,} of {passage.vocabulary_size:,}",
        "entropy": f"{token.entropy_bits:.2f} bits",
    }
    near = [(visible(other.text), other.probability) for other in token.alternatives]
    limit = max(0.25, near[0][1])
    bars = bar_rows(near, visible(token.label), limit=limit)
    return tag(
        "div",
        tag("h4", place, tag("code", visible(token.label))),
        fact_list(facts),
        tag("div", "Most probable tokens", class_="mut"),
        tag("ol", *bars, class_="bars"),
        class_="panel",
        id="panel-surprisal",
        aria_live="polite",
    )


def _surprisal_data(run: RunMeasurements, passage: Passage) -> dict[str, Any]:
    return {
        "name": run.name,
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
        key="surprisal-by-class",
        title="By class of token",
        findings=(
            f"In {summed[0][0].name}, {costly['class']} cost most per token; {largest['class']} "
            f"are {largest['share_of_surprise']:.0%} of all bits."
        ),
        body=join(
            _run_legend([run for run, _ in summed]),
            dot_chart(
                names,
                values,
                Axis(title="bits per token", from_zero=True),
            ),
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
        width=PAIR,
        height=260,
    )
    heads = [f"character {position}" for position in positions]
    names = [run.name for run, _ in summed]
    return Figure(
        key="surprisal-by-position",
        title="By position in the word",
        findings="Where a word has begun, its next characters are easier to predict."
        if all(_falls(table, positions) for table in tables)
        else "The surprisal does not fall from the first to the last position shown.",
        body=join(
            legend(names, at=heads[0], values=[row[0] for row in values]),
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
