"""Line charts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charlm.views.figures.axes import Axis, Scale, scale_of, tick_labels
from charlm.views.figures.drawing import (
    NARROW,
    TICK_WIDTH,
    WIDE,
    cut,
    drawing,
    drawn_twice,
    run_marker,
)
from charlm.views.html import Html, tag

_LEFT, _TOP, _BOTTOM = 48, 24, 40  # Margins of the plot in pixels; the right one holds names.
_BOLD_WIDTH = 9.0  # Pixels per character of a name at the end of a line, which is bold.
_NAME_HEIGHT = 15.0


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

    return drawn_twice(draw, width)


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


def _line_svg(lines: Sequence[Line], x: Axis, y: Axis, width: int, height: int) -> Html:
    points = [_drawable(line, x, y) for line in lines]
    named = [line.name for line in lines if not line.dotted]
    right = 12 + min(0.41 * width, _BOLD_WIDTH * max(map(len, named), default=0))
    up = scale_of([point.y for line in points for point in line], y, height - _BOTTOM, _TOP)
    widest = max((len(label) for _, label in tick_labels(up, y, count=5)), default=0)
    left = max(_LEFT, 8 + TICK_WIDTH * widest)
    across = scale_of([point.x for line in points for point in line], x, left, width - right)
    order = sorted(range(len(lines)), key=lambda number: not lines[number].dotted)
    paths = [_path(lines[number], number, points[number], across, up) for number in order]
    return drawing(
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


def _axes(across: Scale, up: Scale, x: Axis, y: Axis, width: int, height: int) -> list[Html]:
    """Return gridlines, ticks and titles."""
    elements = []
    for value, label in tick_labels(up, y, count=5):
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
    for value, label in tick_labels(across, x, count=5 if width > NARROW else 3):
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


def _path(
    line: Line, number: int, points: Sequence[_Point], across: Scale, up: Scale
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
    across: Scale,
    up: Scale,
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
            elements.append(run_marker(line.marker, x, y))
        at = f"{across.last + 8:.1f}"
        elements.append(
            tag("text", cut(line.name, most), class_=f"dl {line.style}", x=at, y=f"{height:.1f}")
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
