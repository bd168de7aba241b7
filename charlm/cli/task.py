"""`charlm eval task`: how well a model does what it was trained for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import (
    MAX_PARALLEL,
    Device,
    Folder,
    Json,
    NamedRun,
    PartName,
    Which,
    at_most,
    choose_run,
)
from charlm.cli.tables import format_number, format_settings
from charlm.cli.terminal import emit_result, folded
from charlm.errors import quote

if TYPE_CHECKING:  # It imports torch.
    from charlm.tasks.completion import Completions


def task(
    run: Folder = None,
    split: Annotated[PartName, typer.Option(help="Part of the run's own corpus.")] = "valid",
    beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            metavar="N",
            help="Task complete: beam search with N beams. [the most probable token each time]",
        ),
    ] = None,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model of a task on a part of its own corpus.

    Task complete: the fraction of targets that are written exactly, and the edit distance.

    Try: charlm eval task --split test
    """
    from charlm.api import load

    folder = choose_run(run, named_run)
    loaded = load(folder, which=which, device=device)
    result = loaded.completions(split, beams=beams or 1)
    emit_result(result.to_json(), _completions_table(result), as_json=as_json)


def _completions_table(result: "Completions") -> Iterator[str]:
    for name, value in result.to_json().items():
        if isinstance(value, int | float):
            yield f"{name:<24} {format_number(value):>14}"
    for error in result.errors:
        source, target, written = map(quote, (error.source, error.target, error.written))
        yield folded(f"{source}: {written} instead of {target}")
    yield folded(format_settings(result.settings))
