"""`charlm eval novelty`: how much a model copies from its training text."""

from dataclasses import dataclass
from typing import Annotated

import typer

from charlm.cli.arguments import given_options, options_from
from charlm.cli.loading import load
from charlm.cli.options import (
    Device,
    Json,
    NamedRun,
    Which,
    count_option,
    file_of,
    finite,
    not_empty,
    seed_option,
    split_run_and_texts,
)
from charlm.cli.terminal import emit_result
from charlm.errors import refuse_beside

RunAndFile = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|FILE",
        callback=not_empty,
        help="Run folder [the newest under runs/], then a file of samples; - is stdin.",
    ),
]
Size = Annotated[
    int | None,
    count_option(
        help="Without FILE: number of records [1000] or tokens [20000] to write.",
        show_default=False,
    ),
]
Temperature = Annotated[
    float, typer.Option(min=0, callback=finite, help="Without FILE: temperature of the texts.")
]


@dataclass(frozen=True)
class NoveltyArguments:
    """The arguments of `charlm eval novelty`, in the order of its help."""

    run_and_file: RunAndFile = None
    size: Size = None
    temperature: Temperature = 1.0
    seed: Annotated[int, seed_option(help="Without FILE: seed of the texts.")] = 1
    named_run: NamedRun = None
    which: Which = "best"
    device: Device = "auto"
    as_json: Json = False


@options_from(NoveltyArguments)
def novelty(arguments: NoveltyArguments) -> None:
    """Show how much a model copies from the training text, compared with held-out text.

    Prints how many records or sentences are new, the longest copy and its origin, common n-grams,
    and repetition. The samples come from a file, or the run writes them now.

    Try: charlm eval novelty --temperature 0.8
    """
    folder, files = split_run_and_texts(arguments.run_and_file, arguments.named_run)
    file = file_of(files, "samples", "RUN|FILE")
    written = given_options(arguments, ("size", "temperature", "seed"))
    if file is not None:
        refuse_beside("samples", "which has the samples", **written)
    result = load(folder, which=arguments.which, device=arguments.device).novelty(
        path=file, **written
    )
    emit_result(result, as_json=arguments.as_json)
