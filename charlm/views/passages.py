"""Passages whose tokens are coloured."""

from collections.abc import Sequence

from charlm.views.html import Html, join, show_invisible, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import NEEDS_SCRIPT, listed, slider

SURPRISAL_EDGES = (0, 0.5, 1, 2, 3, 4, 5, 7)  # Bits.
MEMORY_EDGES = (0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)  # Fractions of the row's maximum.
HINT = tag(
    "p",
    "Point at, tap or use the arrow keys on the passage. Click or Enter keeps a place, Esc "
    "releases it.",
    class_="hint",
    **NEEDS_SCRIPT,
)


def describe_direction(runs: Sequence[RunMeasurements]) -> str:
    """Return a sentence about the runs that read the text from its end, or nothing."""
    names = [run.name for run in runs if run.is_backward]
    if not names:
        return ""
    verb = "read" if len(names) > 1 else "reads"
    return f"{listed(names)} {verb} from the end: a prediction depends on the tokens after it."


def bin_of(value: float, edges: Sequence[float]) -> int:
    """Return the number of the bin of a value, given the lower ends of the bins.

    >>> bin_of(0.4, SURPRISAL_EDGES), bin_of(9, SURPRISAL_EDGES)
    (0, 7)
    """
    return max(number for number, edge in enumerate(edges) if number == 0 or value >= edge)


def visible(text: str) -> str:
    r"""Return a token with visible spaces, line ends and invisible characters.

    >>> visible(" a\n")
    '␣a↵'
    """
    spaced = text.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return show_invisible(spaced) or "∅"


def coloured_tokens(texts: Sequence[str], styles: Sequence[str]) -> Html:
    """Return the tokens of a passage with their classes; line ends are visible."""
    elements = []
    for text, style in zip(texts, styles, strict=True):
        ends_line = text.endswith("\n")
        classes = f"{style} nl".strip() if ends_line else style
        elements.append(tag("i", text.replace("\n", "↵"), class_=classes or None))
        if ends_line:
            elements.append(Html("\n"))
    return join(*elements)


def passage_slider(key: str, texts: Sequence[str], styles: Sequence[str], label: str) -> Html:
    """Return a coloured passage that is one tab stop, and its text for screen readers."""
    return join(
        tag("p", "Passage: ", "".join(texts), class_="vh"),
        slider(
            key,
            coloured_tokens(texts, styles),
            label=label,
            count=len(texts),
            style="text slider",
        ),
    )
