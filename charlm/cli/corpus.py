"""`charlm corpus`: list, build, fetch, encode and describe corpora."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.bars import bar_of_steps, bar_of_total
from charlm.cli.help import CommandGroup
from charlm.cli.new_run import (
    ConfigName,
    Overrides,
    TextArguments,
    checked_config,
    text_override,
)
from charlm.cli.options import MAX_PROCESSES, Json, as_path, as_target, at_most, not_empty
from charlm.cli.terminal import emit, emit_table, say

if TYPE_CHECKING:
    from charlm.data.statistics import Statistics
    from charlm.runs.encoding import EncodedCorpus

app = typer.Typer(
    help="List, build, fetch, encode and describe corpora.", rich_markup_mode=None, cls=CommandGroup
)
Name = Annotated[str, typer.Argument(metavar="NAME", callback=not_empty, help="Name of a corpus.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=at_most(MAX_PROCESSES),
        help="Number of processes that encode. [number of cores]",
    ),
]
_LETTERS_SHOWN = 100


@app.command("list")
def list_() -> None:
    """List the corpora that charlm knows by name, and which of them are on this machine.

    Try: charlm corpus list
    """
    from charlm.data.cards import card_names, corpus_files, load_card

    for name in card_names():
        card = load_card(name)
        here = all(path.is_file() for path in corpus_files(name, card).values())
        state = "here" if here else "built when needed" if card.kind == "python" else "not fetched"
        emit(f"{name:<16} {card.mode:<8} {state:<18} {card.title}")


@app.command("show")
def show(name: Name) -> None:
    """Print the card of a corpus: title, language, licence, source; and its files.

    Try: charlm corpus show python-docs
    """
    from charlm.data.cards import corpus_files, load_card

    card = load_card(name)
    for key, value in card.model_dump(exclude_defaults=True).items():
        emit(f"{key}: {value!r}" if key == "separator" else f"{key}: {value}")
    for part, path in corpus_files(name, card).items():
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "not on this machine"
        emit(f"{part} file: {path} ({size})")


@app.command("build")
def build_corpus(
    name: Name,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=as_target, help="File to write. [the file that train reads]"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PARAMETER=VALUE",
            help="Parameter of the builder; needs --to. Repeatable.",
        ),
    ] = None,
) -> None:
    """Build a corpus from files of this Python installation, and print its path.

    Try: charlm corpus build agreement --set sentences=1000 --to agreement.txt
    """
    from charlm.data import cards

    emit(str(cards.build_corpus(name, to=to, parameters=_parameters(overrides or []))))


@app.command("fetch")
def fetch(
    name: Name,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            parser=as_path,
            help="Use this copy of the file instead of a download.",
        ),
    ] = None,
) -> None:
    """Download a corpus, check and unpack it, and print its files.

    No other command downloads files.

    Try: charlm corpus fetch tinyshakespeare
    """
    from charlm.data.cards import fetch_corpus

    with bar_of_total(name, "B") as report:
        files = fetch_corpus(name, source=source, report=report)
    for file in files:
        emit(str(file))


@app.command("encode")
def encode(
    texts: TextArguments = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    workers: Workers = None,
) -> None:
    """Encode a text before the training, and print the number of tokens of each part.

    The text is read and split as train does with the same options. The result is kept in the
    cache, where train finds it. If the command is interrupted, it continues there the next time.

    Try: charlm corpus encode texts/ --set tokenizer.level=bpe --workers 8
    """
    encoded = _encode(texts, config, overrides, workers)
    emit(f"{'part':<6} {'tokens':>16} {'characters':>16} {'bytes':>16}")
    for part, tokens in encoded.tokens.items():
        counts = tokens.counts
        emit(f"{part:<6} {counts.tokens:>16,} {counts.characters:>16,} {counts.bytes:>16,}")


@app.command("stats")
def stats(
    texts: TextArguments = None,
    config: ConfigName = None,
    overrides: Overrides = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Print statistics of a text: documents, duplicates, characters, lengths, unknown tokens.

    The text is read and split as train does with the same options: in records mode, each record is
    a document. The vocabulary is learned from the training part.

    Try: charlm corpus stats my.txt --set tokenizer.level=word
    """
    from charlm.data.statistics import compute_statistics

    encoded = _encode(texts, config, overrides, workers)
    facts = _statistics(encoded, compute_statistics(*encoded.corpus.parts.values()))
    emit_table(facts, _table(facts), as_json=as_json)


