"""`charlm eval task`: how well a model does what it was trained for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.loading import load_any
from charlm.cli.options import (
    Device,
    Folder,
    Json,
    NamedRun,
    PartName,
    Which,
    choose_run,
    parallel_option,
)
from charlm.cli.tables import format_number, format_rows, format_settings
from charlm.cli.terminal import emit_result, folded
from charlm.errors import UnsupportedOptionError, quote

if TYPE_CHECKING:  # It imports torch.
    from charlm.tasks.completion import Completions
    from charlm.tasks.labels import LabelScores

_MAX_COLUMNS = 12  # Of a confusion matrix in a terminal; of a larger one, the largest entries.
_NUM_CONFUSED = 10


def task(
    run: Folder = None,
    split: Annotated[PartName, typer.Option(help="Part of the run's own corpus.")] = "valid",
    beams: Annotated[
        int | None,
        parallel_option(
            metavar="N",
            help="Tasks complete and translate: beam search with N beams. [the most probable token "
            "each time]",
        ),
    ] = None,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model of a task on a part of its own corpus.

    Tasks complete and translate: the fraction of targets that are written exactly, and the edit
    distance. Tasks classify and tag: accuracy, macro F1, loss, calibration, the confusion matrix,
    and for BIO labels the F1 of spans.

    Try: charlm eval task --split test
    """
    loaded = load_any(choose_run(run, named_run), which=which, device=device)
    from charlm.api import LabelRun

    if isinstance(loaded, LabelRun):
        if beams is not None:
            raise UnsupportedOptionError("beams", "has no effect on labels; remove it")
        scores = loaded.scores(split)
        emit_result(scores.to_json(), _labels_table(scores), as_json=as_json)
        return
    result = loaded.completions(split, beams=beams or 1)
    emit_result(result.to_json(), _completions_table(result), as_json=as_json)


def _numbers(result: "Completions | LabelScores") -> Iterator[str]:
    for name, value in result.to_json().items():
        if isinstance(value, int | float):
            yield f"{name:<24} {format_number(value):>14}"


def _labels_table(result: "LabelScores") -> Iterator[str]:
    yield from _numbers(result)
    if len(result.confusion) <= _MAX_COLUMNS:
        rows = [[right, *map(str, row.values())] for right, row in result.confusion.items()]
        yield ""
        yield format_rows(["right \\ predicted", *result.confusion], rows, "table")
    else:
        confused = [
            (count, right, predicted)
            for right, row in result.confusion.items()
            for predicted, count in row.items()
            if count and right != predicted
        ]
        for count, right, predicted in sorted(confused, reverse=True)[:_NUM_CONFUSED]:
            yield f"{count:>8,} times {quote(predicted)} instead of {quote(right)}"
    yield folded(format_settings(result.settings))


def _completions_table(result: "Completions") -> Iterator[str]:
    yield from _numbers(result)
    for error in result.errors:
        source, target, written = map(quote, (error.source, error.target, error.written))
        yield folded(f"{source}: {written} instead of {target}")
    yield folded(format_settings(result.settings))
