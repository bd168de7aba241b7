"""The parts of the page: a figure with its title, findings, numbers and downloads; a section."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from charlm.errors import counted
from charlm.views.figures.drawing import swatch
from charlm.views.html import Html, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.style import figure_style

_MAX_ROWS = 500  # Rows of the table below a figure that stands alone.


MISSING = "\u2013"  # Stands for a missing value.
# Attributes of a part that does nothing without the report's script, which shows it.
NEEDS_SCRIPT: Mapping[str, Any] = {"data_script": True, "hidden": True}


@dataclass(frozen=True)
class Numbers:
    """The numbers of a figure, as columns of equal length.

    Attributes:
        head: Title of each column.
        columns: Values of each column.
    """

    head: list[str]
    columns: list[list[Any]]

    @staticmethod
    def of_rows(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> "Numbers":
        """Return the numbers of a table that is given by rows, of which there may be none."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        return Numbers(list(head), columns or [[] for _ in head])


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of the report.

    Attributes:
        key: Name, unique in the report: for the data and for the names of downloads.
        title: The quantity that is shown.
        findings: Sentences that are made from the numbers.
        body: Chart, passage or table.
        controls: Choices above the figure, or None.
        numbers: Numbers for the table and the CSV file; None if the page makes them from `data`.
        data: Further data for the page's script.
        has_svg: Whether the figure has a chart that can be saved.
        note: Remark in the footer.
    """

    key: str
    title: str
    findings: str
    body: Html
    controls: Html | None = None
    numbers: Numbers | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    has_svg: bool = True
    note: str = ""

    def render(self) -> Html:
        """Return the figure as HTML for a page with the report's script."""
        return self._drawn(self._downloads())

    def _repr_html_(self) -> str:
        """Return the figure for a notebook: with its style, and complete without a script."""
        return tag("div", figure_style(), self._drawn(self._static_numbers()), class_="charlm")

    def _drawn(self, numbers: Html | None) -> Html:
        # No line break within "< 0.1 %".
        findings = self.findings.replace(" %", "\u00a0%").replace("< 0", "<\u00a00")
        words = tag("div", tag("h3", self.title), tag("p", findings, class_="find"))
        note = tag("span", self.note) if self.note else None
        return tag(
            "figure",
            tag("div", words, self.controls, class_="fh"),
            self.body,
            tag("div", numbers, note, class_="foot"),
            id=f"f-{self.key}",
        )

    def _downloads(self) -> Html:
        """Return what the script fills: the table of the numbers, and the downloads."""
        numbers = tag("details", tag("summary", "Numbers"), attributes={"data-table": self.key})
        csv = tag("button", "CSV", type="button", attributes={"data-csv": self.key})
        svg = tag("button", "SVG", type="button", attributes={"data-svg": self.key})
        shown = [numbers, csv, svg if self.has_svg else None]
        return tag("div", *shown, class_="foot", **NEEDS_SCRIPT)

    def _static_numbers(self) -> Html | None:
        if self.numbers is None:
            return None
        rows = list(zip(*self.numbers.columns, strict=True))[:_MAX_ROWS]
        table = data_table(self.numbers.head, rows, class_="numbers")
        return tag("details", tag("summary", "Numbers"), tag("div", table, class_="tw"))


