"""Numbers to SVG: places of points, ticks, contrast of the colours, escaping."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import PAIR, run_style, share_bar, swatch
from charlm.views.figures.lines import Line, line_chart
from charlm.views.figures.numbers import log_ticks, ticks
from charlm.views.figures.points import Row, dot_chart, label_map, scatter
from charlm.views.html import Html, escape, tag
from charlm.views.style import design_tokens


def parse(html: Html) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{html}</div>")


def path_of(html: Html, number: int) -> list[tuple[float, float]]:
    """Return the points of the line with a number in the wide drawing."""
    found = re.search(rf'd="M([^"]*)" data-s="{number}"', html)
    assert found is not None
    return [tuple(map(float, pair.split(","))) for pair in found[1].split("L")]


def line(y, x=None, **options) -> Line:
    x = list(range(len(y))) if x is None else x
    return Line(**{"name": "run", "style": "s1", "x": x, "y": y, "marker": 0} | options)


def test_points_are_at_their_values_on_linear_and_logarithmic_axes():
    html = line_chart([line([0, 5, 10])], Axis(title="x"), Axis(title="y"))
    (x0, y0), (x1, y1), (x2, y2) = path_of(html, 0)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 > y2
    axes = Axis(title="x", is_log=True), Axis(title="y", is_log=True)
    html = line_chart([line([1, 10, 100], x=[1, 10, 100])], *axes)
    (x0, y0), (x1, y1), (x2, y2) = path_of(html, 0)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)


def test_values_that_cannot_be_drawn_are_gaps():
    html = line_chart(
        [line([1, float("nan"), 3, float("inf"), 0, 5])],
        Axis(title="x"),
        Axis(title="y", is_log=True),
    )
    assert len(path_of(html, 0)) == 3


def test_a_single_point_and_equal_values_are_drawn():
    for values in ([2.0], [3.0, 3.0, 3.0], [0.0], [1e304, 1e304]):
        for from_zero in (False, True):
            axis = Axis(title="y", from_zero=from_zero)
            html = line_chart([line(values)], Axis(title="x"), axis)
            assert "nan" not in html, values
            assert len(path_of(html, 0)) == len(values)


def test_an_axis_from_zero_begins_at_zero():
    html = line_chart([line([5, 9])], Axis(title="x"), Axis(title="y", from_zero=True))
    assert ">0<" in html
    assert ">0<" not in line_chart(
        [line([5, 9], x=[1, 2])],
        Axis(title="x"),
        Axis(title="y"),
    )


def test_names_at_the_ends_of_lines_do_not_overlap():
    lines = [line([1, 2 + number / 100], name=f"run {number}") for number in range(4)]
    html = line_chart(lines, Axis(title="x"), Axis(title="y"))
    ys = [float(y) for y in re.findall(r'class="dl s1" x="[\d.]+" y="([\d.]+)"', html)[:4]]
    assert all(later - earlier >= 14 for earlier, later in itertools.pairwise(ys))


def test_names_of_layers_are_whole_on_a_phone():
    layer = line([1, 2], name="backward layer 2")
    html = line_chart([layer], Axis(title="x"), Axis(title="y"), width=PAIR)
    assert html.count(">backward layer 2<") == 2


def test_long_names_and_ticks_stay_inside_the_drawing():
    for name in ("backward", "x" * 60):
        html = line_chart([line([1, 250_000], name=name)], Axis(title="x"), Axis(title="y"))
        for drawing in html.split("<svg")[1:]:
            width = float(re.search(r'width="(\d+)"', drawing)[1])
            x, shown = re.search(r'class="dl s1" x="([\d.]+)"[^>]*>([^<]*)<', drawing).groups()
            assert float(x) + 8.9 * len(shown) <= width, name
            assert shown[:8] == name[:8]
            end, tick = re.search(
                r'x="([\d.]+)"[^>]*text-anchor="end">(200,000)<', drawing
            ).groups()
            assert float(end) >= 7.7 * len(tick)


def test_ticks_are_round_and_inside_their_range():
    for low, high in ((0, 1), (1.93, 3.7), (0, 4721), (-3e-5, 2e-5), (1e5, 1.2e5)):
        values = ticks(low, high)
        assert 2 <= len(values) <= 12, (low, high)
        assert all(low - 1e-9 <= value <= high + 1e-9 for value in values), (low, high)
    assert ticks(0, 3, whole=True) == [0, 1, 2, 3]
    assert all(2 <= len(ticks(6, high, 3)) <= 7 for high in range(8, 600))  # A narrow axis.
    for low, high in ((1, 1000), (1e-8, 1), (3, 8), (0.5, 2.5)):
        values = log_ticks(low, high)
        assert 1 <= len(values) <= 9, (low, high)


def test_every_drawing_is_valid_xml_although_names_are_hostile():
    name = '<script>alert("1")</script>\u202e&'
    drawings = [
        line_chart([line([1, 2], name=name)], Axis(title=name), Axis(title="y")),
        dot_chart(
            [Row(name=name, values=[1.0, None], control=0.5, note=name)], [0, 5], Axis(title=name)
        ),
        scatter([0.1], [0.9], Axis(title="x"), Axis(title="y"), title=name),
        label_map([name, "b", "c"], [0, 1, 2], [2, 1, 0]),
        share_bar([0.5, 0.3, 0.2]),
        swatch(5),
    ]
    for drawing in drawings:
        parse(drawing)
        assert "<script" not in drawing
        assert "\u202e" not in drawing


def test_runs_beyond_the_fourth_repeat_the_colours_with_a_mark():
    assert [run_style(number) for number in (0, 3, 4)] == ["s1", "s4", "s1 again"]


def test_text_is_escaped_and_html_is_not():
    assert escape("\x00\x1b<") == "[U+0000][U+001B]&lt;"
    assert escape(Html("<b>")) == "<b>"
    assert tag("input", checked=True, disabled=False, value=None) == "<input checked>"
    assert tag("p", "a", None, data_x='"') == '<p data-x="&quot;">a</p>'


def luminance(colour: str) -> float:
    """Return the relative luminance of WCAG 2."""
    digits = colour.lstrip("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    linear = []
    for at in (0, 2, 4):
        value = int(digits[at : at + 2], 16) / 255
        linear.append(value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4)
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def themes() -> dict[str, dict[str, str]]:
    """Return the colours of each theme by name."""
    light, dark = design_tokens().split("@media screen and (prefers-color-scheme: dark)")
    read = lambda part: dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6})", part))  # noqa: E731
    return {"light and print": read(light), "dark": read(dark)}


def test_text_has_enough_contrast_on_every_background_in_every_theme():
    for theme, colours in themes().items():
        for ink in ("ink", "ink2", "ink3", "s1", "s2", "s3", "s4"):
            assert contrast(colours[ink], colours["bg"]) >= 4.5, (theme, ink)
        for ink in ("accent", "bad"):
            assert contrast(colours[ink], colours["bg"]) >= 4.5, (theme, ink)
        assert contrast(colours["accent"], colours["accent-bg"]) >= 4.5, theme
        assert contrast(colours["ink2"], colours["surface"]) >= 4.5, theme
        scales = [f"{scale}{step}" for scale in "um" for step in range(8)]
        scales += [f"{sign}{step}" for sign in "np" for step in range(1, 5)]
        scales += [f"t{label}" for label in range(1, 9)]
        for step in scales:
            assert contrast(colours["ink"], colours[step]) >= 4.5, (theme, step)
