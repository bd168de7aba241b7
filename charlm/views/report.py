"""Sections to one HTML file, which opens without a network."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from charlm.errors import OptionError
from charlm.evaluation.comparison import Comparison
from charlm.evaluation.probes.agreement import Agreement
from charlm.evaluation.probes.cells import Cells
from charlm.evaluation.probes.context import Context
from charlm.evaluation.probes.embeddings import Embeddings
from charlm.evaluation.probes.gradients import Gradients
from charlm.evaluation.probes.memory import Memory
from charlm.evaluation.probes.passage import Passage
from charlm.version import VERSION
from charlm.views.cells import cells_section
from charlm.views.contexts import agreement_section, context_section, embeddings_section
from charlm.views.figures import swatch
from charlm.views.html import Html, join, tag
from charlm.views.learning import learning_section, unit_of
from charlm.views.measurements import SECTIONS, Measurements, Reason, RunMeasurements
from charlm.views.memory import memory_section
from charlm.views.network import network_section
from charlm.views.page import Figure, Section, listed
from charlm.views.style import content_hash, read_asset, report_style
from charlm.views.surprisal import surprisal_section

_TITLE_LENGTH = 80  # Characters of a corpus title or a run's name in the heading.


@dataclass(frozen=True)
class _Kind:
    """A kind of section.

    Attributes:
        title: Heading.
        make: Function that makes the section.
        fields: Measurements that it needs: one of them for one run.
        types: Types of these measurements when they succeeded.
    """

    title: str
    make: Callable[[Sequence[RunMeasurements]], Section]
    fields: tuple[str, ...]
    types: tuple[type, ...]


_KINDS = {
    "curves": _Kind("Learning", learning_section, (), ()),
    "network": _Kind("Network", network_section, (), ()),
    "surprisal": _Kind("Surprisal", surprisal_section, ("passage",), (Passage,)),
    "memory": _Kind("Memory", memory_section, ("memory",), (Memory,)),
    "context": _Kind(
        "Context length", context_section, ("context", "gradients"), (Context, Gradients)
    ),
    "cells": _Kind("Cells", cells_section, ("cells",), (Cells,)),
    "embeddings": _Kind("Embeddings", embeddings_section, ("embeddings",), (Embeddings,)),
    "agreement": _Kind("Agreement", agreement_section, ("agreement",), (Agreement,)),
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
    html: str
    figures: Mapping[str, Figure]

    def _repr_html_(self) -> str:
        """Return the report for a notebook, in a frame of its own."""
        page = Html(self.html.replace("&", "&amp;").replace('"', "&quot;"))
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts allow-downloads" '
            'width="100%" height="800" style="border:0"></iframe>'
        )


def check_sections(names: Sequence[str]) -> None:
    """Raise OptionError if a section does not exist."""
    for name in names:
        if name not in SECTIONS:
            raise OptionError("only", f"must be sections of {', '.join(SECTIONS)}", value=name)


def make_report(measurements: Measurements, sections: Sequence[str] = SECTIONS) -> Report:
    """Return the report on measurements.

    Args:
        measurements: Results of all runs.
        sections: Names of the sections to show, in the order of the report.
    """
    runs = measurements.runs
    made: list[Section] = []
    omitted: list[tuple[str, str]] = []
    for name, kind in _KINDS.items():
        if name not in sections:
            continue
        reasons = _reasons(runs, kind) if name != "curves" else _reasons_without_metrics(runs)
        if len(reasons) < len(runs):
            made.append(kind.make(runs))
        omitted += [(kind.title, reason) for reason in dict.fromkeys(reasons)]
    title = f"{listed([_short(run.name) for run in runs])}: charlm report"
    body = tag(
        "div",
        _navigation(made, bool(omitted)),
        _header(measurements),
        tag("main", *(section.render() for section in made), _omissions(omitted)),
        _footer(runs),
        class_="page",
    )
    figures = {figure.key: figure for section in made for figure in section.figures}
    return Report(title, _document(title, body, _data(figures.values())), figures)


def _reasons(runs: Sequence[RunMeasurements], kind: _Kind) -> list[str]:
    """Return why a section lacks a run, for each run that it lacks."""
    reasons = []
    for run in runs:
        results = [getattr(run, field) for field in kind.fields]
        if kind.fields and not any(isinstance(result, kind.types) for result in results):
            reason = next(result.text for result in results if isinstance(result, Reason))
            reasons.append(reason)
    return reasons


def _reasons_without_metrics(runs: Sequence[RunMeasurements]) -> list[str]:
    return [f"{run.name}: has no evaluation yet" for run in runs if not run.metrics]


def _navigation(sections: Sequence[Section], has_omissions: bool) -> Html:
    links = [(section.name, section.title) for section in sections]
    if has_omissions:
        links.append(("omitted", "Not in this report"))
    items = [tag("li", tag("a", title, href=f"#{name}")) for name, title in links]
    return tag("nav", tag("ol", *items), aria_label="Sections")


def _header(measurements: Measurements) -> Html:
    runs = measurements.runs
    titles = list(dict.fromkeys(run.trained.origin.corpus["title"] for run in runs))
    heading = f"{listed([_short(run.name) for run in runs])} on {listed(list(map(_short, titles)))}"
    over = f"charlm {VERSION} · report of {len(runs)} run{'s' * (len(runs) > 1)}"
    return tag(
        "header",
        tag("p", over, class_="over"),
        tag("h1", heading),
        tag("p", " ".join(map(describe_run, runs)), class_="lede"),
        _runs_table(measurements),
    )


def describe_run(run: RunMeasurements) -> str:
    """Return a sentence about the network and its best score."""
    section = run.trained.config.model
    kind = section.cell.kind.replace("_", " ")
    network = f"{run.name} is a network of kind {kind} with {run.parameters:,} parameters"
    if not run.metrics:
        return f"{network}; it was not evaluated yet."
    unit = unit_of([run])
    best = min(run.metrics, key=lambda row: row["loss_nats"])
    score = f"{best[unit.field]:.{unit.digits}f} {unit.title}"
    return f"{network}; on its validation split it reached {score} at step {best['step']:,}."


def _runs_table(measurements: Measurements) -> Html | None:
    """Return the table of runs with differences and intervals; None for one run."""
    comparison = measurements.comparison
    if not isinstance(comparison, Comparison):
        return None
    head = ("Run", "Parameters", "Steps", "Bits per character", "Difference [95 % interval]")
    titles = [tag("th", title, scope="col") for title in head]
    differences = {row.run: row for row in comparison.differences}
    rows = []
    for number, (run, compared) in enumerate(zip(measurements.runs, comparison.runs, strict=True)):
        bits = compared.bits_per_character
        cells = [
            f"{compared.parameters:,}",
            f"{compared.step:,}",
            "-" if bits is None else f"{bits:.3f}",
            _difference(differences.get(compared.run)),
        ]
        name = tag("th", swatch(number), run.name, scope="row")
        rows.append(tag("tr", name, *(tag("td", cell) for cell in cells)))
    table = tag("table", tag("thead", tag("tr", *titles)), tag("tbody", *rows), class_="runs")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Runs")


def _difference(row: Any) -> str:
    if row is None or row.bits_per_character is None:
        return "-"
    if row.low is None:
        return f"{row.bits_per_character:+.3f}"
    return f"{row.bits_per_character:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"


def _omissions(omitted: Sequence[tuple[str, str]]) -> Html | None:
    if not omitted:
        return None
    items = [tag("li", tag("b", title), ": ", reason) for title, reason in omitted]
    heading = tag("h2", "Not in this report", id="h-omitted")
    return tag(
        "section",
        heading,
        tag("ul", *items, class_="omit"),
        id="omitted",
        aria_labelledby="h-omitted",
    )


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
    charts = {figure.key: dict(figure.data) for figure in figures if "head" in figure.data}
    others = {
        figure.key: dict(figure.data)
        for figure in figures
        if figure.data and "head" not in figure.data
    }
    tables = {
        figure.key: {"h": figure.numbers.head, "c": figure.numbers.columns}
        for figure in figures
        if figure.numbers is not None
    }
    return {"charts": charts, "tables": tables} | others


def _document(title: str, body: Html, data: dict[str, Any]) -> str:
    style, script = report_style(), read_asset("report.js")
    # In a script element only "</" and "<!--" would end or change the data.
    text = json.dumps(data, ensure_ascii=True).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; style-src '{content_hash(style)}'; "
        f"script-src '{content_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width,initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        Html(f"<style>{style}</style>"),
    )
    scripts = join(
        Html(f'<script type="application/json" id="data">{text}</script>'),
        Html(f"<script>{script}</script>"),
    )
    skip = tag("a", "Skip to the figures", class_="skip", href="#main")
    page = tag("html", tag("head", head), tag("body", skip, body, scripts), lang="en")
    return f"<!doctype html>\n{page}\n"


def _short(text: str) -> str:
    return text if len(text) <= _TITLE_LENGTH else f"{text[: _TITLE_LENGTH - 1]}…"
