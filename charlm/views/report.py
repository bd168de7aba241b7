"""Sections to one HTML file, which opens without a network."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from charlm.config.values import check_names
from charlm.views.agreement import agreement_section
from charlm.views.cells import cells_section
from charlm.views.context import context_section
from charlm.views.embeddings import embeddings_section
from charlm.views.header import header, names_of
from charlm.views.html import Html, join, tag
from charlm.views.learning import learning_section
from charlm.views.measurements import AnyTrained, Measurements, Reason, RunMeasurements
from charlm.views.measuring import measure
from charlm.views.memory import memory_section
from charlm.views.network import network_section
from charlm.views.options import SECTIONS, ReportOptions
from charlm.views.page import Figure, Section, listed
from charlm.views.style import page_head, read_asset, report_style
from charlm.views.surprisal import surprisal_section
from charlm.views.tasks import task_section


@dataclass(frozen=True)
class _Kind:
    """A kind of section.

    Attributes:
        title: Heading.
        make: Function that makes the section.
        fields: Title of each measurement. A run is left out of the section if it has none of those
            in `main`.
        main: Names of the measurements of which the section needs one.
    """

    title: str
    make: Callable[[Sequence[RunMeasurements]], Section]
    fields: Mapping[str, str] = field(default_factory=dict)
    main: tuple[str, ...] = ()


_KINDS = {
    "curves": _Kind("Learning", learning_section),
    "task": _Kind("Task", task_section, {"task": "", "attention": "Attention"}, ("task",)),
    "network": _Kind("Network", network_section),
    "surprisal": _Kind(
        "Surprisal",
        surprisal_section,
        {"passage": "Surprisal of each token", "surprisal": "Surprisal by class of token"},
        ("passage",),
    ),
    "memory": _Kind(
        "Memory",
        memory_section,
        {"memory": "What each prediction depends on", "letters": "Next letter correct"},
        ("memory",),
    ),
    "context": _Kind(
        "Context length",
        context_section,
        {"context": "Loss by context length", "gradients": "Gradient norm by distance"},
        ("context", "gradients"),
    ),
    "cells": _Kind(
        "Cells",
        cells_section,
        {"cells": "Best unit for each label", "gates": "Gate saturation"},
        ("cells",),
    ),
    "embeddings": _Kind("Embeddings", embeddings_section, {"embeddings": ""}, ("embeddings",)),
    "agreement": _Kind("Agreement", agreement_section, {"agreement": ""}, ("agreement",)),
}


@dataclass(frozen=True)
class Report:
    """A report on one or several runs.

    Attributes:
        title: Title of the page.
        html: The whole page.
        figures: Each figure by its name, for example "loss" and "memory"; a notebook shows them.
    """

    title: str
    html: str = field(repr=False)
    figures: Mapping[str, Figure] = field(repr=False)

    def _repr_html_(self) -> str:
        """Return the report for a notebook, in a frame of its own."""
        page = self.html.replace("&", "&amp;").replace('"', "&quot;")
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" '
            'width="100%" height="800" style="border:0"></iframe>'
        )


def report_on(
    models: Sequence[AnyTrained],
    options: Mapping[str, Any],
    report_progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Return the report on one or several models.

    Args:
        models: The models; the others are compared with the first.
        options: Fields of `ReportOptions`.
        report_progress: Function that is called with the name of each measure before it begins.

    Raises:
        OptionError: A section does not exist.
        TypeError: An option does not exist.
    """
    check_names(options, [each.name for each in fields(ReportOptions)])
    shown = ReportOptions(**options)
    return make_report(measure(models, shown, report_progress=report_progress), shown.sections)


def make_report(measurements: Measurements, sections: Sequence[str] = SECTIONS) -> Report:
    """Return the report on measurements.

    Args:
        measurements: Results of all runs.
        sections: Names of the sections to show, in the order of the report.
    """
    runs = measurements.runs
    omissions = _Omissions()
    made = []
    for name, kind in _KINDS.items():
        if name == "task" and len(sections) > 1 and not any(run.has_task for run in runs):
            continue  # A report on language models need not say that they have no task.
        if name in sections and omissions.add_section(name, kind, runs) < len(runs):
            made.append(kind.make(runs))
    if isinstance(measurements.comparison, Reason):
        omissions.add_comparison(measurements.comparison.text, runs)
    title = f"{names_of(runs)}: charlm report"
    body = tag(
        "div",
        _navigation(made, bool(omissions.runs)),
        header(measurements),
        tag("main", *(section.render() for section in made), omissions.render(runs), id="main"),
        _footer(runs),
        class_="page",
    )
    figures = {figure.key: figure for section in made for figure in section.figures}
    return Report(title, _document(title, body, _data(figures.values())), figures)


