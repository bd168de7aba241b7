"""Sections "Context length", "Embeddings" and "Agreement"."""

import math
from collections.abc import Sequence
from typing import Any

from charlm.evaluation.probes.agreement import Agreement
from charlm.evaluation.probes.context import Context
from charlm.evaluation.probes.embeddings import EmbeddedToken, Embeddings
from charlm.evaluation.probes.gradients import Curve, Gradients
from charlm.views.figures import PAIR, Axis, Line, label_map, line_chart, run_style
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    Figure,
    Numbers,
    Section,
    bar_rows,
    fact_list,
    legend,
    listed,
    paragraph,
)
from charlm.views.passages import visible

_FLAT = 0.01  # Nats: a smaller gain is not worth a longer context.


def context_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs whose context or gradients were measured."""
    contexts = [(run, run.context) for run in runs if isinstance(run.context, Context)]
    gradients = [(run, run.gradients) for run in runs if isinstance(run.gradients, Gradients)]
    parts: list[Figure | tuple[Figure, ...]] = []
    if contexts:
        parts.append(_context_figure(contexts))
    if gradients:
        parts.append(_gradients_figure(gradients))
    return Section("context", "Context length", parts)


def describe_context(name: str, context: Context) -> str:
    """Return a sentence about the number of tokens from which on more context does not help."""
    rows = context.contexts
    useful = [row.context for row in rows if row.gain_nats is not None and row.gain_nats >= _FLAT]
    if not useful:
        return f"{name}: more context than {rows[0].context} tokens does not lower the loss."
    return (
        f"{name}: the loss falls by at least {_FLAT} nats with each step up to {max(useful):,} "
        f"tokens, to {rows[-1].loss_nats:.3f} nats per token at {rows[-1].context:,}."
    )


def describe_half_life(name: str, curve: Curve) -> str:
    """Return a sentence about how fast a gradient falls with distance."""
    if math.isinf(curve.half_life_tokens):
        return f"{name}: the gradient does not fall with distance."
    return f"{name}: the gradient halves every {curve.half_life_tokens:.1f} tokens."


def top_curve(gradients: Gradients) -> Curve:
    """Return the curve of the hidden state of the last layer of the forward direction."""
    hidden = [
        curve
        for curve in gradients.curves
        if curve.part == "hidden" and not curve.layer.startswith("backward")
    ]
    return hidden[-1]


def _context_figure(contexts: Sequence[tuple[RunMeasurements, Context]]) -> Figure:
    lines, values = [], []
    for number, (run, context) in enumerate(contexts):
        lengths = [row.context for row in context.contexts]
        losses = [row.loss_nats for row in context.contexts]
        lines.append(
            Line(name=run.name, style=run_style(number), x=lengths, y=losses, marker=number)
        )
        values.append([f"{loss:.3f}" for loss in losses])
    longest = max(contexts, key=lambda pair: len(pair[1].contexts))[1]
    heads = [f"{row.context:,} tokens" for row in longest.contexts]
    chart = line_chart(
        lines,
        Axis(title="context tokens", is_log=True),
        Axis(title="nats per token"),
    )
    rows = [
        [run.name, row.context, row.loss_nats, row.gain_nats, row.standard_error]
        for run, context in contexts
        for row in context.contexts
    ]
    return Figure(
        key="context",
        title="Loss by context length",
        findings=paragraph(
            *(describe_context(run.name, context) for run, context in contexts),
            "The state is the initial one before each context.",
        ),
        body=join(
            legend(
                [run.name for run, _ in contexts],
                at=heads[-1],
                values=[row[-1] for row in values],
            ),
            tag("div", chart, class_="plot"),
        ),
        numbers=Numbers(
            ["run", "context tokens", "nats per token", "gain", "standard error"], _columns(rows)
        ),
        data={"head": heads, "v": values, "at": len(heads) - 1},
    )


def _gradients_figure(gradients: Sequence[tuple[RunMeasurements, Gradients]]) -> Figure:
    curves = [(run, top_curve(result)) for run, result in gradients]
    lines, values = [], []
    for number, (run, curve) in enumerate(curves):
        first = next((row.mean for row in curve.distances if row.mean > 0), 1.0)
        relative = [row.mean / first for row in curve.distances]
        lines.append(
            Line(
                name=run.name,
                style=run_style(number),
                x=[row.distance for row in curve.distances],
                y=relative,
                marker=number,
            )
        )
        values.append([f"{value:.2g}" for value in relative])
    longest = max((curve for _, curve in curves), key=lambda curve: len(curve.distances))
    heads = [f"distance {row.distance}" for row in longest.distances]
    chart = line_chart(
        lines,
        Axis(title="distance in tokens", whole=True),
        Axis(title="gradient norm relative to distance 0", is_log=True),
    )
    at = min(16, len(heads) - 1)
    rows = [
        [run.name, row.distance, row.mean, row.quantile_10, row.quantile_50, row.quantile_90]
        for run, curve in curves
        for row in curve.distances
    ]
    return Figure(
        key="gradient-by-distance",
        title="Gradient norm by distance",
        findings=paragraph(
            "Norm of the gradient of a token's loss with respect to an earlier hidden state.",
            *(describe_half_life(run.name, curve) for run, curve in curves),
        ),
        body=join(
            legend(
                [run.name for run, _ in curves],
                at=heads[at],
                values=[row[min(at, len(row) - 1)] for row in values],
            ),
            tag("div", chart, class_="plot"),
        ),
        numbers=Numbers(
            ["run", "distance", "mean norm", "10 % quantile", "median", "90 % quantile"],
            _columns(rows),
        ),
        data={"head": heads, "v": values, "at": at},
    )


def embeddings_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for the first run that has embeddings."""
    run, embeddings = next(
        (run, run.embeddings) for run in runs if isinstance(run.embeddings, Embeddings)
    )
    labels = [visible(token.label) for token in embeddings.tokens]
    explained = sum(embeddings.variance)
    figure = Figure(
        key="embeddings",
        title=f"Embeddings of the {len(labels)} most frequent tokens, {run.name}",
        findings=(
            f"The first two principal components hold {explained:.0%} of the variance of "
            f"{embeddings.size} dimensions, so near tokens may be far apart in the others. The "
            "panel lists the nearest tokens in all dimensions."
        ),
        body=tag(
            "div",
            tag(
                "div",
                label_map(
                    labels,
                    [token.x for token in embeddings.tokens],
                    [token.y for token in embeddings.tokens],
                ),
                id="p-embeddings",
                class_="slider",
                tabindex=0,
                role="slider",
                aria_label="Token",
                aria_valuemin=1,
                aria_valuemax=len(labels),
                aria_valuenow=1,
            ),
            _panel(embeddings.tokens[0]),
            class_="split",
        ),
        numbers=Numbers(
            ["token", "count", "component 1", "component 2", "nearest"],
            [
                labels,
                [token.count for token in embeddings.tokens],
                [round(token.x, 4) for token in embeddings.tokens],
                [round(token.y, 4) for token in embeddings.tokens],
                [
                    " ".join(visible(other.label) for other in token.neighbours)
                    for token in embeddings.tokens
                ],
            ],
        ),
        data={
            "label": labels,
            "count": [token.count for token in embeddings.tokens],
            "near": [
                [[visible(other.label), round(other.cosine, 5)] for other in token.neighbours]
                for token in embeddings.tokens
            ],
        },
    )
    return Section("embeddings", "Embeddings", [figure])