def _statistics(encoded: "EncodedCorpus", statistics: "Statistics") -> dict[str, Any]:
    """Return the facts that `charlm corpus stats --json` prints."""
    from charlm.data.statistics import QUANTILES

    lengths = zip(QUANTILES, statistics.lengths, strict=True)
    shares = encoded.corpus.shares_in_training()
    return {
        "title": encoded.corpus.title,
        "mode": encoded.corpus.mode,
        "warnings": list(encoded.corpus.warnings),
        **statistics.to_json(),
        "lengths": {f"{quantile:.0%}": length for quantile, length in lengths},
        "level": encoded.tokenizer.section.level,
        "vocabulary_size": encoded.tokenizer.vocabulary_size,
        "parts": {
            part: {
                "documents": len(encoded.corpus.parts[part].spans),
                **tokens.counts.to_json(),
                "unknown_share": tokens.counts.unknown_share,
                "records_in_training": shares.get(part),
            }
            for part, tokens in encoded.tokens.items()
        },
    }


def _table(facts: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table of statistics."""
    from charlm.data.listing import shown_title

    letters = json.dumps("".join(list(facts["alphabet"])[:_LETTERS_SHOWN]), ensure_ascii=False)
    yield f"{shown_title(facts['title'])} ({facts['mode']})"
    rows = [
        ("documents", f"{facts['documents']:,}"),
        ("duplicates", f"{facts['duplicates']:,}"),
        ("characters", f"{facts['characters']:,}"),
        ("bytes", f"{facts['bytes']:,}"),
        ("alphabet", f"{len(facts['alphabet']):,} characters; the most frequent: {letters}"),
        (
            "characters per document",
            "; ".join(f"{share} {length:,}" for share, length in facts["lengths"].items()),
        ),
        ("vocabulary", f"{facts['vocabulary_size']:,} ({facts['level']})"),
    ]
    yield from (f"{name:<28}{value}" for name, value in rows)
    yield from _table_of_parts(facts["parts"])


def _table_of_parts(parts: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each part, and for each one with records that are in training too."""
    yield (
        f"{'part':<6} {'documents':>12} {'tokens':>14} {'characters':>14} "
        f"{'bytes':>14} {'unknown':>9}"
    )
    for name, part in parts.items():
        yield (
            f"{name:<6} {part['documents']:>12,} {part['tokens']:>14,} {part['characters']:>14,} "
            f"{part['bytes']:>14,} {part['unknown_share']:>9.3%}"
        )
    for name, part in parts.items():
        if part["records_in_training"]:
            yield f"{part['records_in_training']:.1%} of the {name} records are in training too"


def _encode(
    texts: list[str] | None, config: str | None, overrides: list[str] | None, workers: int | None
) -> "EncodedCorpus":
    """Return the encoded text, and print what does not fit it."""
    from charlm.data.resolve import resolve
    from charlm.data.tokens import available_cores
    from charlm.runs.automatic.choice import choose_reading_of_text
    from charlm.runs.encoding import encode

    settings = [*(overrides or []), *text_override(texts or [])]
    checked = checked_config(config, settings)
    if config is None:  # As `train` without a configuration.
        checked = choose_reading_of_text(settings).config
    with bar_of_steps("encoding", "B") as report:
        encoded = encode(resolve(checked), workers=workers or available_cores(), report=report)
    for warning in encoded.corpus.warnings:
        say(f"warning: {warning}")
    return encoded


def _parameters(overrides: list[str]) -> dict[str, object]:
    from charlm.storage.untrusted import parse_yaml

    parameters = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        problem = f"must be PARAMETER=VALUE, as in sentences=1000, got {override!r}"
        try:
            parameters[key] = parse_yaml(value)
        except ValueError as error:
            problem = f"{key}: the value is not YAML that charlm accepts: {error}, got {override!r}"
            equals = ""
        if not equals:
            raise typer.BadParameter(problem, param_hint="--set")
    return parameters
