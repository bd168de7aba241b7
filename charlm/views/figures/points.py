"""Charts of points: dots in rows, a scatter of percentages, a map of labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from charlm.views.figures.axes import Axis, Scale, scale_of, tick_labels
from charlm.views.figures.drawing import NAME_WIDTH, PAIR, drawing, drawn_twice, run_marker
from charlm.views.html import Html, tag

_LABEL_WIDTH, _LABEL_HEIGHT = 8.5, 12.0  # Size of a character in a map of labels, in pixels.


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
    return drawn_twice(lambda width: _dot_svg(rows, runs, axis, width), PAIR)


def scatter(
    xs: Sequence[float], ys: Sequence[float], x: Axis, y: Axis, *, title: str, style: str = "s1"
) -> Html:
    """Return a square chart of points, whose axes are percentages; it fits into a third."""
    size, left, right, bottom = 272, 36, 14, 34
    across = Scale(0, 1, left, size - right, is_log=False)
    up = Scale(0, 1, size - bottom, 44, is_log=False)
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
    return drawing(
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
    return drawn_twice(lambda width: _label_svg(labels, xs, ys, width), 544)


def _dot_svg(rows: Sequence[Row], runs: Sequence[int], axis: Axis, width: int) -> Html:
    row_height, top = (42 if any(row.note for row in rows) else 30), 8
    left = 16 + NAME_WIDTH * max((max(len(row.name), len(row.note)) for row in rows), default=0)
    bottom = top + row_height * len(rows)
    given = [at for row in rows for at in (*row.values, row.control) if at is not None]
    across = scale_of(given, axis, min(left, width / 2), width - 12)
    elements: list[Html | None] = []
    for value, label in tick_labels(across, axis, count=5):
        at = f"{across(value):.1f}"
        elements.append(tag("path", class_="grid", d=f"M{at},{top}V{bottom}"))
        elements.append(tag("text", label, class_="tk", x=at, y=bottom + 16, text_anchor="middle"))
    for number, row in enumerate(rows):
        elements += _dot_row(row, runs, across, top + row_height * (number + 0.5))
    elements.append(
        tag("text", axis.label, class_="at", x=width - 12, y=bottom + 34, text_anchor="end")
    )
    names = ", ".join(row.name for row in rows)
    return drawing(*elements, label=f"{axis.title}: {names}", width=width, height=bottom + 38)


def _dot_row(row: Row, runs: Sequence[int], across: Scale, y: float) -> list[Html | None]:
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
        *(run_marker(run, x, y) for run, x in places),
    ]


def _label_svg(labels: Sequence[str], xs: Sequence[float], ys: Sequence[float], width: int) -> Html:
    across = scale_of(xs, Axis(title=""), 20, width - 24)
    up = scale_of(ys, Axis(title=""), width - 20, 20)
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
    return drawing(*elements, label="Embeddings in two dimensions", width=width, height=width)
