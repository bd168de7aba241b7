"""The command `charlm`: parse, call one function, print. Results on stdout, everything else on stderr."""

import os
import sys
from typing import Annotated

import typer

import charlm
from charlm.cli import compress, config, corpus, evaluate, inspect, sample, scores, train, tune
from charlm.errors import CharlmError

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
        print(f"charlm {charlm.__version__}")
        raise typer.Exit


@app.callback()
def _charlm(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train a recurrent language model on any text, write new text with it, and score it honestly.

    charlm train --config quickstart, then charlm sample --temperature 0.8, then charlm eval perplexity
    """


def main() -> None:
    """Run the command line; a person's mistake is one line on stderr and status 1, wrong usage status 2."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; return its exit status."""
    try:
        status = app(arguments or ["--help"], prog_name="charlm", standalone_mode=False)
        sys.stdout.flush()
    except CharlmError as error:
        return _fail("charlm", str(error), 1)
    except typer.TyperException as error:
        context: typer.Context | None = getattr(error, "ctx", None)
        place = context.command_path if context else "charlm"
        return _fail(place, f"{error.format_message()} (see {place} --help)", 2)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("charlm", "interrupted", 130)
    except BrokenPipeError:  # Whoever read us, `head` say, has had enough: no word of it, as elsewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


def _fail(place: str, message: str, status: int) -> int:
    print(f"{place}: {message}", file=sys.stderr)
    return status
