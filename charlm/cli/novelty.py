"""`charlm eval novelty`."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import MOST, MOST_SEED, Device, Json, Which, at_most, finite, not_empty
from charlm.cli.terminal import emit_result

if TYPE_CHECKING:  # It imports torch.
    from charlm.evaluation.novelty import Novelty, Side

_SHOWN = 72  # Characters of a copy.
_COUNT, _SHARE = ",", ".2%"


def novelty(
    run_and_file: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|FILE",
            callback=not_empty,
            help="Run folder [the newest under runs/], then a file of samples; - is stdin.",
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST),
            help="With no FILE: records or tokens to write. [1000; 20000]",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, callback=finite, help="With no FILE: of what is written.")
    ] = 1.0,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            callback=at_most(MOST_SEED),
            help="With no FILE: the same seed writes the same texts.",
        ),
    ] = 1,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """See how new a model's texts are: what they copy from the training text, beside what held-out text shares with it.

    Records or sentences that are new, the longest copy and where it is from, n-grams in common, self-repetition. Of a file of samples, or of samples that the run writes now.

    Try: charlm eval novelty --temperature 0.8
    """
    from charlm.api import load

    folder, path = _run_then_file(run_and_file or [])
    found = load(folder, which=which, device=device).novelty(
        path=path, size=size, temperature=temperature, seed=seed
    )
    emit_result(found.to_json(), _table(found), as_json=as_json)


def _run_then_file(arguments: list[str]) -> tuple[Path | None, str | None]:
    """Tell a run folder from a file: one argument is a file if it is one, or stdin."""
    if len(arguments) > 2:
        raise typer.BadParameter(
            f"one run and one file at most; got {len(arguments)}", param_hint="RUN|FILE"
        )
    if len(arguments) == 1 and (arguments[0] == "-" or Path(arguments[0]).is_file()):
        return None, arguments[0]
    return (Path(arguments[0]) if arguments else None), arguments[1] if len(
        arguments
    ) == 2 else None


def _table(found: "Novelty") -> Iterator[str]:
    sides = [found.sample, found.held_out]
    unit, size = found.settings["ngrams_of"], found.settings["repeated_ngram"]
    yield _row("", ["sample", "held out"])
    yield _row("characters", _each(sides, _COUNT, lambda side: side.characters))
    yield _row(found.settings["pieces"], _each(sides, _COUNT, lambda side: side.pieces))
    yield _row("  not in the training text", _each(sides, _SHARE, lambda side: side.novel_share))
    yield _row("  not like one before", _each(sides, _SHARE, lambda side: side.distinct_share))
    yield _row("longest copy, characters", _each(sides, _COUNT, _copied))
    yield _row(f"in the training text, of {unit}", [])
    for number in range(len(found.sample.overlap)):
        yield _row(
            f"  {number + 1}-grams", _each(sides, _SHARE, lambda side, at=number: side.overlap[at])
        )
    yield _row(
        f"{size}-grams of {unit} written before",
        _each(sides, _SHARE, lambda side: side.repeated_share),
    )
    if copy := found.sample.longest_copy:
        text = copy.text if len(copy.text) <= _SHOWN else f"{copy.text[:_SHOWN]}..."
        place = f"character {copy.training_character:,} (line {copy.training_line:,})"
        yield f"the longest copy is {text!r}, from {place} of the training text"
    yield ", ".join(f"{name} {value}" for name, value in found.settings.items())


def _each(sides: Sequence[Any], style: str, fact: Callable[..., float | None]) -> list[str]:
    """Return a fact of each column, - where there is none."""
    facts = [None if side is None else fact(side) for side in sides]
    return ["-" if found is None else format(found, style) for found in facts]


def _row(label: str, cells: Sequence[str]) -> str:
    return f"{label:<36}" + "".join(f"{cell:>12}" for cell in cells)


def _copied(side: "Side") -> int:
    return side.longest_copy.characters if side.longest_copy else 0