@dataclass(frozen=True)
class _Omissions:
    """What a report lacks.

    Attributes:
        runs: Names of the runs for each title and reason.
    """

    runs: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add_section(self, name: str, kind: _Kind, runs: Sequence[RunMeasurements]) -> int:
        """Add what a section lacks; return the number of runs that it leaves out."""
        number = 0
        for run in runs:
            missing = {
                title: result.text
                for key, title in kind.fields.items()
                if isinstance(result := getattr(run, key), Reason)
            }
            if name == "curves" and not run.metrics:
                missing = {"": "it has no evaluation yet"}
            is_left_out = name == "curves" and bool(missing)
            if kind.main:
                is_left_out = all(isinstance(getattr(run, key), Reason) for key in kind.main)
            if is_left_out:
                missing = {kind.title: next(iter(missing.values()))}
            number += is_left_out
            for title, reason in missing.items():
                self.add(title, reason, run)
        return number

    def add_comparison(self, reason: str, runs: Sequence[RunMeasurements]) -> None:
        """Add why the runs are not compared, with the names of runs instead of their folders."""
        for run in runs:
            reason = reason.replace(f"{run.trained.folder}: ", f"{run.name}: ")
        self.runs["Comparison", reason] = [run.name for run in runs]

    def add(self, title: str, reason: str, run: RunMeasurements) -> None:
        """Add one reason, without the run folder at its beginning."""
        text = reason.removeprefix(f"{run.trained.folder}: ")
        self.runs.setdefault((title, text), []).append(run.name)

    def render(self, runs: Sequence[RunMeasurements]) -> Html | None:
        """Return the section with one line for each reason and runs; None if nothing is missing."""
        if not self.runs:
            return None
        titles: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (title, text), names in self.runs.items():
            titles.setdefault((text, tuple(names)), []).append(title)
        items = [
            tag(
                "li",
                tag("b", listed(missing)),
                f" of {listed(names)}" if len(runs) > 1 else "",
                f": {text}",
            )
            for (text, names), missing in titles.items()
        ]
        return tag(
            "section",
            tag("h2", "Not in this report", id="h-omitted"),
            tag("ul", *items, class_="omit"),
            id="omitted",
            aria_labelledby="h-omitted",
        )


def _navigation(sections: Sequence[Section], has_omissions: bool) -> Html:
    links = [(section.name, section.title) for section in sections]
    if has_omissions:
        links.append(("omitted", "Not in this report"))
    items = [tag("li", tag("a", title, href=f"#{name}")) for name, title in links]
    return tag("nav", tag("ol", *items), aria_label="Sections")


def _footer(runs: Sequence[RunMeasurements]) -> Html:
    entries = []
    for run in runs:
        facts = (
            f"{run.trained.folder}, checkpoint {run.trained.origin.which}, "
            f"step {run.trained.origin.state['step']:,}"
        )
        entries += [tag("dt", run.name), tag("dd", facts)]
    return tag("footer", tag("dl", *entries))


def _data(figures: Collection[Figure]) -> dict[str, Any]:
    kinds = {"charts": "head", "matrices": "cells", "tags": "tags"}
    grouped: dict[str, Any] = {
        kind: {figure.key: dict(figure.data) for figure in figures if name in figure.data}
        for kind, name in kinds.items()
    }
    others = {
        figure.key: dict(figure.data)
        for figure in figures
        if figure.data and not any(name in figure.data for name in kinds.values())
    }
    tables = {
        figure.key: {"h": figure.numbers.head, "c": figure.numbers.columns}
        for figure in figures
        if figure.numbers is not None
    }
    return grouped | {"tables": tables} | others


def _document(title: str, body: Html, data: dict[str, Any]) -> str:
    style, script = report_style(), read_asset("report.js")
    # In a script element only "</" and "<!--" would end or change the data.
    text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    head = page_head(title, style, [script], has_images=True)
    scripts = join(
        Html(f'<script type="application/json" id="data">{text}</script>'),
        Html(f"<script>{script}</script>"),
    )
    skip = tag("a", "Skip to the figures", class_="skip", href="#main")
    page = tag("html", head, tag("body", skip, body, scripts), lang="en")
    return f"<!doctype html>\n{page}\n"
