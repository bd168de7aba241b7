"""Section "Learning": how the loss fell, whether training was stable, and what the model wrote."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from charlm.errors import counted
from charlm.model.descriptions import part_name
from charlm.views.charts import Chart, Series
from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import INK_STYLES, PAIR
from charlm.views.figures.lines import Line, line_chart
from charlm.views.figures.numbers import format_number
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import (
    Figure,
    Numbers,
    Part,
    Section,
    paragraph,
    per_run,
    percentage,
    radio_buttons,
)

Row = dict[str, Any]
_AXES = {
    "seconds": ("seconds", "seconds of training"),
    "steps": ("step", "optimization steps"),
    "epochs": ("epochs", "passes over the text"),
}
_CLIPPED = 0.001  # Fraction of steps below which clipping is not worth a sentence.


@dataclass(frozen=True)
class _Unit:
    """The unit of losses: bits per character or else nats; perplexity for words; nats for tasks.

    Attributes:
        field: Field of a line of metrics.jsonl.
        title: Name of the unit.
        digits: Digits after the point.
    """

    field: str
    title: str
    digits: int


_BITS = _Unit("bits_per_character", "bits per character", 3)
_PERPLEXITY = _Unit("perplexity", "perplexity per word", 1)
_NATS = _Unit("loss_nats", "nats per token", 4)
_TASK_NATS = _Unit("loss_nats", "nats per predicted token or label", 4)


def learning_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section; runs without an evaluation are left out of its charts."""
    evaluated = [run for run in runs if run.metrics]
    parts: list[Part] = [_loss_figure(evaluated)]
    if all("accuracy" in row for run in evaluated for row in run.metrics):
        parts.append((_accuracy_figure(evaluated), _rate_figure(evaluated)))
        parts.append((_speed_figure(evaluated), _norm_figure(evaluated)))
        parts.append(_group_figure(evaluated[0]))
    else:
        parts.append((_rate_figure(evaluated), _speed_figure(evaluated)))
        parts.append((_norm_figure(evaluated), _group_figure(evaluated[0])))
    sampled = [run for run in runs if run.samples]
    if sampled:
        parts.append(_samples_figure(sampled[0]))
    return Section("curves", "Learning", parts)


def unit_of(runs: Sequence[RunMeasurements]) -> _Unit:
    """Return the unit in which the losses of all runs are shown."""
    if any(run.has_task for run in runs):
        return _TASK_NATS
    if {run.trained.config.tokenizer.level for run in runs} == {"word"}:
        return _PERPLEXITY
    # Bits are not known if the tokens leave something out whose cost cannot be computed.
    are_known = all(row["bits_per_character"] is not None for run in runs for row in run.metrics)
    return _BITS if are_known else _NATS


def training_loss(row: Row, unit: _Unit) -> float:
    """Return the training loss of an evaluation in the unit of the validation loss."""
    if unit in (_NATS, _TASK_NATS):
        return float(row["training_loss_nats"])
    if unit is _PERPLEXITY:
        return math.exp(min(row["training_loss_nats"], 700))
    if row["loss_nats"] == 0:  # The text can be predicted exactly.
        return float(row["training_loss_nats"] / math.log(2))
    return float(row["training_loss_nats"] * row["bits_per_character"] / row["loss_nats"])


def describe_best(runs: Sequence[RunMeasurements]) -> str:
    """Return a sentence about the lowest validation loss of each run."""
    unit = unit_of(runs)
    best = {run.name: min(run.metrics, key=lambda row: row["loss_nats"]) for run in runs}
    scores = {
        name: f"{row[unit.field]:.{unit.digits}f} at step {row['step']:,}"
        for name, row in best.items()
    }
    return f"Lowest loss on the validation split, in {unit.title}: {per_run(scores)}."


def describe_losses(runs: Sequence[RunMeasurements], unit: _Unit) -> str:
    """Return sentences about the last validation loss of each run, and whether it rose."""
    last = {
        run.name: f"{run.metrics[-1][unit.field]:.{unit.digits}f} after "
        f"{counted(round(run.metrics[-1]['seconds']), 'second')}"
        for run in runs
    }
    rose = {}
    for run in runs:
        best = min(run.metrics, key=lambda row: row["loss_nats"])
        if best["loss_nats"] < run.metrics[-1]["loss_nats"]:
            rose[run.name] = f"after step {best['step']:,}"
    return paragraph(
        f"Validation loss in {unit.title}: {per_run(last)}.",
        f"It rose again: {per_run(rose)}." if rose else "",
    )


def describe_clipping(runs: Sequence[RunMeasurements]) -> str:
    """Return a sentence about the fraction of steps whose gradient was clipped."""
    clipped = {}
    for run in runs:
        shares = [row["clipped_share"] for row in run.metrics]
        given = [share for share in shares if share is not None]
        if given and sum(given) / len(given) >= _CLIPPED:
            clipped[run.name] = percentage(sum(given) / len(given))
    if not clipped:
        return f"Fewer than {percentage(_CLIPPED)} of the steps were clipped."
    return f"Steps that were clipped: {per_run(clipped)}."


