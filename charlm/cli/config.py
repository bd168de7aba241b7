"""`charlm config`."""

from typing import Annotated

import typer

app = typer.Typer(help="Look at configurations.", rich_markup_mode=None)


@app.callback()
def _config() -> None:
    """Look at configurations."""


@app.command("show")
def show(
    file: Annotated[
        str | None, typer.Argument(help="A YAML file, or the name of a shipped one. [the defaults]")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one field; again for more.")
    ] = None,
) -> None:
    """Print a whole configuration with a comment a field, ready to be saved and used.

    Try: charlm config show quickstart > my.yaml
    """
    from charlm.config import dump, load_config

    print(dump(load_config(file, overrides or [])), end="")
