"""The command `charlm`: parse, call one function, print. Results on stdout, everything else on stderr."""

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from charlm.cli import compress, config, corpus, evaluate, inspect, sample, scores, train, tune
from charlm.cli.options import flag
from charlm.cli.terminal import emit, say
from charlm.errors import CharlmError, ConfigError, OptionError
from charlm.storage.untrusted import one_line
from charlm.version import VERSION

app = typer.Typer(
    name="charlm",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("sample")(sample.sample)
evaluate.app.command("sentences")(scores.sentences)
evaluate.app.command("tokens")(scores.tokens)
evaluate.app.command("compare")(scores.compare)
app.add_typer(evaluate.app, name="eval")
app.command("compress")(compress.compress)
app.command("decompress")(compress.decompress)
app.command("inspect")(inspect.inspect)
app.add_typer(corpus.app, name="corpus")
app.add_typer(config.app, name="config")


def _version(wanted: bool) -> None:
    if wanted:
        emit(f"charlm {VERSION}")
        raise typer.Exit


@app.callback()
def _charlm(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train a recurrent language model on any text, write new text with it, and score it honestly.

    charlm train --config quickstart, then charlm sample --temperature 0.8, then charlm eval perplexity
    """


def main() -> None:
    """Run the command line; a person's mistake is one line on stderr and status 1, wrong usage status 2."""
    if isinstance(
        sys.stdout, TextIOWrapper
    ):  # The bytes of a file's name that are not UTF-8 go out as they came in.
        sys.stdout.reconfigure(errors="surrogateescape")
    status = run(sys.argv[1:])
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        # The group was not left in order: torch's threads may wait for one that is gone, and abort an orderly end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Run one command; return its exit status."""
    try:
        status = app(arguments or ["--help"], prog_name="charlm", standalone_mode=False)
        sys.stdout.flush()
    except OptionError as error:
        return _fail("charlm", error.message(flag), 2)
    except CharlmError as error:
        return _fail("charlm", str(error), _status(error))
    except typer.TyperException as error:
        context: typer.Context | None = getattr(error, "ctx", None)
        place = context.command_path if context else "charlm"
        return _fail(place, f"{_usage(error)} (see {place} --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("charlm", "interrupted", 130)
    except (
        BrokenPipeError
    ):  # Whoever read us, `head` say, has had enough: no word of it, as elsewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UnicodeEncodeError as error:
        odd = ascii(error.object[error.start])
        return _fail(
            "stdout", f"its encoding, {error.encoding}, has no {odd}; set PYTHONIOENCODING=utf-8", 1
        )
    except OSError as error:
        if error.filename is None:
            raise
        return _fail("charlm", f"{os.fsdecode(error.filename)}: {error.strerror}", 1)
    return status if isinstance(status, int) else 0


def _status(error: CharlmError) -> int:
    """Return 2 where an option is the place of a configuration's mistake: that is wrong usage."""
    return 2 if isinstance(error, ConfigError) and str(error).startswith("--") else 1


def _usage(error: typer.TyperException) -> str:
    """Return what typer says is wrong, with the value that is; it leaves that out of what pydantic found."""
    from pydantic import ValidationError

    message = error.format_message().replace("Input should", "must").replace("Value error, ", "")
    if not isinstance(error.__cause__, ValidationError):
        return message.removesuffix(".")
    given = [
        detail["input"] for detail in error.__cause__.errors() if isinstance(detail["input"], str)
    ]
    told = "".join(f", got {value!r:.60}" for value in given[:1] if repr(value) not in message)
    return f"{message.removesuffix('.')}{told}"


def _fail(place: str, message: str, status: int) -> int:
    say(one_line(f"{place}: {message}"))
    return status