def _panel(token: EmbeddedToken) -> Html:
    """Return the panel for one token."""
    near = [(visible(other.label), other.cosine) for other in token.neighbours]
    return tag(
        "div",
        tag("h4", "Token ", tag("code", visible(token.label))),
        fact_list({"in the training text": f"{token.count:,}"}),
        tag("div", "Nearest by cosine, all dimensions", class_="mut"),
        tag("ol", *bar_rows(near, write="{:.2f}".format), class_="bars"),
        class_="panel",
        id="panel-embeddings",
        aria_live="polite",
    )


def agreement_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs that were trained on the corpus agreement."""
    shown = [(run, run.agreement) for run in runs if isinstance(run.agreement, Agreement)]
    by_distance = [result.by_distance for _, result in shown]
    by_nouns = [result.by_nouns for _, result in shown]
    names = [run.name for run, _ in shown]
    accuracies = [f"{run.name} {result.accuracy:.1%}" for run, result in shown]
    figures = (
        _agreement_figure(
            names,
            by_distance,
            field="distance_from",
            quantity="words from subject to verb",
            findings=f"Verbs that agree with their subject: {listed(accuracies)}.",
        ),
        _agreement_figure(
            names,
            by_nouns,
            field="nouns",
            quantity="nouns between subject and verb",
            findings="A guess is right in half of the pairs.",
        ),
    )
    return Section("agreement", "Agreement", [figures])


def _agreement_figure(
    names: Sequence[str],
    tables: Sequence[list[dict[str, Any]]],
    *,
    field: str,
    quantity: str,
    findings: str,
) -> Figure:
    lines = [
        Line(
            name=name,
            style=run_style(number),
            x=[row[field] for row in table],
            y=[100 * row["accuracy"] for row in table],
            marker=number,
        )
        for number, (name, table) in enumerate(zip(names, tables, strict=True))
    ]
    key = f"agreement-by-{field}"
    axis = Axis(title="% correct", from_zero=True)
    chart = line_chart(lines, Axis(title=quantity, whole=True), axis, width=PAIR, height=260)
    values = [[f"{100 * row['accuracy']:.1f} %" for row in table] for table in tables]
    heads = [f"{row[field]}" for row in tables[0]]
    rows = [
        [name, row[field], row["count"], row["accuracy"]]
        for name, table in zip(names, tables, strict=True)
        for row in table
    ]
    return Figure(
        key=key,
        title=f"Agreement by {quantity}",
        findings=findings,
        body=join(
            legend(names, at=heads[-1], values=[row[-1] for row in values]),
            tag("div", chart, class_="plot"),
        ),
        numbers=Numbers(["run", quantity, "pairs", "accuracy"], _columns(rows)),
        data={"head": heads, "v": values, "at": len(heads) - 1},
    )


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