# A figure, or figures that stand side by side.
Part = Figure | tuple[Figure, ...]


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        name: Name for `--only`, and for links.
        title: Heading.
        parts: Figures, alone or side by side.
    """

    name: str
    title: str
    parts: Sequence[Part]

    @property
    def figures(self) -> list[Figure]:
        """All figures in their order."""
        return [
            figure
            for part in self.parts
            for figure in (part if isinstance(part, tuple) else (part,))
        ]

    def render(self) -> Html:
        """Return the section as HTML."""
        heading = tag("h2", self.title, id=f"h-{self.name}")
        parts = [
            tag("div", *(figure.render() for figure in part), class_=f"grid{len(part)}")
            if isinstance(part, tuple)
            else part.render()
            for part in self.parts
        ]
        return tag("section", heading, *parts, id=self.name, aria_labelledby=f"h-{self.name}")


def legend(runs: Sequence[tuple[int, str]], *, at: str, values: Sequence[str]) -> Html:
    """Return the legend of a chart with one line per run, which is also its read-out.

    Args:
        runs: Number and name of each run.
        at: Place of the values.
        values: Value of each run at this place.
    """
    rows = [
        tag("li", swatch(run), f"{name} ", tag("b", value, attributes={"data-i": number}))
        for number, ((run, name), value) in enumerate(zip(runs, values, strict=True))
    ]
    return tag("ul", tag("li", at, class_="at"), *rows, class_="legend")


def run_list(runs: Sequence[RunMeasurements], *others: Html) -> Html:
    """Return the legend of a chart whose values have no place: markers and names."""
    items = [tag("li", swatch(run.number), run.name) for run in runs]
    return tag("ul", *items, *others, class_="legend")


def radio_buttons(label: str, name: str, options: Mapping[str, str], chosen: str) -> Html:
    """Return radio buttons.

    Args:
        label: What is chosen.
        name: Name of the group.
        options: Text of each value.
        chosen: Value that is chosen at first.
    """
    buttons = [
        tag(
            "label",
            tag("input", type="radio", name=name, value=value, checked=value == chosen),
            text,
        )
        for value, text in options.items()
    ]
    # The form keeps the group apart from groups of the same name in other outputs of a notebook.
    return tag("form", tag("fieldset", tag("legend", label), *buttons, class_="seg"))


def run_buttons(key: str, names: Sequence[str]) -> Html | None:
    """Return radio buttons for the run that a passage shows; None for one run."""
    if len(names) == 1:
        return None
    options = {str(number): name for number, name in enumerate(names)}
    return tag("div", radio_buttons("Run", f"r-{key}", options, "0"), **NEEDS_SCRIPT)


def bin_legend(style: str, edges: Sequence[str], note: str) -> Html:
    """Return the legend of a heat map with the lower end of each bin."""
    bins = [
        tag("div", tag("b", class_=f"{style}{number}"), tag("span", edge))
        for number, edge in enumerate(edges)
    ]
    return tag(
        "div",
        tag("div", *bins, class_="scale", aria_hidden="true"),
        tag("span", note),
        class_="scl",
    )


def data_table(
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    class_: str,
    has_heads: bool = False,
) -> Html:
    """Return a table whose first column names the rows.

    Args:
        head: Title of each column.
        rows: Cells of each row.
        class_: Classes of the table.
        has_heads: Whether each cell has its title as data, for phones, where it stands beside it.
    """
    titles = [tag("th", title, scope="col") for title in head]
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(
                tag("td", cell, attributes={"data-head": title} if has_heads else None)
                for title, cell in zip(head[1:], row[1:], strict=True)
            ),
        )
        for row in rows
    ]
    return tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *body), class_=class_)


def slider(key: str, *contents: object, label: str, count: int, style: str = "slider") -> Html:
    """Return contents that are one tab stop; the script moves through their places.

    Args:
        key: Name of the figure.
        contents: What is drawn.
        label: What is chosen, for screen readers.
        count: Number of places.
        style: Classes.
    """
    return tag(
        "div",
        *contents,
        class_=style,
        id=f"p-{key}",
        dir="auto" if "text" in style.split() else None,
        tabindex=0,
        role="slider",
        aria_label=label,
        aria_valuemin=1,
        aria_valuemax=count,
        aria_valuenow=1,
    )


def panel(key: str, *contents: object) -> Html:
    """Return the panel beside a passage, which the script fills with facts of the chosen place."""
    return tag("div", *contents, class_="panel", id=f"panel-{key}", aria_live="polite")


def fact_list(facts: Mapping[str, str]) -> Html:
    """Return names with their values, as in the panel beside a passage."""
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    return tag("dl", *pairs, class_="facts")


def percentage(value: float) -> str:
    """Return a fraction in percent.

    >>> percentage(0.5), percentage(0.0123), percentage(0.0001), percentage(0)
    ('50 %', '1.2 %', '< 0.1 %', '0 %')
    """
    if value < 0.001:
        return "< 0.1 %" if value > 0 else "0 %"
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %"


def bar_rows(
    bars: Sequence[tuple[str, float]],
    chosen: str | None = None,
    *,
    limit: float = 1.0,
    write: Callable[[float], str] = percentage,
) -> list[Html]:
    """Return list items with a label, a bar and its value.

    Args:
        bars: Label and value of each bar; a value below 0 has no bar.
        chosen: Label of the bar that stands out.
        limit: Value of a bar that fills the width.
        write: Function that writes the value.
    """
    return [
        tag(
            "li",
            tag("code", label),
            tag(
                "svg",
                tag("rect", width=f"{100 * min(1.0, max(0.0, value) / limit):.1f}", height=10),
                class_="bx",
                viewBox="0 0 100 10",
                preserveAspectRatio="none",
            ),
            tag("span", write(value)),
            class_="is" if label == chosen else None,
        )
        for label, value in bars
    ]


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def the_first(count: int, noun: str) -> str:
    """Return the beginning of a list in words.

    >>> the_first(1, "text"), the_first(2000, "text")
    ('the first text', 'the first 2,000 texts')
    """
    return f"the first {counted(count, noun) if count > 1 else noun}"


def records_read(read: int, of_split: int) -> str:
    """Return how many records of a split were read.

    >>> records_read(500, 2000), records_read(2000, 2000), records_read(1, 1)
    ('the first 500 of 2,000 records', 'all 2,000 records', 'the only record')
    """
    if read < of_split:
        return f"the first {read:,} of {of_split:,} records"
    return "the only record" if read == 1 else f"all {read:,} records"


def per_run(values: Mapping[str, str]) -> str:
    """Return the value of each run as a list in a sentence.

    >>> per_run({"lstm": "2.1", "gru": "2.2"})
    'lstm 2.1 and gru 2.2'
    """
    return listed([f"{name} {value}" for name, value in values.items()])


def paragraph(*sentences: str) -> str:
    """Return sentences as a paragraph, without empty ones."""
    return " ".join(filter(None, sentences))
