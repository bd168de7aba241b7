"""`charlm corpus`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import as_path, as_target, not_empty
from charlm.cli.terminal import emit

app = typer.Typer(help="List, build and fetch corpora.", rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", callback=not_empty, help="Name of a corpus.")]


@app.callback()
def _corpus() -> None:
    """List, build and fetch corpora."""


@app.command("list")
def list_() -> None:
    """List the corpora that have names, and which are on this machine.

    Try: charlm corpus list
    """
    from charlm.data.cards import card_names, files_of, load_card

    for name in card_names():
        card = load_card(name)
        here = all(path.is_file() for path in files_of(name, card).values())
        state = "here" if here else "built when needed" if card.kind == "python" else "to be fetched"
        emit(f"{name:<16} {card.mode:<8} {state:<18} {card.title}")


@app.command("show")
def show(name: Name) -> None:
    """Print what is known of a corpus.

    Try: charlm corpus show python-docs
    """
    from charlm.data.cards import files_of, load_card

    card = load_card(name)
    for key, value in card.model_dump(exclude_defaults=True).items():
        emit(f"{key}: {value!r}" if key == "separator" else f"{key}: {value}")
    for part, path in files_of(name, card).items():
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "not here yet"
        emit(f"{part} file: {path} ({size})")


@app.command("build")
def build(
    name: Name,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", parser=as_target, help="File to write. [the one that train reads]")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="PARAMETER=VALUE", help="A builder's parameter; with --to.")
    ] = None,
) -> None:
    """Build a corpus from what this Python installation carries; print its file.

    Try: charlm corpus build agreement --set sentences=1000 --to agreement.txt
    """
    from charlm.data import cards

    emit(str(cards.build(name, to=to, parameters=_parameters(overrides or []))))


@app.command("fetch")
def fetch(
    name: Name,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", parser=as_path, help="A copy of the download that you already have."),
    ] = None,
) -> None:
    """Download a corpus, check it, unpack it; print its files. The only command that uses the network.

    Try: charlm corpus fetch tinyshakespeare
    """
    from tqdm import tqdm

    from charlm.data.cards import fetch_corpus

    with tqdm(unit="B", unit_scale=True, desc=name, disable=not sys.stderr.isatty()) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        files = fetch_corpus(name, source=source, report=report)
    for file in files:
        emit(str(file))


def _parameters(overrides: list[str]) -> dict[str, object]:
    import yaml

    pairs = [override.partition("=") for override in overrides]
    for key, equals, _ in pairs:
        if not equals:
            raise typer.BadParameter(f"{key}: must be PARAMETER=VALUE, as in sentences=1000", param_hint="--set")
    return {key: yaml.safe_load(value) for key, _, value in pairs}