def describe_rate(runs: Sequence[RunMeasurements]) -> str:
    """Return sentences about the largest and the last learning rate."""
    rates = {run.name: [row["learning_rate"] for row in run.metrics] for run in runs}
    constant = {name: format_number(row[0]) for name, row in rates.items() if len(set(row)) == 1}
    changing = {
        name: f"{format_number(max(row))} and {format_number(row[-1])}"
        for name, row in rates.items()
        if name not in constant
    }
    return paragraph(
        f"The same at every evaluation: {per_run(constant)}." if constant else "",
        f"Largest at an evaluation, and at the last one: {per_run(changing)}." if changing else "",
    )


def tokens_per_second(evaluation: Row) -> float:
    """Return the mean speed of training up to an evaluation."""
    return float(evaluation["tokens"] / max(evaluation["seconds"], 1e-9))


def _loss_figure(runs: Sequence[RunMeasurements]) -> Figure:
    unit = unit_of(runs)
    charts = {axis: _loss_chart(runs, unit, axis) for axis in _AXES}
    drawings = [
        tag("div", chart.drawing, class_="plot", attributes={"data-v": axis})
        for axis, chart in charts.items()
    ]
    note = (
        "Dotted: training loss, averaged over the steps between two evaluations and measured with "
        "dropout, so that it can be above validation loss."
    )
    return Figure(
        key="loss",
        title="Validation and training loss",
        findings=paragraph(describe_losses(runs, unit), note),
        body=join(charts["seconds"].read_out, *drawings),
        controls=radio_buttons(
            "Horizontal axis", "x-loss", {axis: axis for axis in _AXES}, "seconds"
        ),
        numbers=_numbers(
            runs,
            {
                unit.title: lambda row: row[unit.field],
                f"training, {unit.title}": lambda row: training_loss(row, unit),
            },
        ),
        data=charts["seconds"].data,
    )


def _loss_chart(runs: Sequence[RunMeasurements], unit: _Unit, axis: str) -> Chart:
    field, title = _AXES[axis]
    measures: dict[str, Callable[[Row], float]] = {
        "validation": lambda row: row[unit.field],
        "training": lambda row: training_loss(row, unit),
    }
    series = [
        Series(
            run=run,
            x=[row[field] for row in run.metrics],
            y=[value(row) for row in run.metrics],
            measure=measure,
            dotted=measure == "training",
        )
        for measure, value in measures.items()
        for run in runs
    ]
    return Chart(
        series=series,
        x=Axis(title=title),
        y=Axis(title=unit.title),
        heads=_heads(runs),
        write=lambda value: f"{value:.{unit.digits}f}",
        at=-1,
        is_wide=True,
    )


def _rate_figure(runs: Sequence[RunMeasurements]) -> Figure:
    return _pair_figure(
        runs,
        key="learning-rate",
        title="Learning rate",
        findings=describe_rate(runs),
        quantity="learning rate",
        value=lambda row: row["learning_rate"],
    )


def describe_accuracy(runs: Sequence[RunMeasurements]) -> str:
    """Return a sentence about the accuracy at the last evaluation."""
    last = {run.name: f"{100 * run.metrics[-1]['accuracy']:.2f} %" for run in runs}
    return f"Labels or target tokens that are the most probable ones, at the end: {per_run(last)}."


def _accuracy_figure(runs: Sequence[RunMeasurements]) -> Figure:
    return _pair_figure(
        runs,
        key="accuracy",
        title="Accuracy on the validation split",
        findings=describe_accuracy(runs),
        quantity="% correct",
        value=lambda row: 100 * row["accuracy"],
        from_zero=True,
    )


def _speed_figure(runs: Sequence[RunMeasurements]) -> Figure:
    means = {run.name: f"{tokens_per_second(run.metrics[-1]):,.0f}" for run in runs}
    return _pair_figure(
        runs,
        key="speed",
        title="Speed",
        findings=f"Mean tokens per second: {per_run(means)}.",
        quantity="tokens per second",
        value=tokens_per_second,
        from_zero=True,
    )


def _norm_figure(runs: Sequence[RunMeasurements]) -> Figure:
    return _pair_figure(
        runs,
        key="gradient-norm",
        title="Gradient norm",
        findings=paragraph(
            "Norm of the gradient before clipping, mean over the steps between two evaluations.",
            describe_clipping(runs),
        ),
        quantity="gradient norm",
        value=lambda row: row["gradient_norm"],
        from_zero=True,
    )


def _pair_figure(
    runs: Sequence[RunMeasurements],
    *,
    key: str,
    title: str,
    findings: str,
    quantity: str,
    value: Callable[[Row], float],
    from_zero: bool = False,
) -> Figure:
    """Return a figure of one quantity over seconds, half as wide as the page."""
    series = [
        Series(
            run=run,
            x=[row["seconds"] for row in run.metrics],
            y=[value(row) for row in run.metrics],
        )
        for run in runs
    ]
    chart = Chart(
        series=series,
        x=Axis(title=_AXES["seconds"][1]),
        y=Axis(title=quantity, from_zero=from_zero),
        heads=_heads(runs),
        write=format_number,
        at=-1,
    )
    # A series of constant values is described by a sentence, and not drawn.
    is_constant = all(len(set(line.y)) == 1 for line in series) and not from_zero
    return Figure(
        key=key,
        title=title,
        findings=findings,
        body=join() if is_constant else chart.body,
        numbers=_numbers(runs, {quantity: value}),
        data={} if is_constant else chart.data,
        has_svg=not is_constant,
    )


