"""`charlm eval sentences`, `tokens` and `compare`: scores of sentences, of tokens and of runs."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.loading import load
from charlm.cli.options import (
    Device,
    Json,
    NamedRun,
    PartName,
    RunAndTexts,
    Split,
    Which,
    as_path,
    at_most,
    choose_text,
    count_option,
    file_of,
    not_empty,
    seed_option,
    split_run_and_texts,
    texts_or_split,
)
from charlm.cli.terminal import emit, emit_json, emit_result, emit_table, folded, printable, say
from charlm.config.values import MAX_COUNT
from charlm.evaluation.options import RARE, SHOWN_TOKENS

if TYPE_CHECKING:  # It imports torch.
    from charlm.evaluation.sentences import Sentences
    from charlm.evaluation.surprisal import Surprisal

_LISTED_LINES = 10
# Lower limit of the bits, and background colour, of each shade; None is no colour.
_SHADES = ((0, None), (1, 230), (2, 222), (4, 215), (6, 209), (8, 203))


Show = Annotated[
    int | None,
    typer.Option(
        min=0,
        callback=at_most(MAX_COUNT),
        help="Number of tokens to show, from the first. [1000; all with --json]",
        show_default=False,
    ),
]
Rare = Annotated[
    int,
    typer.Option(
        min=0,
        callback=at_most(MAX_COUNT),
        help="Words that occur at most this often in the training text are rare.",
    ),
]
Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN RUN...", parser=as_path, help="Two run folders or more."),
]
TextFile = Annotated[
    str | None,
    typer.Option("--text", metavar="FILE", callback=not_empty, help="Text to score; - is stdin."),
]
SplitOfFirst = Annotated[
    PartName | None,
    typer.Option(
        help="Without --text: part of the first run's corpus. [valid]", show_default=False
    ),
]
Block = Annotated[
    int | None,
    count_option(
        help="Minimum number of characters in a piece; blocks consist of pieces. [1000; fewer in "
        "a short text]",
        show_default=False,
    ),
]
UnusedSeed = Annotated[int, seed_option(help="Without effect.", hidden=True)]


def sentences(
    run_and_file: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|FILE",
            callback=not_empty,
            help="Run folder [the newest under runs/], then a file with one sentence per line; - "
            "is stdin.",
        ),
    ] = None,
    ranked: Annotated[bool, typer.Option("--ranked", help="The most probable first.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the probability of each token.")
    ] = False,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    r"""Show which of several sentences is the most probable: log P in nats, in all and per token.

    Each sentence is read by itself, from the initial state.

    Try: printf 'a pair salad\na pear salad\n' | charlm eval sentences - --ranked
    """
    folder, files = split_run_and_texts(run_and_file, named_run)
    file = file_of(files, "sentences", "RUN|FILE")
    if file is None:
        raise typer.BadParameter(
            "must name a file with one sentence per line, or - for stdin", param_hint="RUN|FILE"
        )
    result = load(folder, which=which, device=device).sentences(path=file, explain=explain)
    _warn_of_unknown(result)
    if ranked:
        result = replace(result, sentences=result.ranked())
    emit_result(result, as_json=as_json)


def tokens(
    run_and_texts: RunAndTexts = None,
    split: Split = None,
    show: Show = None,
    rare: Rare = RARE,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show the surprisal of each token in colour, and by class, position in the word, and distance.

    Without a terminal, or with NO_COLOR set, prints one token per line. The sums cover the whole
    text.

    Try: charlm eval tokens --show 300
    """
    folder, text = choose_text(run_and_texts, named_run, split)
    if show is None and not as_json:
        show = SHOWN_TOKENS
    result = load(folder, which=which, device=device).surprise(**text, rare=rare, show=show)
    if as_json:
        emit_json(result.to_json())
    else:
        _emit_tokens(result)


def compare(
    runs: Runs,
    text: TextFile = None,
    split: SplitOfFirst = None,
    block: Block = None,
    seed: UnusedSeed = 1,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show which of several runs is best on the same text, and how certain that is.

    Each run is compared with the first by bits per character, so that the tokenizers may differ,
    with a 95 % interval: the widest of Student's t over 3, 4, 8 and 16 long blocks of the text.

    Try: charlm eval compare runs/one runs/other --split valid
    """
    if len(runs) < 2:
        raise typer.BadParameter(
            f"must be at least two runs, got {len(runs)}", param_hint="RUN RUN..."
        )
    chosen = texts_or_split(text, split, option="text", name="path")
    first, *others = [load(folder, which=which, device=device) for folder in runs]
    result = first.compare(others, **chosen, block_characters=block, seed=seed)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    emit_table(result.to_json(), map(folded, result.lines(width)), as_json=as_json)
    for warning in result.warnings:
        say(f"warning: {warning}")


def _warn_of_unknown(result: "Sentences") -> None:
    """Name the sentences that the model hardly reads, because most of their tokens are <UNK>."""
    lines = [str(row.line) for row in result.sentences if row.is_mostly_unknown]
    if lines:
        more = ", ..." * (len(lines) > _LISTED_LINES)
        say(
            f"line {', '.join(lines[:_LISTED_LINES])}{more}: most tokens are <UNK>, because the "
            "training text does not have them; the score says little about the sentence"
        )


def _emit_tokens(result: "Surprisal") -> None:
    """Print the shown tokens, in colour on a terminal, and the tables."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        # The text is printable already, and the control characters of its colours are intended.
        emit("\n".join(_coloured_text(result.each)), raw=True)
        result = replace(result, each=[])
    emit_result(result, as_json=False)


def _coloured_text(tokens: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the text with the surprisal of each token as its background, and a legend."""
    yield "".join(_coloured(token["text"], _colour_of(token["surprise_bits"])) for token in tokens)
    yield "bits: " + " ".join(_coloured(f" {lower}+ ", colour) for lower, colour in _SHADES)


def _colour_of(bits: float) -> int | None:
    return next((colour for lower, colour in reversed(_SHADES) if bits >= lower), None)


def _coloured(text: str, colour: int | None) -> str:
    if colour is None or not text:
        return printable(text)
    start, end = f"\x1b[38;5;16;48;5;{colour}m", "\x1b[0m"
    # Line ends become visible, and no colour continues to the edge of the screen.
    return "\n".join(
        f"{start}{printable(part)}{end}" if part else ""
        for part in text.replace("\n", "↵\n").split("\n")
    )
