"""`charlm eval task`: how well a model does what it was trained for."""

from typing import Annotated

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
from charlm.cli.terminal import emit_result
from charlm.errors import UnsupportedOptionError


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
        emit_result(scores, as_json=as_json)
        return
    result = loaded.completions(split, beams=beams or 1)
    emit_result(result, as_json=as_json)
