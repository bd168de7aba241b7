"""`charlm serve`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import (
    MAX_COUNT,
    MAX_PARALLEL,
    Device,
    Which,
    as_path,
    at_most,
    not_empty,
)
from charlm.cli.terminal import say
from charlm.serving.options import DEFAULT_HOST, DEFAULT_PORT, ServeOptions, read_api_key


def serve(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN...", parser=as_path, help="Run folders. [the newest under runs/]"
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = DEFAULT_PORT,
    host: Annotated[
        str,
        typer.Option(
            callback=not_empty,
            help="Address to listen on; any but this machine's own needs --api-key-file.",
        ),
    ] = DEFAULT_HOST,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_path,
            help="File whose first line is the key that every request must carry.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            callback=not_empty,
            help="Let pages of another site use the server, such as https://example.org; "
            "repeatable.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            callback=not_empty,
            help="Another name of the server, such as that of a reverse proxy; repeatable.",
        ),
    ] = None,
    max_streams: Annotated[
        int,
        typer.Option(
            min=1, callback=at_most(MAX_PARALLEL), help="Texts of a run written at the same time."
        ),
    ] = ServeOptions.max_streams,
    max_queue: Annotated[
        int,
        typer.Option(
            min=0, callback=at_most(MAX_PARALLEL), help="Texts of a run that may wait besides."
        ),
    ] = ServeOptions.max_queue,
    max_text: Annotated[
        int,
        typer.Option(min=1, callback=at_most(MAX_COUNT), help="Tokens of a text, prompt included."),
    ] = ServeOptions.max_text,
    log: Annotated[
        bool, typer.Option("--log", help="Print a line for each request on stderr.")
    ] = False,
    open_browser: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.")
    ] = False,
    which: Which = "best",
    device: Device = "auto",
) -> None:
    """Serve trained runs: a page to write with, and an API that OpenAI's clients can use.

    The server runs until Ctrl-C. See docs/serve.md for the routes and for clients.

    Try: charlm serve --open
    """
    options = ServeOptions(
        host=host,
        port=port,
        api_key=None if api_key_file is None else read_api_key(api_key_file),
        allow_origin=tuple(allow_origin or ()),
        allow_host=tuple(allow_host or ()),
        max_streams=max_streams,
        max_queue=max_queue,
        max_text=max_text,
    )
    from charlm.api import load
    from charlm.serving.server import Server

    folders: list[Path | None] = [*(runs or [])] or [None]
    loaded = [load(folder, which=which, device=device) for folder in folders]

    def announce(url: str) -> None:
        names = ", ".join(str(run.folder) for run in loaded)
        say(f"{names}: {url} (Ctrl-C ends the server)")
        if open_browser:
            webbrowser.open(url)

    write_log = say if log else _write_nothing
    Server([run.trained for run in loaded], options, on_start=announce, log=write_log).run()


def _write_nothing(line: str) -> None:
    pass
