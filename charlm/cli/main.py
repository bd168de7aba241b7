"""The command `charlm`: results go to stdout, everything else to stderr."""

import codecs
import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli import (
    cache,
    card,
    compress,
    config,
    corpus,
    evaluate,
    export,
    import_model,
    inspect,
    predict,
    runs,
    sample,
    serve,
    train,
    tune,
    view,
)
from charlm.cli.help import CommandGroup, GroupedCommand
from charlm.cli.options import flag, setting_of
from charlm.cli.slow_activity import SlowActivity
from charlm.cli.terminal import checked_stdout, emit, say
from charlm.data.progress import reported_progress
from charlm.errors import CharlmError, OptionError, UnsupportedOptionError
from charlm.storage.untrusted import one_line
from charlm.version import VERSION

app = typer.Typer(
    name="charlm",
    cls=CommandGroup,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("sample", cls=GroupedCommand)(sample.sample)
app.add_typer(evaluate.app, name="eval")
app.command("compress")(compress.compress)
app.command("decompress")(compress.decompress)
app.command("predict")(predict.predict)
app.command("inspect")(inspect.inspect)
app.command("runs")(runs.runs)
app.command("view")(view.view)
app.command("serve")(serve.serve)
app.command("export")(export.export)
app.command("import")(import_model.import_model)
app.command("card")(card.card)
app.command("cache")(cache.cache)
app.add_typer(corpus.app, name="corpus")
app.add_typer(config.app, name="config")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        emit(f"charlm {VERSION}")
        raise typer.Exit


@app.callback()
def _charlm(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Train a recurrent language model on any text, write new text with it, and score it.

    Try: charlm train --config quickstart, then charlm sample, then charlm eval perplexity
    """


def main() -> None:
    """Run the command line.

    The exit status is 0 for success, 1 for a user error, which is one line on stderr, 2 for wrong
    usage, and 130 after Ctrl-C.
    """
    _open_closed_streams()
    _choose_encodings()
    status = run(sys.argv[1:])
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        # After an error, the process group is still open. Its threads may wait for a process that
        # has ended, and would abort a normal exit.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _open_closed_streams() -> None:
    """Replace streams that the shell has closed, as in `charlm sample >&-`, by empty ones."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115 - it stays open.
            setattr(sys, name, stream)


def _choose_encodings() -> None:
    """Read and print UTF-8 in the POSIX locale too, unless PYTHONIOENCODING names an encoding."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if not isinstance(stream, TextIOWrapper):
            continue
        if codecs.lookup(stream.encoding).name == "ascii" and "PYTHONIOENCODING" not in os.environ:
            stream.reconfigure(encoding="utf-8", errors=stream.errors)
        # Bytes of a file name that are not UTF-8 are printed unchanged; those of a line that a user
        # types are refused where the line is read.
        if stream is not sys.stderr:
            stream.reconfigure(errors="surrogateescape")


def run(arguments: list[str]) -> int:
    """Run one command; return its exit status."""
    try:
        with checked_stdout(), reported_progress(SlowActivity()):
            status = app(arguments or ["--help"], prog_name="charlm", standalone_mode=False)
            sys.stdout.flush()
    except OptionError as error:
        status = 1 if isinstance(error, UnsupportedOptionError) else 2
        return _fail("charlm", error.message(flag), status)
    except CharlmError as error:
        return _fail("charlm", str(error), 1)
    except typer.TyperException as error:
        context: typer.Context | None = getattr(error, "ctx", None)
        command = context.command_path if context else "charlm"
        return _fail(command, f"{_describe_usage_error(error)} (see {command} --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("charlm", "interrupted", 130)
    except BrokenPipeError:
        return 1  # The reader, such as `head`, has closed the pipe: end silently, as others do.
    except UnicodeEncodeError as error:
        character = ascii(error.object[error.start])
        problem = f"cannot write {character} in the encoding {error.encoding}"
        return _fail("stdout", f"{problem}; set PYTHONIOENCODING=utf-8", 1)
    except OSError as error:
        if error.filename is None:
            raise
        return _fail("charlm", f"{os.fsdecode(error.filename)}: {error.strerror}", 1)
    return status if isinstance(status, int) else 0


def _describe_usage_error(error: typer.TyperException) -> str:
    """Return typer's message; in place of pydantic's, ours, which names the value."""
    from pydantic import ValidationError

    from charlm.config.mistakes import describe_problem

    if isinstance(error.__cause__, ValidationError):
        error.message = describe_problem(error.__cause__.errors(include_url=False)[0])
    if setting := _unknown_setting(error):
        return f"{error.message}; change the setting with --set {setting}=VALUE"
    return error.format_message().removesuffix(".")


def _unknown_setting(error: typer.TyperException) -> str | None:
    """Return the setting that an unknown option names, if the command takes settings."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is None or not hasattr(error, "possibilities"):  # Another kind of mistake.
        return None
    takes_settings = any(part.metavar == "SECTION.KEY=VALUE" for part in context.command.params)
    return setting_of(getattr(error, "option_name", "")) if takes_settings else None


def _fail(place: str, message: str, status: int) -> int:
    say(one_line(f"{place}: {message}"))
    return status
