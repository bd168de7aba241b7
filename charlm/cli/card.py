"""`charlm card`: the model card of a run."""

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.loading import load
from charlm.cli.options import Device, Folder, Force, NamedRun, Which, as_target, choose_run
from charlm.cli.terminal import emit


def card(
    run: Folder = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=as_target, help="File to write. [stdout]"),
    ] = None,
    force: Force = False,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
) -> None:
    """Print the model card of a run: a README.md for a folder that you publish.

    It has the text and its licence, sizes, the score with its settings, samples, the use of the
    model, the settings and the cost of the training.

    Try: charlm card --out README.md
    """
    from charlm.errors import CharlmError
    from charlm.export.options import check_output
    from charlm.storage.atomic import atomic_write

    if out is not None:
        check_output(out, is_folder=False, force=force)
    loaded = load(choose_run(run, named_run), which=which, device=device)
    from charlm.export.card import model_card

    text = model_card(loaded)
    if out is None:
        emit(text)
        return
    remedy = "name a file that can be written with --out"
    with atomic_write(out, error_type=CharlmError, remedy=remedy) as file:
        file.write(f"{text}\n".encode())
    emit(str(out))