def describe_groups(run: RunMeasurements) -> str:
    """Return a sentence about the group of parameters with the largest gradient."""
    norms = run.metrics[-1]["gradient_norms"]
    largest = max(norms, key=lambda group: norms[group])
    norm = format_number(norms[largest])
    return f"At the last evaluation, {part_name(largest)} has the largest norm, {norm}."


def _group_figure(run: RunMeasurements) -> Figure:
    groups = list(run.metrics[-1]["gradient_norms"])
    names = list(map(part_name, groups))
    seconds = [row["seconds"] for row in run.metrics]
    norms = [[row["gradient_norms"].get(group, 0.0) for row in run.metrics] for group in groups]
    lines = [
        Line(name=name, style=INK_STYLES[number % len(INK_STYLES)], x=seconds, y=column)
        for number, (name, column) in enumerate(zip(names, norms, strict=True))
    ]
    chart = line_chart(
        lines,
        Axis(title=_AXES["seconds"][1]),
        Axis(title="gradient norm", from_zero=True),
        width=PAIR,
        height=260,
    )
    values = [[format_number(value) for value in column] for column in norms]
    rows = [
        tag("li", f"{name} ", tag("b", column[-1], attributes={"data-i": number}))
        for number, (name, column) in enumerate(zip(names, values, strict=True))
    ]
    heads = _heads([run])
    read_out = tag("ul", tag("li", heads[-1], class_="at"), *rows, class_="legend")
    return Figure(
        key="gradient-norm-by-group",
        title=f"Gradient norm by group of parameters, {run.name}",
        findings=describe_groups(run),
        body=join(read_out, tag("div", chart, class_="plot")),
        numbers=Numbers(["seconds", *names], [seconds, *norms]),
        data={"head": heads, "v": values, "at": len(heads) - 1},
    )


def _heads(runs: Sequence[RunMeasurements]) -> list[str]:
    """Return the place of each evaluation in a read-out: its time, if that of all runs is equal."""
    longest = max((run.metrics for run in runs), key=len)
    heads = []
    for number, row in enumerate(longest):
        reached = [run.metrics[number] for run in runs if len(run.metrics) > number]
        is_equal = len({f"{other['seconds']:,.0f}" for other in reached}) == 1
        heads.append(f"after {row['seconds']:,.0f} s" if is_equal else f"evaluation {number + 1}")
    return heads


def _numbers(
    runs: Sequence[RunMeasurements], quantities: dict[str, Callable[[Row], float]]
) -> Numbers:
    rows = [(run, row) for run in runs for row in run.metrics]
    shown: list[list[Any]] = [[run.name for run, _ in rows]]
    shown += [[row[field] for _, row in rows] for field in ("step", "epochs", "seconds")]
    shown += [[value(row) for _, row in rows] for value in quantities.values()]
    return Numbers(["run", "step", "epochs", "seconds", *quantities], shown)


def _samples_figure(run: RunMeasurements) -> Figure:
    samples = run.samples
    shown = [samples[0], samples[len(samples) // 3], samples[-1]] if len(samples) > 2 else samples
    scores = _scores_by_step(run)
    every = tag(
        "details",
        tag("summary", f"All {len(samples)} samples"),
        tag("div", *(_sample(sample, scores) for sample in samples), class_="all"),
    )
    return Figure(
        key="samples",
        title=f"Samples, {run.name}",
        findings=describe_samples(run),
        body=join(
            tag("div", *(_sample(sample, scores) for sample in shown), class_="samples"),
            every if len(samples) > len(shown) else None,
        ),
        numbers=Numbers(
            ["step", "text"],
            [[sample["step"] for sample in samples], [sample["text"] for sample in samples]],
        ),
        has_svg=False,
    )


def describe_samples(run: RunMeasurements) -> str:
    """Return a sentence about the samples that are shown."""
    number = len(run.samples)
    if number == 1:
        return "One sample was kept so far."
    shown = ": the first one, an early one and the last one" if number > 3 else ""
    if run.has_task:
        return f"The first sources, and what was written for them, at {number} evaluations{shown}."
    return f"The same prompt and the same seed at {number} evaluations{shown}."


def _scores_by_step(run: RunMeasurements) -> dict[int, str]:
    unit = unit_of([run])
    return {
        row["step"]: f"{row[unit.field]:.{unit.digits}f} {unit.title}"
        for row in run.metrics
        if unit.field in row
    }


def _sample(sample: Row, scores: Mapping[int, str]) -> Html:
    score = scores.get(sample["step"])
    heading = tag("h4", f"Step {sample['step']:,} ", tag("span", score) if score else None)
    return tag("div", heading, tag("pre", sample["text"]))
