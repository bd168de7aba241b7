"""Section "Learning": how the loss fell, whether training was stable, and what the model wrote."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from charlm.views.figures import INK_STYLES, PAIR, Axis, Line, line_chart, run_style, swatch
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, Section, choice, legend, listed, paragraph

Row = dict[str, Any]
_AXES = {
    "seconds": ("seconds", "seconds of training"),
    "steps": ("step", "optimization steps"),
    "epochs": ("epochs", "passes over the text"),
}
_CLIPPED = 0.001  # Fraction of steps below which clipping is not worth a sentence.


@dataclass(frozen=True)
class _Unit:
    """The unit of losses: bits per character, or perplexity for words.

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


def learning_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section; runs without an evaluation are left out of its charts."""
    evaluated = [run for run in runs if run.metrics]
    parts: list[Figure | tuple[Figure, ...]] = [_loss_figure(evaluated)]
    parts.append((_rate_figure(evaluated), _speed_figure(evaluated)))
    parts.append((_norm_figure(evaluated), _group_figure(evaluated[0])))
    sampled = [run for run in runs if run.samples]
    if sampled:
        parts.append(_samples_figure(sampled[0]))
    return Section("curves", "Learning", parts)


def unit_of(runs: Sequence[RunMeasurements]) -> _Unit:
    """Return the unit in which the losses of all runs are shown."""
    levels = {run.trained.config.tokenizer.level for run in runs}
    return _PERPLEXITY if levels == {"word"} else _BITS


def training_loss(row: Row, unit: _Unit) -> float:
    """Return the training loss of an evaluation in the unit of the validation loss."""
    if unit is _PERPLEXITY:
        return float(2.718281828459045 ** min(row["training_loss_nats"], 700))
    return float(row["training_loss_nats"] * row["bits_per_character"] / row["loss_nats"])


def describe_losses(runs: Sequence[RunMeasurements], unit: _Unit) -> str:
    """Return sentences about the last and the lowest validation loss of each run."""
    sentences = []
    for run in runs:
        last = run.metrics[-1]
        best = min(run.metrics, key=lambda row: row["loss_nats"])
        sentence = (
            f"After {last['seconds']:,.0f} seconds {run.name} is at "
            f"{last[unit.field]:.{unit.digits}f} {unit.title}"
        )
        if best is not last and best["loss_nats"] < last["loss_nats"]:
            sentence += (
                f"; its lowest loss is {best[unit.field]:.{unit.digits}f} at step "
                f"{best['step']:,}, after which validation loss rose"
            )
        sentences.append(sentence + ".")
    return paragraph(*sentences)


def describe_clipping(runs: Sequence[RunMeasurements]) -> str:
    """Return a sentence about the fraction of steps whose gradient was clipped."""
    clipped = []
    for run in runs:
        shares = [row["clipped_share"] for row in run.metrics]
        given = [share for share in shares if share is not None]
        if given and sum(given) / len(given) >= _CLIPPED:
            clipped.append(f"{sum(given) / len(given):.1%} of the steps of {run.name}")
    if not clipped:
        return "No step was clipped."
    return f"Clipped by norm: {listed(clipped)}."


def _loss_figure(runs: Sequence[RunMeasurements]) -> Figure:
    unit = unit_of(runs)
    charts = []
    for axis, (field, title) in _AXES.items():
        lines = [
            _line(run, number, field, lambda row: training_loss(row, unit), dotted=True)
            for number, run in enumerate(runs)
        ]
        lines += [
            _line(run, number, field, lambda row: row[unit.field])
            for number, run in enumerate(runs)
        ]
        chart = line_chart(lines, Axis(title=title), Axis(title=unit.title))
        charts.append(tag("div", chart, class_="plot", attributes={"data-v": axis}))
    values = [
        [f"{training_loss(row, unit):.{unit.digits}f}" for row in run.metrics] for run in runs
    ]
    values += [[f"{row[unit.field]:.{unit.digits}f}" for row in run.metrics] for run in runs]
    note = (
        "Dotted lines are training loss, averaged over the steps between two evaluations; it is "
        "measured with dropout, so it can be above validation loss."
    )
    return Figure(
        key="loss",
        title="Validation and training loss",
        findings=paragraph(describe_losses(runs, unit), note),
        body=join(
            _loss_read_out(runs, values), tag("div", *charts, attributes={"data-x": "seconds"})
        ),
        controls=choice("Horizontal axis", "x-loss", {axis: axis for axis in _AXES}, "seconds"),
        numbers=_numbers(
            runs,
            {
                unit.title: lambda row: row[unit.field],
                f"training, {unit.title}": lambda row: training_loss(row, unit),
            },
        ),
        data={"head": _heads(runs), "v": values, "at": _longest(runs) - 1},
    )


def _loss_read_out(runs: Sequence[RunMeasurements], values: Sequence[Sequence[str]]) -> Html:
    heads = [tag("th", swatch(number), run.name, scope="col") for number, run in enumerate(runs)]
    rows = []
    for offset, name in ((len(runs), "validation"), (0, "training")):
        cells = [
            tag("td", values[offset + number][-1], attributes={"data-i": offset + number})
            for number in range(len(runs))
        ]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells))
    return tag(
        "table",
        tag("thead", tag("tr", tag("th", _heads(runs)[-1], class_="at"), *heads)),
        tag("tbody", *rows),
        class_="ro legend",
    )


def _rate_figure(runs: Sequence[RunMeasurements]) -> Figure:
    return _pair_figure(
        runs,
        key="learning-rate",
        title="Learning rate",
        findings="The learning rate of the last step before each evaluation.",
        quantity="learning rate",
        value=lambda row: row["learning_rate"],
    )


def _speed_figure(runs: Sequence[RunMeasurements]) -> Figure:
    speeds = [run.metrics[-1]["tokens"] / max(run.metrics[-1]["seconds"], 1e-9) for run in runs]
    means = [f"{run.name} {speed:,.0f}" for run, speed in zip(runs, speeds, strict=True)]
    return _pair_figure(
        runs,
        key="speed",
        title="Speed",
        findings=f"Mean tokens per second: {listed(means)}.",
        quantity="tokens per second",
        value=lambda row: row["tokens"] / max(row["seconds"], 1e-9),
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


def _group_figure(run: RunMeasurements) -> Figure:
    groups = list(run.metrics[-1]["gradient_norms"])
    seconds = [row["seconds"] for row in run.metrics]
    columns = [[row["gradient_norms"].get(group, 0.0) for row in run.metrics] for group in groups]
    lines = [
        Line(name=group, style=INK_STYLES[number % len(INK_STYLES)], x=seconds, y=column)
        for number, (group, column) in enumerate(zip(groups, columns, strict=True))
    ]
    largest = max(groups, key=lambda group: run.metrics[-1]["gradient_norms"][group])
    chart = line_chart(
        lines,
        Axis(title=_AXES["seconds"][1]),
        Axis(title="gradient norm", from_zero=True),
        width=PAIR,
        height=260,
    )
    values = [[f"{value:.3g}" for value in column] for column in columns]
    rows = [
        tag("li", f"{group} ", tag("b", column[-1], attributes={"data-i": number}))
        for number, (group, column) in enumerate(zip(groups, values, strict=True))
    ]
    at = tag("li", _heads([run])[-1], class_="at")
    read_out = tag("ul", at, *rows, class_="legend")
    return Figure(
        key="gradient-norm-by-group",
        title=f"Gradient norm by group of parameters, {run.name}",
        findings=f"At the last evaluation the norm of {largest} is the largest.",
        body=join(read_out, tag("div", chart, class_="plot")),
        numbers=Numbers(["seconds", *groups], [seconds, *columns]),
        data={"head": _heads([run]), "v": values, "at": len(run.metrics) - 1},
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
    lines = [_line(run, number, "seconds", value) for number, run in enumerate(runs)]
    chart = line_chart(
        lines,
        Axis(title=_AXES["seconds"][1]),
        Axis(title=quantity, from_zero=from_zero),
        width=PAIR,
        height=260,
    )
    values = [[_rounded(value(row)) for row in run.metrics] for run in runs]
    names = [run.name for run in runs]
    read_out = legend(names, at=_heads(runs)[-1], values=[row[-1] for row in values])
    return Figure(
        key=key,
        title=title,
        findings=findings,
        body=join(read_out, tag("div", chart, class_="plot")),
        numbers=_numbers(runs, {quantity: value}),
        data={"head": _heads(runs), "v": values, "at": _longest(runs) - 1},
    )


def _line(
    run: RunMeasurements,
    number: int,
    field: str,
    value: Callable[[Row], float],
    *,
    dotted: bool = False,
) -> Line:
    return Line(
        name=run.name,
        style=run_style(number),
        x=[row[field] for row in run.metrics],
        y=[value(row) for row in run.metrics],
        dotted=dotted,
        marker=number,
    )


def _longest(runs: Sequence[RunMeasurements]) -> int:
    return max(len(run.metrics) for run in runs)


def _heads(runs: Sequence[RunMeasurements]) -> list[str]:
    """Return the place of each evaluation in a read-out."""
    return [f"evaluation {number}" for number in range(1, _longest(runs) + 1)]


def _numbers(
    runs: Sequence[RunMeasurements], quantities: dict[str, Callable[[Row], float]]
) -> Numbers:
    rows = [(run, row) for run in runs for row in run.metrics]
    columns: list[list[Any]] = [[run.name for run, _ in rows]]
    columns += [[row[field] for _, row in rows] for field in ("step", "epochs", "seconds")]
    columns += [[value(row) for _, row in rows] for value in quantities.values()]
    return Numbers(["run", "step", "epochs", "seconds", *quantities], columns)


def _samples_figure(run: RunMeasurements) -> Figure:
    samples = run.samples
    shown = [samples[0], samples[len(samples) // 3], samples[-1]] if len(samples) > 2 else samples
    every = [_sample(sample) for sample in samples]
    further = tag(
        "details",
        tag("summary", f"All {len(samples)} samples"),
        tag("div", *every, class_="all"),
    )
    return Figure(
        key="samples",
        title=f"Samples, {run.name}",
        findings=f"One prompt and one seed at {len(samples)} evaluations.",
        body=join(tag("div", *map(_sample, shown), class_="samples"), further),
        numbers=Numbers(
            ["step", "text"],
            [[sample["step"] for sample in samples], [sample["text"] for sample in samples]],
        ),
        has_svg=False,
    )


def _sample(sample: Row) -> Html:
    return tag("div", tag("h4", f"Step {sample['step']:,}"), tag("pre", sample["text"]))


def _rounded(value: float) -> str:
    """Return a number with four digits, and a large one in full.

    >>> _rounded(52961.3), _rounded(0.00013333)
    ('52,961', '0.0001333')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
