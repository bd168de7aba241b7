"""`charlm eval sentences`, `charlm eval tokens` and `charlm eval compare`."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charlm.cli.evaluate import run_then_texts, told_settings
from charlm.cli.options import (
    MOST,
    MOST_SEED,
    Device,
    Json,
    Split,
    Which,
    as_path,
    at_most,
    not_empty,
)
from charlm.cli.terminal import emit, emit_json, emit_result, printable

if TYPE_CHECKING:  # It imports torch.
    from charlm.evaluation.comparison import Compared, Comparison
    from charlm.evaluation.sentences import Sentence, Sentences
    from charlm.evaluation.surprisal import Surprisal

_SHADES = (
    (1.0, None),
    (2.0, 230),
    (4.0, 222),
    (6.0, 215),
    (8.0, 209),
    (float("inf"), 203),
)  # Bits below → background.


def sentences(
    run_and_file: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|FILE",
            callback=not_empty,
            help="Run folder [the newest under runs/], then a file, a sentence a line; - is stdin.",
        ),
    ] = None,
    ranked: Annotated[bool, typer.Option("--ranked", help="The most probable first.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show each token's probability.")
    ] = False,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    r"""See which of several sentences is the most probable: log P of each in nats, whole and per token.

    Each is read by itself, from the initial state.

    Try: printf 'The apple and pair salad\nThe apple and pear salad\n' | charlm eval sentences - --ranked
    """
    from charlm.api import load

    folder, files = run_then_texts(run_and_file or [])
    if len(files) != 1:
        raise typer.BadParameter(
            f"one file of sentences, or - for stdin; got {len(files)}", param_hint="FILE"
        )
    found = load(folder, which=which, device=device).sentences(path=files[0], explain=explain)
    rows = found.ranked() if ranked else found.sentences
    if as_json:
        emit_json(type(found)(rows, found.settings).to_json())
    else:
        emit("\n".join(_sentences_table(found, rows)))


def _sentences_table(found: "Sentences", rows: "Sequence[Sentence]") -> Iterator[str]:
    yield f"{'line':>6}{'log P':>12}{'per token':>12}{'tokens':>8}  sentence"
    for row in rows:
        unknown = f"  ({row.unknown} <UNK>)" if row.unknown else ""
        yield (
            f"{row.line:>6}{row.log_probability:>12.4f}{row.log_probability_per_token:>12.4f}{row.tokens:>8}"
            f"  {row.text}{unknown}"
        )
        for token in row.explained or []:
            yield f"{'':>6}{token.log_probability:>12.4f}{token.probability:>12.2%}{'':>8}  {token.text!r}"
    yield told_settings(found.settings)


def tokens(
    run_and_texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|TEXT",
            callback=not_empty,
            help="Run folder [the newest under runs/], then texts; - is stdin.",
        ),
    ] = None,
    split: Split = "valid",
    show: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=at_most(MOST),
            help="Tokens shown, from the first. [1000; all with --json]",
            show_default=False,
        ),
    ] = None,
    rare: Annotated[
        int,
        typer.Option(
            min=0,
            callback=at_most(MOST),
            help="A word is rare that the training text has at most so often.",
        ),
    ] = 5,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """See where a text surprises a model: bits of each token in colour, and by kind, place in the word, and distance.

    Without a terminal, or with NO_COLOR set, a token a line. The sums are over the whole text.

    Try: charlm eval tokens --show 300
    """
    from charlm.api import load

    folder, texts = run_then_texts(run_and_texts or [])
    found = load(folder, which=which, device=device).surprise(
        paths=texts, split=split, rare=rare, show=1000 if show is None and not as_json else show
    )
    if as_json:
        emit_json(found.to_json())
        return
    is_coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    if is_coloured:  # Its text is printable already; its colours are orders that are meant.
        emit("\n".join(_coloured(found.each)), raw=True)
    emit("\n".join([*([] if is_coloured else _listed(found.each)), *_tokens_tables(found)]))


def _coloured(each: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the text with each token's surprise as its background, and what the colours mean."""
    yield "".join(_shade(token["text"], token["surprise_bits"]) for token in each)
    limits = ["0", *[f"{below:g}" for below, _ in _SHADES[:-1]]]
    yield "bits: " + " ".join(
        _shade(f" {low}+ ", below - 1e-9 if below < 1e9 else below)
        for low, (below, _) in zip(limits, _SHADES, strict=True)
    )


