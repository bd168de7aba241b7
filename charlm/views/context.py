"""Section "Context length": how much context is used, and how far back the gradient reaches."""

import math
from collections.abc import Mapping, Sequence

from charlm.errors import counted
from charlm.evaluation.probes.context import Context
from charlm.evaluation.probes.gradients import Curve, Gradients
from charlm.views.charts import Chart, Series
from charlm.views.figures.axes import Axis
from charlm.views.figures.numbers import format_number
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, Part, Section, listed, paragraph, per_run

_FLAT = 0.01  # Nats: a smaller gain is not worth a longer context.
_READ_OUT_DISTANCE = 16  # In tokens.


def context_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section for runs whose context or gradients were measured."""
    contexts = [(run, run.context) for run in runs if isinstance(run.context, Context)]
    gradients = [(run, run.gradients) for run in runs if isinstance(run.gradients, Gradients)]
    parts: list[Part] = []
    if contexts:
        parts.append(_context_figure(contexts))
    if gradients:
        parts.append(_gradients_figure(gradients))
    return Section("context", "Context length", parts)


def describe_context(contexts: Mapping[str, Context]) -> str:
    """Return sentences about the length from which on more context does not help.

    Args:
        contexts: Result of each run, by its name.
    """
    useful = {
        name: [row.context for row in context.contexts if (row.gain_nats or 0) >= _FLAT]
        for name, context in contexts.items()
    }
    longest = {name: f"{max(lengths):,}" for name, lengths in useful.items() if lengths}
    flat = [name for name, lengths in useful.items() if not lengths]
    return paragraph(
        f"Longest context that lowers the loss by {_FLAT} nats against the length before it: "
        f"{per_run(longest)} tokens."
        if longest
        else "",
        f"No context longer than 1 token does so in {listed(flat)}." if flat else "",
    )


def describe_half_lives(curves: Mapping[str, Curve]) -> str:
    """Return sentences about how fast the gradient of each run falls with distance."""
    half_lives = {name: curve.half_life_tokens for name, curve in curves.items()}
    falling = {name: f"{value:.1f}" for name, value in half_lives.items() if 0 < value < math.inf}
    constant = [name for name, value in half_lives.items() if value == math.inf]
    zero = [name for name, value in half_lives.items() if value == 0]
    return paragraph(
        f"Tokens over which it halves: {per_run(falling)}." if falling else "",
        f"It does not fall with distance in {listed(constant)}." if constant else "",
        f"It is 0 beyond distance 0 in {listed(zero)}." if zero else "",
    )


def describe_certainty(gradients: Mapping[str, Gradients]) -> str:
    """Return a warning about runs that are certain of the tokens that were measured, or nothing."""
    certain = [name for name, result in gradients.items() if result.is_certain]
    if not certain:
        return ""
    return (
        f"Most of these tokens have a loss near 0 in {listed(certain)}: there the norms say that "
        "the network is certain, and nothing about its recurrence."
    )


def top_curve(gradients: Gradients) -> Curve:
    """Return the curve of the hidden state of the last layer of the forward direction."""
    hidden = [
        curve
        for curve in gradients.curves
        if curve.part == "hidden" and not curve.layer.startswith("backward")
    ]
    return hidden[-1]


def _context_figure(contexts: Sequence[tuple[RunMeasurements, Context]]) -> Figure:
    longest = max((context.contexts for _, context in contexts), key=len)
    chart = Chart(
        series=[
            Series(
                run=run,
                x=[row.context for row in context.contexts],
                y=[row.loss_nats for row in context.contexts],
            )
            for run, context in contexts
        ],
        x=Axis(title="context tokens", is_log=True),
        y=Axis(title="nats per token"),
        heads=[counted(row.context, "token") for row in longest],
        write="{:.3f}".format,
        at=-1,
        is_wide=True,
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
            "The state is reset, the network reads N tokens, and the next one is scored.",
            describe_context({run.name: context for run, context in contexts}),
        ),
        body=chart.body,
        numbers=Numbers.of_rows(
            ["run", "context tokens", "nats per token", "gain", "standard error"], rows
        ),
        data=chart.data,
    )


def _gradients_figure(gradients: Sequence[tuple[RunMeasurements, Gradients]]) -> Figure:
    curves = [(run, top_curve(result)) for run, result in gradients]
    longest = max((curve.distances for _, curve in curves), key=len)
    chart = Chart(
        series=[
            _relative_series(run, curve, measure)
            for measure in ("mean", "median")
            for run, curve in curves
        ],
        x=Axis(title="distance in tokens", whole=True),
        y=Axis(title="gradient norm relative to the mean at distance 0", is_log=True),
        heads=[f"distance {row.distance}" for row in longest],
        write=lambda value: format_number(value, 2),
        at=min(_READ_OUT_DISTANCE, len(longest) - 1),
        is_wide=True,
    )
    rows = [
        [run.name, row.distance, row.mean, row.quantile_10, row.quantile_50, row.quantile_90]
        for run, curve in curves
        for row in curve.distances
    ]
    return Figure(
        key="gradient-by-distance",
        title="Gradient norm by distance",
        findings=paragraph(
            "Norm of the gradient of one token's loss with respect to an earlier hidden state.",
            describe_half_lives({run.name: curve for run, curve in curves}),
            describe_certainty({run.name: result for run, result in gradients}),
        ),
        body=chart.body,
        numbers=Numbers.of_rows(
            ["run", "distance", "mean norm", "10 % quantile", "median", "90 % quantile"], rows
        ),
        data=chart.data,
    )


def _relative_series(run: RunMeasurements, curve: Curve, measure: str) -> Series:
    """Return mean or median norms, divided by the mean at distance 0."""
    first = next((row.mean for row in curve.distances if row.mean > 0), 1.0)
    is_mean = measure == "mean"
    return Series(
        run=run,
        x=[row.distance for row in curve.distances],
        y=[(row.mean if is_mean else row.quantile_50) / first for row in curve.distances],
        measure=measure,
        dotted=not is_mean,
    )
