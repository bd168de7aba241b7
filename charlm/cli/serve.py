"""`charlm serve`: a page to write with, and an API."""

import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.arguments import options_from
from charlm.cli.loading import existing_run, load
from charlm.cli.options import (
    MAX_PARALLEL,
    Device,
    Folders,
    Which,
    as_path,
    at_most,
    count_option,
    not_empty,
    parallel_option,
    runs_or_newest,
)
from charlm.cli.terminal import say
from charlm.serving.options import DEFAULT_HOST, DEFAULT_PORT, ServeOptions, read_api_key

Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")]
Host = Annotated[
    str,
    typer.Option(
        callback=not_empty,
        help="Address to listen on; any but this machine's own needs --api-key-file.",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=as_path,
        help="File whose first line is the key that every request must carry.",
    ),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        callback=not_empty,
        help="Let pages of another site use the server, such as https://example.org. Repeatable.",
    ),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        callback=not_empty,
        help="Another name of the server, such as that of a reverse proxy. Repeatable.",
    ),
]
MaxStreams = Annotated[
    int, parallel_option(help="Texts of a run that are written at the same time.")
]
MaxQueue = Annotated[
    int,
    typer.Option(
        min=0, callback=at_most(MAX_PARALLEL), help="Further texts of a run that may wait."
    ),
]
MaxText = Annotated[int, count_option(help="Maximum number of tokens of a text, prompt included.")]
Log = Annotated[bool, typer.Option("--log", help="Print a line for each request on stderr.")]
OpenBrowser = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


@dataclass(frozen=True)
class ServeArguments:
    """The arguments of `charlm serve`, in the order of its help."""

    runs: Folders = None
    port: Port = DEFAULT_PORT
    host: Host = DEFAULT_HOST
    api_key_file: ApiKeyFile = None
    allow_origin: AllowOrigin = None
    allow_host: AllowHost = None
    max_streams: MaxStreams = ServeOptions.max_streams
    max_queue: MaxQueue = ServeOptions.max_queue
    max_text: MaxText = ServeOptions.max_text
    log: Log = False
    open_browser: OpenBrowser = False
    which: Which = "best"
    device: Device = "auto"


@options_from(ServeArguments)
def serve(arguments: ServeArguments) -> None:
    """Serve trained runs: a page to write with, and an API that OpenAI's clients can use.

    The server runs until Ctrl-C. See docs/serve.md for the routes and for clients.

    Try: charlm serve --open
    """
    options = _serve_options(arguments)
    _refuse_equal_names(arguments.runs or [])
    folders = [existing_run(folder) for folder in runs_or_newest(arguments.runs)]
    from charlm.serving.server import Server

    loaded = [load(folder, which=arguments.which, device=arguments.device) for folder in folders]

    def announce(url: str) -> None:
        names = ", ".join(str(run.folder) for run in loaded)
        say(f"{names}: {url} (Ctrl-C ends the server)")
        if arguments.open_browser:
            webbrowser.open(url)

    write_log = say if arguments.log else _write_nothing
    Server([run.trained for run in loaded], options, on_start=announce, log=write_log).run()


def _refuse_equal_names(folders: list[Path]) -> None:
    """Refuse two runs of one name, because requests choose a run by its name."""
    names = [folder.absolute().name for folder in folders]
    if len(set(names)) < len(names):
        raise typer.BadParameter(
            f"the folders must have different names, which requests use; got {', '.join(names)}",
            param_hint="RUN...",
        )


def _serve_options(arguments: ServeArguments) -> ServeOptions:
    """Return the options of the server, with the key that is in the file."""
    key_file = arguments.api_key_file
    return ServeOptions(
        host=arguments.host,
        port=arguments.port,
        api_key=None if key_file is None else read_api_key(key_file),
        allow_origin=tuple(arguments.allow_origin or ()),
        allow_host=tuple(arguments.allow_host or ()),
        max_streams=arguments.max_streams,
        max_queue=arguments.max_queue,
        max_text=arguments.max_text,
    )


def _write_nothing(line: str) -> None:
    pass