def _shade(text: str, bits: float) -> str:
    colour = next((colour for below, colour in _SHADES if bits < below), _SHADES[-1][1])
    if colour is None or not text:
        return printable(text)
    paint, reset = f"\x1b[38;5;16;48;5;{colour}m", "\x1b[0m"
    # A line's end is made visible, and no colour runs on to the screen's edge.
    return "\n".join(
        f"{paint}{printable(part)}{reset}" if part else ""
        for part in text.replace("\n", "↵\n").split("\n")
    )


def _listed(each: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield from (f"{token['surprise_bits']:>9.3f}  {token['text']!r}" for token in each)


def _tokens_tables(found: "Surprisal") -> Iterator[str]:
    yield f"\n{'':<26}{'tokens':>10}{'share':>9}{'bits each':>11}{'of all bits':>13}"
    titles = {
        "class": ("class of token", found.by_class),
        "position": ("character in the word", found.by_position),
        "distance": ("tokens since it came last", found.by_distance),
    }
    for name, (title, rows) in titles.items():
        yield title
        for row in rows:
            label = row[name] if name == "class" else _bucket(row[name], row[f"{name}_to"])
            yield (
                f"  {label:<24}{row['tokens']:>10,}{row['share']:>9.2%}{row['surprise_bits']:>11.3f}"
                f"{row['share_of_surprise']:>13.2%}"
            )
    yield f"{'all':<26}{found.tokens:>10,}{1:>9.2%}{found.surprise_bits:>11.3f}{1:>13.2%}"
    yield f"loss_nats {found.loss_nats:.4f}, {told_settings(found.settings)}"


def _bucket(first: int | None, last: int | None) -> str:
    if first is None:
        return "it never came"
    return (
        f"{first:,} or more"
        if last is None
        else f"{first:,}"
        if first == last
        else f"{first:,} to {last:,}"
    )


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", parser=as_path, help="Run folders, two at least."),
    ],
    text: Annotated[
        str | None,
        typer.Option(
            "--text", metavar="FILE", callback=not_empty, help="A text to score; - is stdin."
        ),
    ] = None,
    split: Annotated[
        Literal["train", "valid", "test"],
        typer.Option(help="Without --text: this part of the first run's corpus."),
    ] = "valid",
    block: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST),
            help="Characters in a block, at least. [1000; less in a short text]",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, callback=at_most(MOST_SEED), help="Of the bootstrap.")
    ] = 1,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """See which of several runs is best on the same text, and whether the text is long enough to be sure.

    Each is compared with the first, by bits per character, so that tokenizers need not be the same; with the interval
    that holds 95 % of a bootstrap over blocks of the text.

    Try: charlm eval compare runs/one runs/other --split valid
    """
    if len(runs) < 2:
        raise typer.BadParameter(f"two runs at least; got {len(runs)}", param_hint="RUN RUN...")
    from charlm.api import load

    first, *others = [load(folder, which=which, device=device) for folder in runs]
    found = first.compare(others, path=text, split=split, block_characters=block, seed=seed)
    emit_result(found.to_json(), _comparison_table(found), as_json=as_json)


def _comparison_table(found: "Comparison") -> Iterator[str]:
    width = max(24, *(len(run.run) for run in found.runs))
    facts: dict[str, Callable[[Compared], str]] = {
        "bits/char": lambda run: f"{run.bits_per_character:.4f}",
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
    yield f"{'':<{width}}" + "".join(f"{name:>13}" for name in facts)
    for run in found.runs:
        yield f"{run.run:<{width}}" + "".join(f"{fact(run):>13}" for fact in facts.values())
    yield f"\n{f'against {found.runs[0].run}':<{width}}{'bits/char':>13}{'95 % from':>13}{'to':>13}"
    for row in found.differences:
        interval = "".join(
            f"{'-' if end is None else format(end, '+.4f'):>13}" for end in (row.low, row.high)
        )
        yield f"{row.run:<{width}}{row.bits_per_character:>+13.4f}{interval}"
    yield told_settings(found.settings)
