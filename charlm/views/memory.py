"""Section "Memory": which earlier tokens a prediction depends on."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlm.data.windows.directions import reading_order
from charlm.errors import counted
from charlm.evaluation.probes.known_letters import LetterAccuracy
from charlm.evaluation.probes.memory import Dependence, Memory
from charlm.views.charts import Chart, Series
from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import swatch
from charlm.views.figures.numbers import format_number
from charlm.views.html import Html, join, show_invisible, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    Figure,
    Numbers,
    Part,
    Section,
    bar_rows,
    bin_legend,
    listed,
    paragraph,
    per_run,
    percentage,
    slider,
)
from charlm.views.passages import (
    HINT,
    MEMORY_EDGES,
    bin_of,
    coloured_tokens,
    describe_direction,
    visible,
)

_REACH = 0.1  # A smaller dependence, relative to a row's maximum, is out of reach.
_UNREAD = -1.0  # Stands for the dependence on a token that is read later.


def memory_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs whose memory was measured."""
    shown = [(run, run.memory) for run in runs if isinstance(run.memory, Memory)]
    parts: list[Part] = [_memory_figure(shown)]
    distance = _dependence_figure(shown)
    letters = [
        (run, run.letters)
        for run in runs
        if isinstance(run.letters, LetterAccuracy) and run.letters.by_known
    ]
    parts.append((distance, _letters_figure(letters)) if letters else distance)
    return Section("memory", "Memory", parts)


def describe_memory(memories: Mapping[str, Memory]) -> str:
    """Return sentences about the distance up to which a mean prediction depends on the text.

    Args:
        memories: Result of each run, by its name.
    """
    reached = {
        name: [row.distance for row in memory.by_distance if row.relative >= _REACH]
        for name, memory in memories.items()
    }
    far = {name: f"{max(distances)}" for name, distances in reached.items() if distances}
    near = [name for name, distances in reached.items() if not distances]
    return paragraph(
        "Largest distance in tokens at which the mean is at least a tenth of the row's maximum: "
        f"{per_run(far)}."
        if far
        else "",
        f"No distance has such a mean in {listed(near)}." if near else "",
    )


def describe_letters(letters: Mapping[str, LetterAccuracy], known: int) -> str:
    """Return a sentence about how often the first guess is right after some known letters."""
    shares = {
        name: percentage(row.accuracy[0])
        for name, result in letters.items()
        for row in result.by_known
        if row.known == known
    }
    return f"With {counted(known, 'letter')} known, the first guess is right in: {per_run(shares)}."


@dataclass(frozen=True)
class _Row:
    """The predictions of one run in the order of the text, which a backward run reads reversed.

    Attributes:
        run: The run.
        predictions: One for each token.
        relative: Dependence of each prediction on each token; `_UNREAD` for those that are read
            later.
        starts: Number of characters before each token.
        at: Place that is shown at first: the least probable token of the half that is read last.
    """

    run: RunMeasurements
    predictions: list[Dependence]
    relative: list[list[float]]
    starts: list[int]
    at: int

    @property
    def texts(self) -> list[str]:
        """Text of each token."""
        return [prediction.text for prediction in self.predictions]

    def place_of(self, other: "_Row") -> int:
        """Return the token that has the same place in the text as the first one of another row."""
        start = other.starts[other.at]
        return max(at for at, own in enumerate(self.starts) if own <= start)


