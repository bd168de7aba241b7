"""Figures of the task `translate`: what the decoder attends to."""

from collections.abc import Sequence

from charlm.tasks.attention import Attention
from charlm.views.figures.drawing import PAIR, WIDE
from charlm.views.matrices import ShareMatrix
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, Part, paragraph, percentage
from charlm.views.passages import visible

_MAX_TOKENS = 40  # Tokens of a source, and of its target, that are drawn.
_PAIR_TOKENS = 16  # A longer source does not fit into half of the page.


def describe_attention(attention: Attention) -> str:
    """Return a sentence about the target token whose attention is most concentrated."""
    peaks = [max(row) for row in attention.weights]
    row = max(range(len(peaks)), key=peaks.__getitem__)
    column = attention.weights[row].index(peaks[row])
    mean = sum(peaks) / len(peaks)
    return (
        f"The largest weight of a row is {percentage(mean)} on average; it is largest for "
        f"{visible(attention.target[row])}, {percentage(peaks[row])} on "
        f"{visible(attention.source[column])}."
    )


def attention_figures(
    run: RunMeasurements, attentions: Sequence[Attention], of_run: str
) -> list[Part]:
    """Return a matrix for each of some texts; those of short sources stand side by side."""
    shown = [
        (attention, _figure(run, number, attention, of_run))
        for number, attention in enumerate(attentions, start=1)
        if attention.source and attention.target
    ]
    short = [figure for attention, figure in shown if _is_short(attention)]
    long = [figure for attention, figure in shown if not _is_short(attention)]
    pairs = [tuple(short[at : at + 2]) for at in range(0, len(short) - 1, 2)]
    return [*pairs, *short[2 * len(pairs) :], *long]


def _is_short(attention: Attention) -> bool:
    return len(attention.source) <= _PAIR_TOKENS


def _beginning(attention: Attention) -> Attention:
    """Return the weights of the first tokens."""
    return Attention(
        source=attention.source[:_MAX_TOKENS],
        target=attention.target[:_MAX_TOKENS],
        weights=[row[:_MAX_TOKENS] for row in attention.weights[:_MAX_TOKENS]],
    )


def _figure(run: RunMeasurements, number: int, attention: Attention, of_run: str) -> Figure:
    drawn = _beginning(attention)
    matrix = ShareMatrix(
        rows=list(map(visible, drawn.target)),
        columns=list(map(visible, drawn.source)),
        shares=drawn.weights,
        values=[[percentage(weight) for weight in row] for row in drawn.weights],
        row_title="written",
        column_title="source",
        at=(0, drawn.weights[0].index(max(drawn.weights[0]))),
        width=PAIR if _is_short(attention) else WIDE,
    )
    rows = [
        [row + 1, target, column + 1, source, attention.weights[row][column]]
        for row, target in enumerate(attention.target)
        for column, source in enumerate(attention.source)
    ]
    head = ["target position", "target", "source position", "source", "weight"]
    return Figure(
        key=f"attention-{run.number + 1}-{number}",
        title=f"Attention, example {number}{of_run}",
        findings=paragraph(
            describe_attention(attention),
            "" if drawn == attention else f"Drawn: at most {_MAX_TOKENS} tokens of each text.",
        ),
        body=matrix.body,
        numbers=Numbers.of_rows(head, rows),
        data=matrix.data,
    )
