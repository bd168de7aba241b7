"""The heading of a report: what the runs are, and a table of their scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from charlm.config.cell import cell_title
from charlm.data.listing import title_without_folders
from charlm.errors import counted
from charlm.evaluation.comparison import Comparison, Difference
from charlm.evaluation.probes.gradients import Gradients
from charlm.evaluation.probes.known_letters import LetterAccuracy
from charlm.tasks.completion import Completions
from charlm.tasks.labels import LabelScores
from charlm.version import VERSION
from charlm.views.context import top_curve
from charlm.views.figures.drawing import swatch
from charlm.views.html import Html, tag
from charlm.views.learning import describe_best, tokens_per_second
from charlm.views.measurements import Measurements, RunMeasurements
from charlm.views.page import MISSING, listed, paragraph, percentage

_TITLE_LENGTH = 80  # Characters of a corpus title or a run's name in the heading.


@dataclass(frozen=True)
class _Quantity:
    """A row of the table of runs.

    Attributes:
        title: Name with the unit.
        values: Value of each run.
    """

    title: str
    values: list[str]


def header(measurements: Measurements) -> Html:
    """Return the heading with the title, a summary and the table of runs."""
    runs = measurements.runs
    titles = dict.fromkeys(run.trained.origin.corpus["title"] for run in runs)
    texts = listed([_short(title_without_folders(title)) for title in titles])
    over = f"charlm {VERSION} · report of {counted(len(runs), 'run')}"
    quantities = _quantities(measurements)
    return tag(
        "header",
        tag("p", over, class_="over"),
        tag("h1", f"{names_of(runs)} on {texts}"),
        tag("p", describe_runs(runs), class_="lede"),
        tag("div", _wide_table(runs, quantities), class_="wide"),
        tag("div", _narrow_table(runs, quantities), class_="narrow"),
        tag("p", describe_comparison(measurements), class_="hint"),
    )


def names_of(runs: Sequence[RunMeasurements]) -> str:
    """Return the names of the runs as a list."""
    return listed([_short(run.name) for run in runs])


def describe_runs(runs: Sequence[RunMeasurements]) -> str:
    """Return sentences about the networks and their best scores."""
    evaluated = [run for run in runs if run.metrics]
    rest = [run.name for run in runs if not run.metrics]
    missing = f"{listed(rest)} {'were' if len(rest) > 1 else 'was'} not evaluated yet."
    return paragraph(
        *(describe_network(run) for run in runs if len(runs) == 1),
        describe_best(evaluated) if evaluated else "",
        missing if rest else "",
    )


def describe_network(run: RunMeasurements) -> str:
    """Return a sentence about the size of a network."""
    model = run.trained.config.model
    sizes = [f"{size:,}" for size in dict.fromkeys(model.hidden_sizes)]
    units = "unit" if sizes == ["1"] else "units"
    directions = " in each direction" if model.direction == "both" else ""
    return (
        f"{run.name} has {counted(model.num_layers, 'layer')} of kind "
        f"{cell_title(model.cell.kind)} with {listed(sizes)} {units}{directions}"
        f"{', each in a Griffin block' if model.block == 'griffin' else ''}, and "
        f"{run.parameters:,} parameters."
    )


def describe_comparison(measurements: Measurements) -> str:
    """Return what the scores of the table are; nothing if the runs were not compared."""
    comparison = measurements.comparison
    if not isinstance(comparison, Comparison):
        return ""
    characters = comparison.settings["characters"]
    return (
        f"Bits per character are those of charlm eval compare: every run reads the same "
        f"{characters:,} characters as one text, so they may differ from the scores during "
        "training. A difference below 0 is better."
    )


def _quantities(measurements: Measurements) -> list[_Quantity]:
    runs = measurements.runs
    rows = [*_scores(measurements)]
    measures: dict[str, Callable[[RunMeasurements], str]] = {
        "Task": _task,
        "Labels correct": lambda run: _of_labels(run, lambda result: percentage(result.accuracy)),
        "Most frequent label": lambda run: _of_labels(
            run, lambda result: percentage(result.majority)
        ),
        "Macro F1": lambda run: _of_labels(run, lambda result: f"{result.macro_f1:.3f}"),
        "Calibration error": lambda run: _of_labels(
            run, lambda result: f"{result.calibration_error:.3f}"
        ),
        "Written exactly": lambda run: _of_targets(
            run, lambda result: percentage(result.exact_match)
        ),
        "Edit distance": lambda run: _of_targets(run, lambda result: f"{result.edit_distance:.2f}"),
        "Nats per target": lambda run: _lowest(run, "loss_nats", 4, of_task=True),
        "Next token correct": _accuracy,
        "Gradient half-life, tokens": _half_life,
        "Training, tokens/s": _speed,
        "Parameters": lambda run: f"{run.parameters:,}",
        "Steps": lambda run: f"{run.trained.origin.state['step']:,}",
    }
    rows += [_Quantity(title, list(map(measure, runs))) for title, measure in measures.items()]
    return [row for row in rows if set(row.values) != {MISSING}]


def _scores(measurements: Measurements) -> list[_Quantity]:
    """Return the scores on the same text, with differences and intervals."""
    comparison = measurements.comparison
    if not isinstance(comparison, Comparison):
        best = [_lowest(run, "bits_per_character", 3, of_task=False) for run in measurements.runs]
        return [_Quantity("Bits per character", best)]
    differences: list[Difference | None] = [None, *comparison.differences]
    return [
        _Quantity("Bits per character", [f"{r.bits_per_character:.3f}" for r in comparison.runs]),
        _Quantity(
            f"Difference to {measurements.runs[0].name}",
            [f"{row.bits_per_character:+.3f}" if row else MISSING for row in differences],
        ),
        _Quantity("95 % interval", list(map(_interval, differences))),
    ]


def _lowest(run: RunMeasurements, field: str, digits: int, *, of_task: bool) -> str:
    """Return the lowest validation score of a run that has a task, or of one that has none."""
    scores = [row[field] for row in run.metrics if row.get(field) is not None]
    return f"{min(scores):.{digits}f}" if scores and run.has_task == of_task else MISSING


def _task(run: RunMeasurements) -> str:
    return run.trained.config.task.kind if run.has_task else MISSING


def _of_labels(run: RunMeasurements, write: Callable[[LabelScores], str]) -> str:
    return write(run.task) if isinstance(run.task, LabelScores) else MISSING


def _of_targets(run: RunMeasurements, write: Callable[[Completions], str]) -> str:
    return write(run.task) if isinstance(run.task, Completions) else MISSING


def _interval(row: Difference | None) -> str:
    if row is None or row.low is None or row.high is None:
        return MISSING
    return f"{row.low:+.3f} to {row.high:+.3f}"


def _accuracy(run: RunMeasurements) -> str:
    letters = run.letters
    return f"{100 * letters.accuracy:.1f} %" if isinstance(letters, LetterAccuracy) else MISSING


def _half_life(run: RunMeasurements) -> str:
    if not isinstance(run.gradients, Gradients):
        return MISSING
    return f"{top_curve(run.gradients).half_life_tokens:.1f}".replace("inf", "∞")


def _speed(run: RunMeasurements) -> str:
    return f"{tokens_per_second(run.metrics[-1]):,.0f}" if run.metrics else MISSING


def _wide_table(runs: Sequence[RunMeasurements], quantities: Sequence[_Quantity]) -> Html:
    """Return the table with one row per run."""
    heads = [tag("th", title, scope="col") for title in ("Run", *(q.title for q in quantities))]
    rows = [
        tag(
            "tr",
            tag("th", swatch(run.number), run.name, scope="row"),
            *(tag("td", quantity.values[number]) for quantity in quantities),
        )
        for number, run in enumerate(runs)
    ]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_="runs")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Runs")


def _narrow_table(runs: Sequence[RunMeasurements], quantities: Sequence[_Quantity]) -> Html:
    """Return the table with one column per run, for phones."""
    heads = [tag("th", swatch(run.number), run.name, scope="col") for run in runs]
    rows = [
        tag("tr", tag("th", q.title, scope="row"), *(tag("td", value) for value in q.values))
        for q in quantities
    ]
    head = tag("thead", tag("tr", tag("td"), *heads))
    table = tag("table", head, tag("tbody", *rows), class_="runs t")
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Runs")


def _short(text: str) -> str:
    return text if len(text) <= _TITLE_LENGTH else f"{text[: _TITLE_LENGTH - 1]}…"