def _in_text_order(run: RunMeasurements, memory: Memory) -> _Row:
    read = memory.predictions
    ids = np.array([prediction.token for prediction in read])
    trained = run.trained
    places = reading_order(ids, trained.model.direction, mode=trained.mode).tolist()
    predictions = [read[number] for number in np.argsort(places).tolist()]
    relative = [[_UNREAD] * len(read) for _ in read]
    for place, prediction in zip(places, read, strict=True):
        for other, value in zip(places, prediction.relative, strict=False):
            relative[place][other] = value
    starts = itertools.accumulate((len(row.text) for row in predictions), initial=0)
    late = range(len(read) // 2, len(read))
    at = places[min(late, key=lambda number: read[number].probability)]
    return _Row(run, predictions, relative, list(starts)[:-1], at)


def _memory_figure(shown: Sequence[tuple[RunMeasurements, Memory]]) -> Figure:
    rows = [_in_text_order(run, memory) for run, memory in shown]
    first = rows[0]
    passages = slider(
        "memory",
        tag("p", "Passage: ", "".join(first.texts), class_="vh"),
        *(_draw_row(number, row, row.place_of(first)) for number, row in enumerate(rows)),
        label="Position in the passage",
        count=len(first.texts),
    )
    note = "squared norm relative to the row's maximum, lower end of each step"
    return Figure(
        key="memory",
        title="What each prediction depends on",
        findings=paragraph(
            "The outlined token is predicted; the stronger the colour of an earlier token, the "
            "more the logit of the prediction depends on it.",
            describe_memory({run.name: memory for run, memory in shown}),
            describe_direction([run for run, _ in shown]),
        ),
        body=join(passages, bin_legend("m", [f"{edge:g}" for edge in MEMORY_EDGES], note), HINT),
        data={"runs": list(map(_memory_data, rows)), "at": first.at},
        has_svg=False,
        note="Squared norm of the gradient with respect to the one-hot input. The maxima of rows "
        "differ between runs.",
    )


def _draw_row(number: int, row: _Row, at: int) -> Html:
    styles = [
        "cur" if other == at else "" if value < 0 else f"m{bin_of(value, MEMORY_EDGES)}"
        for other, value in enumerate(row.relative[at])
    ]
    near = [(visible(other.text), other.probability) for other in row.predictions[at].alternatives]
    bars = bar_rows(near, visible(row.texts[at]))
    passage = coloured_tokens(row.texts, styles)
    return tag(
        "div",
        tag("div", swatch(row.run.number), row.run.name, class_="nm"),
        tag("div", passage, class_="text", dir="auto", attributes={"data-mem": number}),
        tag("ol", *bars, class_="bars", attributes={"data-top": number}),
        class_="mem",
    )


def _memory_data(row: _Row) -> dict[str, Any]:
    return {
        "name": row.run.name,
        "text": list(map(show_invisible, row.texts)),
        "starts": row.starts,
        "label": list(map(visible, row.texts)),
        "rows": [_thousandths(values) for values in row.relative],
        "near": [
            [
                [visible(other.text), round(other.probability, 6)]
                for other in prediction.alternatives
            ]
            for prediction in row.predictions
        ],
    }


def _thousandths(values: Sequence[float]) -> list[int]:
    """Return thousandths, without the unread tokens at the end."""
    last = max((at for at, value in enumerate(values) if value >= 0), default=-1)
    return [round(1000 * value) if value >= 0 else -1 for value in values[: last + 1]]


def _dependence_figure(shown: Sequence[tuple[RunMeasurements, Memory]]) -> Figure:
    most = min(len(memory.by_distance) for _, memory in shown)
    distances = list(range(1, most + 1))
    values = [[row.relative for row in memory.by_distance[:most]] for _, memory in shown]
    at = min(10, most) - 1
    chart = Chart(
        series=[
            Series(run=run, x=distances, y=column)
            for (run, _), column in zip(shown, values, strict=True)
        ],
        x=Axis(title="distance in tokens", is_log=True),
        y=Axis(title="mean relative squared norm", from_zero=True),
        heads=[f"distance {distance}" for distance in distances],
        write=lambda value: format_number(value, 2),
        at=at,
    )
    means = {line.run.name: format_number(line.y[at], 2) for line in chart.series}
    return Figure(
        key="memory-by-distance",
        title="Dependence by distance",
        findings=f"Mean at distance {distances[at]}: {per_run(means)}.",
        body=chart.body,
        numbers=Numbers(["distance", *(run.name for run, _ in shown)], [distances, *values]),
        data=chart.data,
    )


def _letters_figure(letters: Sequence[tuple[RunMeasurements, LetterAccuracy]]) -> Figure:
    longest = max((result.by_known for _, result in letters), key=len)
    known = [row.known for row in longest]
    at = min(3, len(known) - 1)
    chart = Chart(
        series=[
            _letters_series(run, result, guesses) for guesses in (1, 3) for run, result in letters
        ],
        x=Axis(title="known letters of the word", whole=True),
        y=Axis(title="% correct", from_zero=True),
        heads=[f"{number} known" for number in known],
        write="{:.0f} %".format,
        at=at,
    )
    rows = [
        [run.name, row.known, row.count, *row.accuracy]
        for run, result in letters
        for row in result.by_known
    ]
    return Figure(
        key="known-letters",
        title="Next letter correct, by known letters",
        findings=paragraph(
            describe_letters({run.name: result for run, result in letters}, known[at]),
            "Dotted: it is among the first three guesses.",
        ),
        body=chart.body,
        numbers=Numbers.of_rows(
            ["run", "known letters", "letters", "top 1", "top 2", "top 3"], rows
        ),
        data=chart.data,
    )


def _letters_series(run: RunMeasurements, result: LetterAccuracy, guesses: int) -> Series:
    """Return how often the next letter is among the first guesses: one, or three."""
    return Series(
        run=run,
        x=[row.known for row in result.by_known],
        y=[100 * row.accuracy[guesses - 1] for row in result.by_known],
        measure="first guess" if guesses == 1 else "first three",
        dotted=guesses == 3,
    )
