"""`charlm eval novelty`: how much a model copies from its training text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

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
from charlm.cli.tables import format_settings
from charlm.cli.terminal import emit_result, folded
from charlm.errors import quote, refuse_beside

if TYPE_CHECKING:  # It imports torch.
    from charlm.evaluation.novelty import Novelty, Side

_SHOWN_CHARACTERS = 72  # Of a copy.
_CLEAR_DIFFERENCE = 0.05  # Of two fractions of new records or sentences.
_COUNT, _FRACTION = ",", ".2%"


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
        help="Without FILE: number of records or tokens to write. [1000; 20000]",
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
    if file is not None:
        written = given_options(arguments, ("size", "temperature", "seed"))
        refuse_beside("samples", "which has the samples", **written)
    result = load(folder, which=arguments.which, device=arguments.device).novelty(
        path=file, size=arguments.size, temperature=arguments.temperature, seed=arguments.seed
    )
    emit_result(result.to_json(), _table(result), as_json=arguments.as_json)


def _table(result: "Novelty") -> Iterator[str]:
    sides = [result.sample, result.held_out]
    settings = result.settings
    unit = settings["ngrams_of"]
    yield folded(_finding(result))
    yield _row("", ["sample", "held out"])
    yield _row("characters", _cells(sides, _COUNT, lambda side: side.characters))
    yield _row(settings["pieces"], _cells(sides, _COUNT, lambda side: side.pieces))
    yield _row(
        "  not in the training text", _cells(sides, _FRACTION, lambda side: side.novel_share)
    )
    yield _row("  not like one before", _cells(sides, _FRACTION, lambda side: side.distinct_share))
    yield _row("longest copy, characters", _cells(sides, _COUNT, _copied_characters))
    yield _row(f"in the training text, of {unit}", [])
    for number in range(len(result.sample.overlap)):
        overlap = [None if side is None else side.overlap[number] for side in sides]
        yield _row(f"  {number + 1}-grams", [_format(value, _FRACTION) for value in overlap])
    repeated = _cells(sides, _FRACTION, lambda side: side.repeated_share)
    yield _row(f"{settings['repeated_ngram']}-grams of {unit} written before", repeated)
    if copy := result.sample.longest_copy:
        is_long = len(copy.text) > _SHOWN_CHARACTERS
        text = f"{copy.text[:_SHOWN_CHARACTERS]}..." if is_long else copy.text
        place = f"character {copy.training_character:,} (line {copy.training_line:,})"
        yield f"the longest copy is {quote(text)}, from {place} of the training text"
    yield folded(format_settings(settings))


def _finding(result: "Novelty") -> str:
    """Return in one sentence how much of the sample is copied."""
    sample, held_out = result.sample, result.held_out
    pieces = result.settings["pieces"]
    found = (
        f"{_format(sample.novel_share, '.1%')} of its {pieces} are new, and its longest copy has "
    )
    found += f"{_copied_characters(sample):,} characters"
    if held_out is None:
        return f"In the sample, {found}; there is no held-out text to compare it with."
    is_copied = (sample.novel_share or 0) < (held_out.novel_share or 0) - _CLEAR_DIFFERENCE
    has_long_copy = _copied_characters(sample) > 2 * _copied_characters(held_out)
    more = "more" if is_copied or has_long_copy else "no more"
    return (
        f"The sample has {more} in common with the training text than held-out text: {found} (held "
        f"out: {_format(held_out.novel_share, '.1%')} and {_copied_characters(held_out):,})."
    )


def _cells(
    sides: "Sequence[Side | None]", style: str, figure: "Callable[[Side], float | None]"
) -> list[str]:
    """Return a figure of each side; a dash for a side that does not exist."""
    return [_format(None if side is None else figure(side), style) for side in sides]


def _format(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:<36}" + "".join(f"{cell:>12}" for cell in cells)


def _copied_characters(side: "Side") -> int:
    return side.longest_copy.characters if side.longest_copy else 0
