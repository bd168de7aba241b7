"""Numbers to SVG.

An SVG has class names and no colours: style sheets supply them, so that one SVG serves light, dark
and print. Each chart is drawn twice, wide and narrow, so that text keeps its size on a phone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charlm.views.html import Html, join, tag

RUN_STYLES = ("s1", "s2", "s3", "s4")  # Colours of runs, which have markers too.
INK_STYLES = ("k1", "k2", "k3")  # Lines that do not stand for a run.
WIDE, PAIR, NARROW = 880, 420, 358  # Widths in pixels.
_LEFT, _TOP, _BOTTOM = 48, 24, 40  # Margins of the plot in pixels; the right one holds names.
_NAME_WIDTH = 7.4  # Pixels per character of the name of a row.
_BOLD_WIDTH = 9.0  # Pixels per character of a name at the end of a line, which is bold.
_TICK_WIDTH = 8.0
_NAME_HEIGHT = 15.0
_LABEL_WIDTH, _LABEL_HEIGHT = 8.5, 12.0  # Of a character in a map of labels.
_MIN_CELL, _MAX_CELL = 15.0, 44.0  # Height and width of a cell of a matrix in pixels.
_MAX_COLUMN_NAME = 14  # Characters of the name of a column.
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MARKERS: tuple[Callable[[float, float, float], str], ...] = (
    lambda x, y, r: f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1,0 {2 * r},0a{r},{r} 0 1,0 {-2 * r},0z",
    lambda x, y, r: (
        f"M{x - r * 0.9:.1f},{y - r * 0.9:.1f}h{1.8 * r:.1f}v{1.8 * r:.1f}h{-1.8 * r:.1f}z"
    ),
    lambda x, y, r: f"M{x:.1f},{y - r * 1.15:.1f}l{r * 1.15:.1f},{2 * r:.1f}h{-2.3 * r:.1f}z",
    lambda x, y, r: (
        f"M{x:.1f},{y - r * 1.25:.1f}l{1.25 * r:.1f},{1.25 * r:.1f}l{-1.25 * r:.1f},{1.25 * r:.1f}"
        f"l{-1.25 * r:.1f},{-1.25 * r:.1f}z"
    ),
)


def run_style(number: int) -> str:
    """Return the classes of a run's lines; from the fifth run on, lines are dashed."""
    repeated = " again" if number >= len(RUN_STYLES) else ""
    return RUN_STYLES[number % len(RUN_STYLES)] + repeated


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a chart.

    Attributes:
        title: Quantity and unit.
        is_log: Whether the axis is logarithmic; its title then says so.
        from_zero: Whether a linear axis begins at 0.
        whole: Whether ticks are whole numbers.
        limits: Ends of the axis; None for those of the values.
    """

    title: str
    is_log: bool = False
    from_zero: bool = False
    whole: bool = False
    limits: tuple[float, float] | None = None

    @property
    def label(self) -> str:
        """The title, with a note on a logarithmic axis."""
        return f"{self.title} (log)" if self.is_log else self.title


@dataclass(frozen=True, kw_only=True)
class Line:
    """A series of a line chart.

    Attributes:
        name: Name at the end of the line.
        style: Class of its colour: that of a run, or of ink.
        x: Horizontal positions; on a logarithmic axis above 0.
        y: Values; a value that is not finite, or not above 0 on a logarithmic axis, is a gap.
        dotted: Whether it is a second measure of a run: dotted, without marker and name.
        marker: Number of the run, which selects the marker at the end; None for no marker.
    """

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]
    dotted: bool = False
    marker: int | None = None


@dataclass(frozen=True)
class _Scale:
    """A map from values to pixels.

    Attributes:
        low: Value at the beginning of the axis.
        high: Value at its end.
        first: Pixel at the beginning.
        last: Pixel at the end.
        is_log: Whether the map is logarithmic.
    """

    low: float
    high: float
    first: float
    last: float
    is_log: bool

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.first + (value - low) / (high - low) * (self.last - self.first)


class _Point(NamedTuple):
    """A point of a line.

    Attributes:
        number: Its place among the values of the line.
        x: Horizontal position.
        y: Value.
    """

    number: int
    x: float
    y: float


def line_chart(
    lines: Sequence[Line], x: Axis, y: Axis, *, width: int = WIDE, height: int = 330
) -> Html:
    """Return a line chart, wide and narrow.

    Args:
        lines: Series to draw; dotted ones are drawn first.
        x: Horizontal axis.
        y: Vertical axis.
        width: Width of the wide drawing in pixels.
        height: Height of the wide drawing in pixels.
    """

    def draw(drawn_width: int) -> Html:
        is_narrow = drawn_width == NARROW
        return _line_svg(lines, x, y, drawn_width, min(height, 270) if is_narrow else height)

    return _drawn_twice(draw, width)


def swatch(number: int, *, dotted: bool = False) -> Html:
    """Return the sample of a run's line for legends."""
    style = run_style(number)
    line = tag("path", class_=f"l {style}{' thin' if dotted else ''}", d="M0,6H20")
    marker = None if dotted else _marker(number, 10, 6)
    return tag(
        "svg",
        line,
        marker,
        class_="sw",
        width=20,
        height=12,
        viewBox="0 0 20 12",
        aria_hidden="true",
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a chart of dots.

    Attributes:
        name: Name of the row.
        values: Value of each run; None for no marker.
        control: Value of the grey bar, or None.
        note: Smaller text below the name.
    """

    name: str
    values: Sequence[float | None]
    control: float | None = None
    note: str = ""


def dot_chart(rows: Sequence[Row], runs: Sequence[int], axis: Axis) -> Html:
    """Return a chart with one marker per run in each row, half as wide as the page.

    Args:
        rows: The rows.
        runs: Number of the run of each value, which selects its marker.
        axis: Horizontal axis.
    """
    return _drawn_twice(lambda width: _dot_svg(rows, runs, axis, width), PAIR)


def scatter(
    xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis, *, title: str, style: str = "s1"
) -> Html:
    """Return a square chart of points, whose axes are percentages; it fits into a third."""
    size, left, right, bottom = 272, 36, 14, 34
    across = _Scale(0, 1, left, size - right, is_log=False)
    up = _Scale(0, 1, size - bottom, 44, is_log=False)
    grid = []
    for share in (0.0, 0.5, 1.0):
        label, at, over = f"{share:.0%}".rstrip("%"), f"{up(share):.1f}", f"{across(share):.1f}"
        grid += [
            tag("path", class_="grid", d=f"M{left},{at}H{size - right}"),
            tag(
                "text", label, class_="tk", x=left - 6, y=f"{up(share) + 4:.1f}", text_anchor="end"
            ),
            tag("text", label, class_="tk", x=over, y=size - bottom + 16, text_anchor="middle"),
        ]
    points = "".join(f"M{across(a):.1f},{up(b):.1f}h0" for a, b in zip(xs, ys, strict=True))
    return _drawing(
        tag("text", title, class_="rl", x=0, y=12),
        *grid,
        tag("path", class_="ref", d=f"M{left},{up(1):.1f}L{across(1):.1f},{up(0):.1f}"),
        tag("path", class_=f"pts {style}", d=points),
        tag("text", y.label, class_="at", x=0, y=28),
        tag("text", x.label, class_="at", x=size - right, y=size - 2, text_anchor="end"),
        label=f"{title}: {y.title} over {x.title}",
        width=size,
        height=size,
    )


def label_map(labels: Sequence[str], xs: Sequence[float], ys: Sequence[float]) -> Html:
    """Return labels at their places in a plane, wide and narrow.

    A label that would cover an earlier one is a point.
    """
    return _drawn_twice(lambda width: _label_svg(labels, xs, ys, width), 544)


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Values between 0 and 1 in rows and columns.

    Attributes:
        rows: Name of each row.
        columns: Name of each column.
        bins: Step of the scale of each cell, 0 to 7, by rows.
        texts: Text of each cell, which is written where all texts have enough space; None for no
            texts.
        row_title: What a row stands for.
        column_title: What a column stands for.
        diagonal: Number of cells of the diagonal that are outlined, from the first one.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    bins: Sequence[Sequence[int]]
    texts: Sequence[Sequence[str]] | None = None
    row_title: str
    column_title: str
    diagonal: int = 0


def matrix_chart(matrix: Matrix, *, width: int = WIDE) -> Html:
    """Return a chart of cells that are coloured by their steps, wide and narrow."""
    return _drawn_twice(lambda width: _matrix_svg(matrix, width), width)


def share_bar(shares: Sequence[float]) -> Html:
    """Return a bar that is divided into shares of its width, the first one darkest."""
    left = 0.0
    rectangles = []
    for number, share in enumerate(shares):
        style = "q" + "abcd"[number % 4]
        x, width = f"{left * WIDE:.1f}", f"{max(0.0, share * WIDE - 1):.1f}"
        rectangles.append(tag("rect", class_=style, x=x, y=0, width=width, height=14))
        left += share
    return tag(
        "svg", *rectangles, viewBox=f"0 0 {WIDE} 14", width=WIDE, height=14, aria_hidden="true"
    )


def ticks(low: float, high: float, count: int = 5, *, whole: bool = False) -> list[float]:
    """Return about `count` round numbers from `low` to `high`.

    >>> ticks(0, 72)
    [0, 20, 40, 60]
    >>> ticks(1.93, 3.7)
    [2.0, 2.5, 3.0, 3.5]
    """
    step = _round_step((high - low) / max(1, count), whole=whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, or 1, 2 and 5 times powers of ten where there are few.

    >>> log_ticks(1, 1000)
    [1.0, 10.0, 100.0, 1000.0]
    >>> log_ticks(1, 20)
    [1.0, 2.0, 5.0, 10.0, 20.0]
    """
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    decades = [10.0**power for power in powers]
    inside = [value for value in decades if low * 0.999 <= value <= high * 1.001]
    if len(inside) >= 3:
        return inside[:: -(-len(inside) // 6)]
    fine = [factor * decade for decade in decades for factor in (1, 2, 5)]
    return [value for value in fine if low * 0.999 <= value <= high * 1.001]


def format_tick(value: float, step: float) -> str:
    """Return a tick's label with the decimals that distinguish it from its neighbour.

    >>> format_tick(2, 0.5), format_tick(4000, 1000), format_tick(0.00001, 0)
    ('2.0', '4,000', '10⁻⁵')
    """
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return format_number(value, 1).removeprefix("1·")
    if step:
        return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    return f"{value:,g}"


def format_number(value: float, digits: int = 3) -> str:
    """Return a number with at most `digits` digits, and a large one in full.

    >>> format_number(52961.3), format_number(0.0021), format_number(4.806e-07)
    ('52,961', '0.0021', '4.81·10⁻⁷')
    >>> format_number(999.7), format_number(123.4, 2)
    ('1,000', '123')
    """
    # From here on, `g` would write an exponent: 1e+03.
    is_large = abs(value) >= 10**digits - 0.5
    if value == 0 or not math.isfinite(value) or (abs(value) >= 1e-3 and not is_large):
        return f"{value:.{digits}g}"
    if is_large and abs(value) < 1e6:
        return f"{value:,.0f}"
    factor, power = f"{value:.{digits - 1}e}".split("e")
    return f"{factor}·10{str(int(power)).translate(_SUPERSCRIPTS)}"


def _round_step(step: float, *, whole: bool) -> float:
    """Return 1, 2 or 5 times a power of ten that is at least `step`."""
    if step <= 0 or not math.isfinite(step):
        return 1
    power = 10.0 ** math.floor(math.log10(step))
    rounded = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
    return max(1, round(rounded)) if whole or rounded >= 1 else rounded


def _drawing(
    *elements: Html | None,
    label: str,
    width: int,
    height: int,
    style: str = "chart",
    attributes: Mapping[str, object] | None = None,
) -> Html:
    """Return a drawing of elements, with a label for screen readers."""
    return tag(
        "svg",
        *elements,
        class_=style,
        role="img",
        aria_label=label,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        attributes=attributes,
    )


def _drawn_twice(draw: Callable[[int], Html], width: int) -> Html:
    """Return a drawing of a width in pixels, and a narrow one for phones."""
    return join(tag("div", draw(width), class_="wide"), tag("div", draw(NARROW), class_="narrow"))


def _dot_svg(rows: Sequence[Row], runs: Sequence[int], axis: Axis, width: int) -> Html:
    row_height, top = (42 if any(row.note for row in rows) else 30), 8
    left = 16 + _NAME_WIDTH * max((max(len(row.name), len(row.note)) for row in rows), default=0)
    bottom = top + row_height * len(rows)
    given = [at for row in rows for at in (*row.values, row.control) if at is not None]
    across = _scale(given, axis, min(left, width / 2), width - 12)
    elements: list[Html | None] = []
    for value, label in _labels(across, axis, count=5):
        at = f"{across(value):.1f}"
        elements.append(tag("path", class_="grid", d=f"M{at},{top}V{bottom}"))
        elements.append(tag("text", label, class_="tk", x=at, y=bottom + 16, text_anchor="middle"))
    for number, row in enumerate(rows):
        elements += _dot_row(row, runs, across, top + row_height * (number + 0.5))
    elements.append(
        tag("text", axis.label, class_="at", x=width - 12, y=bottom + 34, text_anchor="end")
    )
    names = ", ".join(row.name for row in rows)
    return _drawing(*elements, label=f"{axis.title}: {names}", width=width, height=bottom + 38)


def _dot_row(row: Row, runs: Sequence[int], across: _Scale, y: float) -> list[Html | None]:
    name_y = y - 3 if row.note else y + 4
    note = tag("text", row.note, class_="tk", x=0, y=f"{y + 11:.1f}") if row.note else None
    places = [
        (run, across(value))
        for run, value in zip(runs, row.values, strict=True)
        if value is not None
    ]
    ends = [x for _, x in places]
    span = f"M{min(ends):.1f},{y:.1f}H{max(ends):.1f}" if len(ends) > 1 else None
    control = None if row.control is None else f"M{across(row.control):.1f},{y - 7:.1f}v14"
    return [
        tag("text", row.name, class_="rl", x=0, y=f"{name_y:.1f}"),
        note,
        tag("path", class_="span", d=span) if span else None,
        tag("path", class_="ctl", d=control) if control else None,
        *(_marker(run, x, y) for run, x in places),
    ]


class _Grid(NamedTuple):
    """The cells of a drawn matrix.

    Attributes:
        left: Left edge in pixels.
        top: Upper edge.
        across: Width of a cell.
        down: Height of a cell.
    """

    left: float
    top: float
    across: float
    down: float

    def cell(self, row: int, column: int) -> str:
        """Return the outline of a cell as a part of a path."""
        x, y = self.left + column * self.across, self.top + row * self.down
        return f"M{x:.1f},{y:.1f}h{self.across:.1f}v{self.down:.1f}h{-self.across:.1f}z"


def _matrix_svg(matrix: Matrix, width: int) -> Html:
    longest = max(map(len, matrix.rows), default=1)
    left = min(0.34 * width, 12 + _NAME_WIDTH * longest)
    across = min(_MAX_CELL, (width - left - 2) / max(1, len(matrix.columns)))
    grid = _Grid(left, 24, across, max(_MIN_CELL, min(across, 28.0)))
    bottom = grid.top + grid.down * len(matrix.rows)
    columns, depth = _column_names(matrix.columns, grid, bottom)
    right = left + across * len(matrix.columns)
    frame = f"M{left:.1f},{grid.top}H{right:.1f}V{bottom:.1f}H{left:.1f}z"
    outline = "".join(grid.cell(at, at) for at in range(matrix.diagonal))
    height = round(bottom + depth + 20)
    end = max(right, min(width, _NAME_WIDTH * len(matrix.column_title)))
    return _drawing(
        tag("text", matrix.row_title, class_="at", x=0, y=12),
        *_filled_cells(matrix.bins, grid),
        tag("path", class_="frame", d=frame),
        tag("path", class_="diag", d=outline) if outline else None,
        *_cell_texts(matrix.texts, grid),
        *_row_names(matrix.rows, grid),
        *columns,
        tag(
            "text",
            matrix.column_title,
            class_="at",
            x=f"{end:.1f}",
            y=height - 4,
            text_anchor="end",
        ),
        tag("g", class_="hv"),
        style="chart matrix",
        label=f"{matrix.row_title} by {matrix.column_title}",
        width=width,
        height=height,
        attributes={"data-grid": " ".join(f"{value:.2f}" for value in grid)},
    )


def _filled_cells(bins: Sequence[Sequence[int]], grid: _Grid) -> list[Html]:
    """Return one path for each step of the scale that has a colour."""
    paths: dict[int, list[str]] = {}
    for row, steps in enumerate(bins):
        for column, step in enumerate(steps):
            if step:
                paths.setdefault(step, []).append(grid.cell(row, column))
    return [
        tag("path", class_=f"c{step}", d="".join(cells)) for step, cells in sorted(paths.items())
    ]


def _cell_texts(texts: Sequence[Sequence[str]] | None, grid: _Grid) -> list[Html]:
    longest = max((len(text) for row in texts or () for text in row), default=0)
    if texts is None or _TICK_WIDTH * longest + 2 > grid.across:
        return []
    return [
        tag(
            "text",
            text,
            class_="ct",
            x=f"{grid.left + (column + 0.5) * grid.across:.1f}",
            y=f"{grid.top + (row + 0.5) * grid.down + 4:.1f}",
            text_anchor="middle",
        )
        for row, line in enumerate(texts)
        for column, text in enumerate(line)
        if text
    ]


def _row_names(rows: Sequence[str], grid: _Grid) -> list[Html]:
    most = int((grid.left - 10) / _NAME_WIDTH + 0.01)
    return [
        tag(
            "text",
            _cut(name, most),
            class_="tk mono",
            x=f"{grid.left - 6:.1f}",
            y=f"{grid.top + (row + 0.5) * grid.down + 4:.1f}",
            text_anchor="end",
        )
        for row, name in enumerate(rows)
    ]


def _column_names(columns: Sequence[str], grid: _Grid, bottom: float) -> tuple[list[Html], float]:
    """Return the names below the columns, upright if all are short, and the height they need."""
    longest = max(map(len, columns), default=1)
    is_upright = _NAME_WIDTH * longest <= grid.across
    most = longest if is_upright else min(longest, _MAX_COLUMN_NAME)
    names = []
    for column, name in enumerate(columns):
        x, y = grid.left + (column + 0.5) * grid.across, bottom + (15 if is_upright else 6)
        turned = None if is_upright else f"rotate(-90 {x + 4:.1f} {y:.1f})"
        names.append(
            tag(
                "text",
                _cut(name, most),
                class_="tk mono",
                x=f"{x if is_upright else x + 4:.1f}",
                y=f"{y:.1f}",
                text_anchor="middle" if is_upright else "end",
                transform=turned,
            )
        )
    return names, 20 if is_upright else 12 + _NAME_WIDTH * most


def _cut(name: str, most: int) -> str:
    """Return a name with at most a number of characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _label_svg(labels: Sequence[str], xs: Sequence[float], ys: Sequence[float], width: int) -> Html:
    across = _scale(xs, Axis(title=""), 20, width - 24)
    up = _scale(ys, Axis(title=""), width - 20, 20)
    elements = []
    boxes: list[tuple[float, float, float]] = []  # Middle and half the width of each written label.
    for number, (label, x, y) in enumerate(zip(labels, xs, ys, strict=True)):
        half = _LABEL_WIDTH * len(label) / 2
        place = across(x), up(y), half
        is_free = not any(
            abs(place[0] - other[0]) < half + other[2] and abs(place[1] - other[1]) < _LABEL_HEIGHT
            for other in boxes
        )
        if is_free:
            boxes.append(place)
        written = max(10.0, half + 4) if is_free else 6.0
        box = tag("rect", class_="eh", x=-written, y=-15, width=2 * written, height=22)
        name = tag("text", label if is_free else "·", class_="et", text_anchor="middle")
        moved = f"translate({place[0]:.1f},{place[1]:.1f})"
        elements.append(
            tag("g", box, name, class_="e", transform=moved, attributes={"data-i": number})
        )
    return _drawing(*elements, label="Embeddings in two dimensions", width=width, height=width)


def _line_svg(lines: Sequence[Line], x: Axis, y: Axis, width: int, height: int) -> Html:
    points = [_drawable(line, x, y) for line in lines]
    named = [line.name for line in lines if not line.dotted]
    right = 12 + min(0.3 * width, _BOLD_WIDTH * max(map(len, named), default=0))
    up = _scale([point.y for line in points for point in line], y, height - _BOTTOM, _TOP)
    widest = max((len(label) for _, label in _labels(up, y, count=5)), default=0)
    left = max(_LEFT, 8 + _TICK_WIDTH * widest)
    across = _scale([point.x for line in points for point in line], x, left, width - right)
    order = sorted(range(len(lines)), key=lambda number: not lines[number].dotted)
    paths = [_path(lines[number], number, points[number], across, up) for number in order]
    return _drawing(
        *_axes(across, up, x, y, width, height),
        *paths,
        *_ends(lines, points, across, up, int((right - 12) / _BOLD_WIDTH + 0.01)),
        tag("g", class_="hv"),
        label=f"{y.title} over {x.title}",
        width=width,
        height=height,
    )


def _drawable(line: Line, x: Axis, y: Axis) -> list[_Point]:
    return [
        _Point(number, at, value)
        for number, (at, value) in enumerate(zip(line.x, line.y, strict=True))
        if math.isfinite(at)
        and math.isfinite(value)
        and (at > 0 or not x.is_log)
        and (value > 0 or not y.is_log)
    ]


def _scale(values: Sequence[float], axis: Axis, first: float, last: float) -> _Scale:
    if axis.limits:
        return _Scale(*axis.limits, first, last, is_log=axis.is_log)
    low, high = min(values, default=1.0), max(values, default=1.0)
    if axis.is_log:
        if low == high:
            low, high = low / 2, high * 2
        return _Scale(low, high, first, last, is_log=True)
    if axis.from_zero:
        low = min(0.0, low)
    if low == high:
        low, high = low - (0 if axis.from_zero and low == 0 else 1), high + 1
    is_vertical = first > last
    margin = 0.03 * (high - low) if is_vertical else 0.0
    lowest = low if axis.from_zero and low == 0 else low - margin
    return _Scale(lowest, high + margin, first, last, is_log=False)


def _axes(across: _Scale, up: _Scale, x: Axis, y: Axis, width: int, height: int) -> list[Html]:
    """Return gridlines, ticks and titles."""
    elements = []
    for value, label in _labels(up, y, count=5):
        at = up(value)
        elements.append(
            tag("path", class_="grid", d=f"M{across.first:g},{at:.1f}H{across.last:.1f}")
        )
        elements.append(
            tag(
                "text",
                label,
                class_="tk",
                x=f"{across.first - 7:g}",
                y=f"{at + 4:.1f}",
                text_anchor="end",
            )
        )
    bottom = height - _BOTTOM
    elements.append(tag("path", class_="ax", d=f"M{across.first:g},{bottom}H{across.last:.1f}"))
    for value, label in _labels(across, x, count=5 if width > NARROW else 3):
        at = across(value)
        elements.append(tag("path", class_="ax", d=f"M{at:.1f},{bottom}v4"))
        elements.append(
            tag("text", label, class_="tk", x=f"{at:.1f}", y=bottom + 17, text_anchor="middle")
        )
    elements.append(tag("text", y.label, class_="at", x=0, y=12))
    elements.append(
        tag("text", x.label, class_="at", x=f"{across.last:.1f}", y=height - 3, text_anchor="end")
    )
    return elements


def _labels(scale: _Scale, axis: Axis, *, count: int) -> list[tuple[float, str]]:
    if axis.is_log:
        return [(value, format_tick(value, 0)) for value in log_ticks(scale.low, scale.high)]
    values = ticks(scale.low, scale.high, count, whole=axis.whole)
    step = values[1] - values[0] if len(values) > 1 else 0
    return [(value, format_tick(value, step)) for value in values]


def _path(
    line: Line, number: int, points: Sequence[_Point], across: _Scale, up: _Scale
) -> Html | None:
    if not points:
        return None
    drawn = "L".join(f"{across(point.x):.1f},{up(point.y):.1f}" for point in points)
    style = f"l {line.style}{' thin' if line.dotted else ''}"
    attributes: dict[str, object] = {"data-s": number}
    if len(points) < len(line.x):  # The script must know which values are missing.
        attributes["data-at"] = " ".join(str(point.number) for point in points)
    return tag("path", class_=style, d=f"M{drawn}", attributes=attributes)


def _ends(
    lines: Sequence[Line],
    points: Sequence[Sequence[_Point]],
    across: _Scale,
    up: _Scale,
    most: int,
) -> list[Html]:
    """Return the marker and the name at the end of each line; names do not overlap.

    Args:
        lines: The lines.
        points: Points of each line.
        across: Horizontal scale.
        up: Vertical scale.
        most: Number of characters for which there is space; a longer name is cut.
    """
    ends = [
        (up(line_points[-1].y), across(line_points[-1].x), line)
        for line, line_points in zip(lines, points, strict=True)
        if line_points and not line.dotted
    ]
    ends.sort(key=lambda end: end[0])
    elements = []
    heights = spread_names([y + 4 for y, _, _ in ends], lowest=up.first + 2)
    for (y, x, line), height in zip(ends, heights, strict=True):
        if line.marker is not None:
            elements.append(_marker(line.marker, x, y))
        at = f"{across.last + 8:.1f}"
        elements.append(
            tag("text", _cut(line.name, most), class_=f"dl {line.style}", x=at, y=f"{height:.1f}")
        )
    return elements


def spread_names(heights: Sequence[float], *, lowest: float) -> list[float]:
    """Move names apart so that none overlaps another and none is below the axis.

    Args:
        heights: Baselines in pixels from the top, ascending.
        lowest: Largest baseline.

    >>> spread_names([10, 90, 100, 100], lowest=102)
    [10, 72.0, 87.0, 102]
    """
    apart: list[float] = []
    for height in heights:
        apart.append(max(height, apart[-1] + _NAME_HEIGHT) if apart else height)
    for number in reversed(range(len(apart))):
        below = apart[number + 1] - _NAME_HEIGHT if number + 1 < len(apart) else lowest
        apart[number] = min(apart[number], below)
    return apart


def _marker(number: int, x: float, y: float) -> Html:
    path = _MARKERS[number % len(_MARKERS)](x, y, 3.4)
    return tag("path", class_=f"m {run_style(number)}", d=path)
