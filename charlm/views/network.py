"""Section "Network": the equation of each layer, and where the parameters are."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from charlm.model.descriptions import part_name
from charlm.views.figures.drawing import share_bar
from charlm.views.html import Html, join, tag
from charlm.views.measurements import RunMeasurements
from charlm.views.page import Figure, Numbers, Section, data_table, paragraph, percentage


@dataclass(frozen=True)
class _Part:
    """A part of a network with its parameters.

    Attributes:
        name: Name in words.
        shapes: Shapes of its tensors.
        parameters: Number of parameters.
    """

    name: str
    shapes: list[tuple[int, ...]]
    parameters: int


def network_section(runs: Sequence[RunMeasurements]) -> Section:
    """Return the section."""
    return Section("network", "Network", [_parameters_figure(runs)])


def parts_of(run: RunMeasurements) -> list[_Part]:
    """Return the parts of a network in the order of the data's way."""
    parts: dict[str, _Part] = {}
    for name, shape, size in run.tensors:
        part = _part_of(name)
        before = parts.get(part, _Part(part, [], 0))
        parts[part] = _Part(part, [*before.shapes, shape], before.parameters + size)
    return list(parts.values())


def describe_parameters(run: RunMeasurements) -> str:
    """Return a sentence about the part with most parameters."""
    largest = max(parts_of(run), key=lambda part: part.parameters)
    share = percentage(largest.parameters / run.parameters)
    return f"{run.name} has {run.parameters:,} parameters, {share} of them in {largest.name}."


def _part_of(parameter: str) -> str:
    """Return the part of a parameter: a layer, the embedding, the projection, and so on."""
    first, _, rest = parameter.partition(".")
    if first in ("recurrence", "backward_recurrence"):
        direction = "backward " if first.startswith("backward") else ""
        kind, _, number = rest.partition(".")
        layer = number.split(".")[0]
        return part_name(f"{direction}layer {layer}" if layer.isdigit() else f"{direction}{kind}")
    return "n-grams" if first == "ngrams" else first.replace("_", " ")


def _parameters_figure(runs: Sequence[RunMeasurements]) -> Figure:
    rows = [(run.name, part) for run in runs for part in parts_of(run)]
    return Figure(
        key="parameters",
        title="Where the parameters are",
        findings=paragraph(*map(describe_parameters, runs)),
        body=join(*map(_describe_run, runs)),
        numbers=Numbers(
            ["run", "part", "shapes", "parameters"],
            [
                [name for name, _ in rows],
                [part.name for _, part in rows],
                [_format_shapes(part.shapes) for _, part in rows],
                [part.parameters for _, part in rows],
            ],
        ),
        has_svg=False,
    )


def _describe_run(run: RunMeasurements) -> Html:
    parts = parts_of(run)
    shares = [part.parameters / run.parameters for part in parts]
    rows = [
        # With no-break spaces, a narrow cell breaks only between two shapes.
        (
            part.name,
            _format_shapes(part.shapes).replace(" × ", "\u00a0×\u00a0"),
            f"{part.parameters:,}",
            percentage(share),
        )
        for part, share in zip(parts, shares, strict=True)
    ]
    table = data_table(("part", "shapes", "parameters", "share"), rows, class_="layers")
    heading = tag("h4", run.name)
    return join(heading, *_equations(run), share_bar(shares), tag("div", table, class_="scroll"))


def _equations(run: RunMeasurements) -> list[Html]:
    """Return name, source and equations of each kind of cell, from its documentation."""
    cells = {type(cell): cell for cell in run.trained.model.encoder.recurrence.layers}
    paragraphs = []
    for kind in cells:
        first, *further = (inspect.getdoc(kind) or kind.__name__).split("\n\n")
        equations = [text for text in further if "←" in text][:1]
        text = " ".join(" ".join([first, *equations]).split())
        paragraphs.append(tag("p", text, class_="eq"))
    return paragraphs


def _format_shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(" × ".join(map(str, shape)) for shape in shapes)
