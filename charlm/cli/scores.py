"""`charlm eval sentences`, `tokens` and `compare`: scores of sentences, of tokens and of runs."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
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
    part_to_score,
    seed_option,
    split_run_and_texts,
)
from charlm.cli.tables import format_number, format_range, format_settings
from charlm.cli.terminal import emit, emit_json, emit_result, folded, printable, say
from charlm.config.values import MAX_COUNT
from charlm.errors import quote
from charlm.evaluation.options import RARE

if TYPE_CHECKING:  # It imports torch.
    from charlm.evaluation.comparison import Compared, Comparison
    from charlm.evaluation.sentences import Sentences
    from charlm.evaluation.surprisal import Surprisal

_SHOWN_TOKENS = 1000
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
    emit_result(result.to_json(), _sentences_table(result), as_json=as_json)


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
    folder, paths, part = choose_text(run_and_texts, named_run, split)
    if show is None and not as_json:
        show = _SHOWN_TOKENS
    result = load(folder, which=which, device=device).surprise(
        paths=paths, split=part, rare=rare, show=show
    )
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
    part = part_to_score(split, [text] if text else [], "text")
    first, *others = [load(folder, which=which, device=device) for folder in runs]
    result = first.compare(others, path=text, split=part, block_characters=block, seed=seed)
    emit_result(result.to_json(), _comparison_table(result), as_json=as_json)
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


def _sentences_table(result: "Sentences") -> Iterator[str]:
    yield f"{'line':>6}{'log P':>12}{'per token':>12}{'tokens':>8}  sentence"
    for row in result.sentences:
        unknown = f"  ({row.unknown} <UNK>)" if row.unknown else ""
        scores = f"{row.log_probability:>12.4f}{row.log_probability_per_token:>12.4f}"
        yield f"{row.line:>6}{scores}{row.tokens:>8}  {row.text}{unknown}"
        for token in row.explained or []:
            scores = f"{token.log_probability:>12.4f}{token.probability:>12.2%}"
            yield f"{'':>6}{scores}{'':>8}  {quote(token.text)}"
    yield folded(format_settings(result.settings))


def _emit_tokens(result: "Surprisal") -> None:
    """Print the shown tokens, in colour on a terminal, and the tables."""
    lines = list(_tokens_tables(result))
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        # The text is printable already, and the control characters of its colours are intended.
        emit("\n".join(_coloured_text(result.each)), raw=True)
    else:
        lines = [*_token_list(result.each), *lines]
    emit("\n".join(lines))


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


def _token_list(tokens: Sequence[dict[str, Any]]) -> Iterator[str]:
    if tokens:
        yield f"{'bits':>9}  token"
    yield from (f"{token['surprise_bits']:>9.3f}  {quote(token['text'])}" for token in tokens)


def _tokens_tables(result: "Surprisal") -> Iterator[str]:
    yield f"\n{'':<26}{'tokens':>10}{'share':>9}{'bits/token':>11}{'share of bits':>14}"
    yield from _tokens_table("class of token", result.by_class, "class")
    yield from _tokens_table("character in the word", result.by_position, "position")
    yield from _tokens_table("tokens since the last occurrence", result.by_distance, "distance")
    yield f"{'all':<26}{result.tokens:>10,}{1:>9.2%}{result.surprise_bits:>11.3f}{1:>14.2%}"
    yield folded(f"loss_nats {result.loss_nats:.4f}, {format_settings(result.settings)}")


def _tokens_table(title: str, rows: Sequence[dict[str, Any]], column: str) -> Iterator[str]:
    yield title
    for row in rows:
        if column == "class":
            label = row["class"]
        elif row[column] is None:
            label = "first occurrence"
        else:
            label = format_range(row[column], row[f"{column}_to"])
        share = f"{row['tokens']:>10,}{row['share']:>9.2%}"
        bits = f"{row['surprise_bits']:>11.3f}{row['share_of_surprise']:>14.2%}"
        yield f"  {label:<24}{share}{bits}"


_COMPARISON_COLUMNS: "dict[str, Callable[[Compared], str]]" = {
    "bits/char": lambda run: f"{run.bits_per_character:.4f}",
    "tokens alone": lambda run: format_number(run.token_bits_per_character),
    "nats/token": lambda run: f"{run.loss_nats:.4f}",
    "perplexity": lambda run: f"{run.perplexity:,.4f}",
    "tokens": lambda run: f"{run.tokens:,}",
    "<UNK>": lambda run: f"{run.unknown_share:.2%}",
    "parameters": lambda run: f"{run.parameters:,}",
    "steps": lambda run: f"{run.step:,}",
    "trained, s": lambda run: f"{run.training_seconds:,.1f}",
    "chars/s": lambda run: f"{run.characters_per_second:,.0f}",
    "level": lambda run: str(run.settings["level"]),
}


def _columns_that_fit(width: int) -> int | None:
    """Return the number of columns beside names of a width; None if stdout is not a terminal."""
    if not sys.stdout.isatty():
        return None
    return max(1, (shutil.get_terminal_size().columns - width) // 13)


def _comparison_table(result: "Comparison") -> Iterator[str]:
    width = max(24, *(len(run.run) for run in result.runs))
    columns = list(_COMPARISON_COLUMNS.items())
    while columns:
        count = _columns_that_fit(width) or len(columns)
        part, columns = columns[:count], columns[count:]
        yield " " * width + "".join(f"{name:>13}" for name, _ in part)
        for run in result.runs:
            yield f"{run.run:<{width}}" + "".join(f"{cell(run):>13}" for _, cell in part)
        if columns:
            yield ""
    heading = f"against {result.runs[0].run}"
    yield f"\n{heading:<{width}}{'bits/char':>13}{'95 % from':>13}{'to':>13}"
    for row in result.differences:
        ends = ["-" if end is None else f"{end:+.4f}" for end in (row.low, row.high)]
        interval = "".join(f"{end:>13}" for end in ends)
        yield f"{row.run:<{width}}{row.bits_per_character:>+13.4f}{interval}"
    unused = {"resamples", "seed"}  # Of an earlier method; the JSON keeps them.
    if any(row.low is not None for row in result.differences):
        yield folded(f"The intervals assume that {result.assumption}.")
    else:
        unused |= {"blocks", "block_characters", "confidence"}
    shown = {name: value for name, value in result.settings.items() if name not in unused}
    yield folded(format_settings(shown))
