"""Charts with one line per run, and their read-outs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import PAIR, WIDE, run_style, swatch
from charlm.views.figures.lines import Line, line_chart
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import MISSING, legend


@dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one run.

    Attributes:
        run: The run.
        x: Horizontal positions.
        y: Values; one that is not finite, or not above 0 on a logarithmic axis, is a gap.
        measure: Name of the measure, in a chart of two measures.
        dotted: Whether it is the second measure of the run.
    """

    run: RunMeasurements
    x: Sequence[float]
    y: Sequence[float]
    measure: str = ""
    dotted: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A line chart; the legend above it shows the values at one place.

    Attributes:
        series: The lines: all runs of the first measure, then those of the second.
        x: Horizontal axis.
        y: Vertical axis.
        heads: Name of each place in the legend.
        write: Function that writes a value in the legend.
        at: Place that is shown at first.
        is_wide: Whether it is as wide as the page; otherwise two stand side by side.
        reference: Dotted line that stands for no run, or None.
    """

    series: Sequence[Series]
    x: Axis
    y: Axis
    heads: Sequence[str]
    write: Callable[[float], str]
    at: int
    is_wide: bool = False
    reference: Line | None = None

    @property
    def body(self) -> Html:
        """Legend and drawing."""
        return join(self.read_out, tag("div", self.drawing, class_="plot"))

    @property
    def drawing(self) -> Html:
        """The drawing, wide and narrow; dotted lines are behind the others."""
        lines = [
            Line(
                name=series.run.name,
                style=run_style(series.run.number),
                x=series.x,
                y=series.y,
                dotted=series.dotted,
                marker=series.run.number,
            )
            for series in self.series
        ]
        lines += [self.reference] if self.reference else []
        width, height = (WIDE, 330) if self.is_wide else (PAIR, 260)
        return line_chart(lines, self.x, self.y, width=width, height=height)

    @property
    def read_out(self) -> Html:
        """The legend: a list, or a table of two measures."""
        measures = list(dict.fromkeys(series.measure for series in self.series))
        values = [self._at(row) for row in self._values]
        runs = list(dict.fromkeys((s.run.number, s.run.name) for s in self.series))
        if len(measures) == 1:
            return legend(runs, at=self.heads[self.at], values=values)
        heads = [tag("th", swatch(number), name, scope="col") for number, name in runs]
        rows = []
        for measure in measures:
            cells = [
                tag("td", values[number], attributes={"data-i": number})
                for number, series in enumerate(self.series)
                if series.measure == measure
            ]
            rows.append(tag("tr", tag("th", measure, scope="row"), *cells))
        place = tag("th", self.heads[self.at], class_="at", scope="col")
        return tag(
            "table",
            tag("thead", tag("tr", place, *heads)),
            tag("tbody", *rows),
            class_="ro legend",
        )

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script needs."""
        return {"head": list(self.heads), "v": self._values, "at": self.at % len(self.heads)}

    @property
    def _values(self) -> list[list[str]]:
        return [[self.write(value) for value in series.y] for series in self.series]

    def _at(self, row: Sequence[str]) -> str:
        at = self.at % len(self.heads)
        return row[at] if at < len(row) else MISSING
