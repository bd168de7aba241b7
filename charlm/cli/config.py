"""`charlm config`."""

from typing import Annotated

import typer

from charlm.cli.options import not_empty
from charlm.cli.terminal import emit
from charlm.cli.train import Overrides, checked_config

app = typer.Typer(help="Look at configurations.", rich_markup_mode=None)


@app.callback()
def _config() -> None:
    """Look at configurations."""


@app.command("show")
def show(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            callback=not_empty,
            help="A YAML file, or the name of a shipped one. [the defaults]",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print a whole configuration with a comment a field, ready to be saved and used.

    Try: charlm config show quickstart > my.yaml
    """
    from charlm.config.show import dump

    emit(dump(checked_config(file, overrides or [])), end="")
