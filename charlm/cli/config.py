"""`charlm config show`: a whole configuration as YAML."""

from typing import Annotated

import typer

from charlm.cli.help import CommandGroup
from charlm.cli.new_run import Overrides, checked_config
from charlm.cli.options import not_empty
from charlm.cli.terminal import emit

app = typer.Typer(rich_markup_mode=None, cls=CommandGroup)


@app.callback()  # Without a callback, typer makes no group of a single command.
def _config() -> None:
    """Print configurations."""


@app.command("show")
def show(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            callback=not_empty,
            help="YAML file, or the name of a shipped configuration. [the defaults]",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print a whole configuration with a comment per setting, to save, edit and train with.

    Try: charlm config show quickstart > my.yaml
    """
    emit(str(checked_config(file, overrides or [])))
