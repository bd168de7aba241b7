"""Section "Memory": which earlier tokens a prediction depends on."""

from collections.abc import Sequence
from typing import Any

from charlm.evaluation.probes.known_letters import LetterAccuracy
from charlm.evaluation.probes.memory import Memory
from charlm.views.figures import PAIR, Axis, Line, line_chart, run_style, swatch
from charlm.views.html import Html, join, show_invisible, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, Section, bar_rows, legend, listed, paragraph, scale
from charlm.views.passages import HINT, MEMORY_EDGES, bin_of, coloured_tokens, visible


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


def describe_memory(name: str, memory: Memory) -> str:
    """Return a sentence about the distance up to which a mean prediction depends on the text."""
    reached = [row.distance for row in memory.by_distance if row.relative >= 0.1]
    if not reached:
        return f"{name}: no earlier token reaches a tenth of the row's maximum on average."
    return (
        f"{name}: tokens up to {max(reached)} back reach a tenth of the row's maximum on average."
    )


def _memory_figure(shown: Sequence[tuple[RunMeasurements, Memory]]) -> Figure:
    rows = [_memory_row(number, run, memory) for number, (run, memory) in enumerate(shown)]
    edges = [f"{edge:g}" for edge in MEMORY_EDGES]
    first = shown[0][1]
    slider = tag(
        "div",
        tag("p", "Passage: ", "".join(row.text for row in first.predictions), class_="vh"),
        *rows,
        class_="slider",
        id="p-memory",
        tabindex=0,
        role="slider",
        aria_label="Position in the passage",
        aria_valuemin=1,
        aria_valuemax=len(first.predictions),
        aria_valuenow=1,
    )
    note = "squared norm relative to the row's maximum, lower end of each step"
    return Figure(
        key="memory",
        title="What each prediction depends on",
        findings=paragraph(
            "The outlined token is predicted; the darker an earlier token, the more the logit of "
            "the prediction depends on it.",
            *(describe_memory(run.name, memory) for run, memory in shown),
        ),
        body=join(slider, scale("m", edges, note), HINT),
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
    near = [
        (visible(other.text), other.probability) for other in memory.predictions[at].alternatives
    ]
    bars = bar_rows(near, visible(texts[at]))
    return tag(
        "div",
        tag("div", swatch(number), run.name, class_="nm"),
        tag("div", coloured_tokens(texts, styles), class_="text", attributes={"data-mem": number}),
        tag("ol", *bars, class_="bars", attributes={"data-top": number}),
        class_="mem",
    )


def _memory_data(run: RunMeasurements, memory: Memory) -> dict[str, Any]:
    return {
        "name": run.name,
        "text": [show_invisible(prediction.text) for prediction in memory.predictions],
        "label": [visible(prediction.text) for prediction in memory.predictions],
        "rows": [
            [round(1000 * value) for value in prediction.relative]
            for prediction in memory.predictions
        ],
        "near": [
            [
                [visible(other.text), round(other.probability, 6)]
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
        width=PAIR,
        height=260,
    )
    at = min(9, most - 1)
    values = [[f"{value:.3g}" for value in column] for column in columns]
    heads = [f"distance {distance}" for distance in distances]
    names = [run.name for run, _ in shown]
    means = [f"{column[at]:.2g} for {name}" for name, column in zip(names, columns, strict=True)]
    return Figure(
        key="memory-by-distance",
        title="Dependence by distance",
        findings=f"At {heads[at]} the mean is {listed(means)}.",
        body=join(
            legend(names, at=heads[at], values=[row[at] for row in values]),
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
        width=PAIR,
        height=260,
    )
    names = [run.name for run, _ in letters]
    at = min(3, len(known) - 1)
    return Figure(
        key="known-letters",
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
