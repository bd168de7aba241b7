"""What all charts use: widths, frames, the marker and colour of each run."""

from collections.abc import Callable, Mapping, Sequence

from charlm.views.html import Html, join, tag

RUN_STYLES = ("s1", "s2", "s3", "s4")  # Colours of runs, which have markers too.
INK_STYLES = ("k1", "k2", "k3")  # Lines that do not stand for a run.
WIDE, PAIR, NARROW = 880, 420, 358  # Widths in pixels.
# Pixels per character of the name of a row, and of the label of a tick.
NAME_WIDTH = 7.4
TICK_WIDTH = 8.0
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


def swatch(number: int) -> Html:
    """Return the sample of a run's line for legends."""
    return tag(
        "svg",
        tag("path", class_=f"l {run_style(number)}", d="M0,6H20"),
        run_marker(number, 10, 6),
        class_="sw",
        width=20,
        height=12,
        viewBox="0 0 20 12",
        aria_hidden="true",
    )


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


def drawing(
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


def drawn_twice(draw: Callable[[int], Html], width: int) -> Html:
    """Return a drawing of a width in pixels, and a narrow one for phones."""
    return join(tag("div", draw(width), class_="wide"), tag("div", draw(NARROW), class_="narrow"))


def run_marker(number: int, x: float, y: float) -> Html:
    """Return the marker of a run at a place in pixels."""
    path = _MARKERS[number % len(_MARKERS)](x, y, 3.4)
    return tag("path", class_=f"m {run_style(number)}", d=path)


def cut(name: str, most: int) -> str:
    """Return a name with at most a number of characters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
