"""`charlm eval agreement` and `charlm eval parity`: accuracy on generated texts."""

from dataclasses import dataclass
from typing import Annotated

import typer

from charlm.cli.arguments import given_options, options_from
from charlm.cli.loading import load
from charlm.cli.options import (
    Device,
    Folder,
    Json,
    NamedRun,
    Which,
    at_most,
    choose_run,
    file_of,
    not_empty,
    seed_option,
    split_run_and_texts,
)
from charlm.cli.terminal import emit_result
from charlm.config.values import MAX_COUNT
from charlm.errors import refuse_beside

RunAndPairs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN|PAIRS",
        callback=not_empty,
        help="Run folder [the newest under runs/], then a file of pairs, one per line: the "
        "right sentence, a tab, the wrong one; - is stdin.",
    ),
]
NumSentences = Annotated[
    int,
    typer.Option(
        min=2, callback=at_most(MAX_COUNT), help="Without PAIRS: number of generated sentences."
    ),
]
Longest = Annotated[
    int,
    typer.Option(
        min=0,
        max=16,
        help="Maximum number of phrases before the verb; the corpus agreement has 4.",
    ),
]
MostNouns = Annotated[
    int,
    typer.Option(min=0, max=16, help="Maximum number of nouns in these phrases; the corpus has 3."),
]


@dataclass(frozen=True)
class AgreementArguments:
    """The arguments of `charlm eval agreement`, in the order of its help."""

    run_and_pairs: RunAndPairs = None
    sentences: NumSentences = 2000
    seed: Annotated[int, seed_option(help="Seed of the generated sentences.")] = 2
    longest: Longest = 4
    most_nouns: MostNouns = 3
    named_run: NamedRun = None
    which: Which = "best"
    device: Device = "auto"
    as_json: Json = False


@options_from(AgreementArguments)
def agreement(arguments: AgreementArguments) -> None:
    """Measure what a model remembers: does the verb agree with a subject many words before it?

    Compares the verbs of generated sentences (train on the corpus agreement), or the two sentences
    of each pair in a file.

    Try: charlm eval agreement --longest 8 --most-nouns 6
    """
    folder, files = split_run_and_texts(arguments.run_and_pairs, arguments.named_run)
    file = file_of(files, "pairs", "RUN|PAIRS")
    generated = given_options(arguments, ("sentences", "seed", "longest", "most_nouns"))
    if file is not None:
        refuse_beside("pairs", "which has the sentences", **generated)
    result = load(folder, which=arguments.which, device=arguments.device).agreement(
        file, **generated
    )
    emit_result(result, as_json=arguments.as_json)


def parity(
    run: Folder = None,
    strings: Annotated[
        int,
        typer.Option(
            min=2,
            callback=at_most(MAX_COUNT),
            help="Number of strings of each length, an even number.",
        ),
    ] = 200,
    longest: Annotated[
        int,
        typer.Option(
            min=1, max=4096, help="Maximum number of bits of a string; the corpus parity has 16."
        ),
    ] = 64,
    seed: Annotated[int, seed_option(help="Seed of the strings.")] = 2,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure what a recurrence can compute: is the number of ones in a string of bits odd?

    Train on the corpus parity first. Chance is 50 %.

    Try: charlm eval parity --longest 128
    """
    folder = choose_run(run, named_run)
    result = load(folder, which=which, device=device).parity(
        strings=strings, longest=longest, seed=seed
    )
    emit_result(result, as_json=as_json)
