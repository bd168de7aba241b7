"""`charlm corpus`."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import MOST_PROCESSES, as_path, as_target, at_most, not_empty
from charlm.cli.terminal import emit, emit_result
from charlm.cli.train import ConfigName, Overrides, TextArguments, checked_config

if TYPE_CHECKING:
    from charlm.data.tokens import Report
    from charlm.runs.experiment import EncodedCorpus

app = typer.Typer(help="List, build, fetch, encode and count corpora.", rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME", callback=not_empty, help="Name of a corpus.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, callback=at_most(MOST_PROCESSES), help="Processes that encode. [a core each]"
    ),
]
_LETTERS_SHOWN = 100


@app.callback()
def _corpus() -> None:
    """List, build, fetch, encode and count corpora."""


@app.command("list")
def list_() -> None:
    """List the corpora that have names, and which are on this machine.

    Try: charlm corpus list
    """
    from charlm.data.cards import card_names, corpus_files, load_card

    for name in card_names():
        card = load_card(name)
        here = all(path.is_file() for path in corpus_files(name, card).values())
        state = (
            "here" if here else "built when needed" if card.kind == "python" else "to be fetched"
        )
        emit(f"{name:<16} {card.mode:<8} {state:<18} {card.title}")


@app.command("show")
def show(name: Name) -> None:
    """Print what is known of a corpus.

    Try: charlm corpus show python-docs
    """
    from charlm.data.cards import corpus_files, load_card

    card = load_card(name)
    for key, value in card.model_dump(exclude_defaults=True).items():
        emit(f"{key}: {value!r}" if key == "separator" else f"{key}: {value}")
    for part, path in corpus_files(name, card).items():
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "not here yet"
        emit(f"{part} file: {path} ({size})")


@app.command("build")
def build_corpus(
    name: Name,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=as_target, help="File to write. [the one that train reads]"
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PARAMETER=VALUE", help="A builder's parameter; with --to."),
    ] = None,
) -> None:
    """Build a corpus from what this Python installation carries; print its file.

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
            help="A copy of the download that you already have.",
        ),
    ] = None,
) -> None:
    """Download a corpus, check it, unpack it; print its files. The only command that uses the network.

    Try: charlm corpus fetch tinyshakespeare
    """
    from tqdm import tqdm

    from charlm.data.cards import fetch_corpus

    with tqdm(unit="B", unit_scale=True, desc=name, disable=not sys.stderr.isatty()) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

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
    """Encode a text ahead of time, as train would on first use; print how many tokens each part has.

    What is encoded stays in the cache: after a stop the same command goes on from there, and train finds it.

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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Count a text: documents, characters, alphabet, lengths, duplicates, and what its vocabulary does not know.

    A line is a document with --set corpus.mode=records. The vocabulary is learnt from the training part.

    Try: charlm corpus stats my.txt --set tokenizer.level=word
    """
    from charlm.data.statistics import QUANTILES, compute_statistics

    encoded = _encode(texts, config, overrides, workers)
    found = compute_statistics(*encoded.corpus.parts.values())
    parts = {
        part: {
            "documents": len(encoded.corpus.parts[part].spans),
            **tokens.counts.to_json(),
            "unknown_share": tokens.counts.unknown_share,
        }
        for part, tokens in encoded.tokens.items()
    }
    lengths = {
        f"{share:.0%}": length for share, length in zip(QUANTILES, found.lengths, strict=True)
    }
    facts = {
        "title": encoded.corpus.title,
        "mode": encoded.corpus.mode,
        **found.to_json(),
        "lengths": lengths,
        "level": encoded.tokenizer.section.level,
        "vocabulary_size": encoded.tokenizer.vocabulary_size,
        "parts": parts,
    }
    emit_result(facts, _table(facts), as_json=as_json)


def _table(facts: dict[str, Any]) -> "Iterator[str]":
    """Yield the lines of statistics for people."""
    letters = json.dumps("".join(list(facts["alphabet"])[:_LETTERS_SHOWN]), ensure_ascii=False)
    yield f"{facts['title']} ({facts['mode']})"
    rows = [
        ("documents", f"{facts['documents']:,}"),
        ("the same as an earlier one", f"{facts['duplicates']:,}"),
        ("characters", f"{facts['characters']:,}"),
        ("bytes", f"{facts['bytes']:,}"),
        ("alphabet", f"{len(facts['alphabet']):,} characters; the most frequent: {letters}"),
        (
            "characters of a document",
            "; ".join(f"{share} {length:,}" for share, length in facts["lengths"].items()),
        ),
        ("vocabulary", f"{facts['vocabulary_size']:,} ({facts['level']})"),
    ]
    yield from (f"{name:<28}{value}" for name, value in rows)
    yield f"{'part':<6} {'documents':>12} {'tokens':>14} {'characters':>14} {'bytes':>14} {'unknown':>9}"
    for name, part in facts["parts"].items():
        yield (
            f"{name:<6} {part['documents']:>12,} {part['tokens']:>14,} {part['characters']:>14,} "
            f"{part['bytes']:>14,} {part['unknown_share']:>9.3%}"
        )


def _encode(
    texts: list[str] | None, config: str | None, overrides: list[str] | None, workers: int | None
) -> "EncodedCorpus":
    from charlm.data.resolve import resolve
    from charlm.data.tokens import available_cores
    from charlm.runs import prepare

    changes = [*(overrides or []), *([f"corpus.text={json.dumps(texts)}"] if texts else [])]
    checked = checked_config(config, changes)
    with _bar("encoding") as report:
        return prepare.encode(resolve(checked), workers=workers or available_cores(), report=report)


@contextmanager
def _bar(name: str) -> "Iterator[Report]":
    """Show bytes as they are done, on a terminal."""
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, desc=name, disable=not sys.stderr.isatty()) as bar:

        def report(done: int) -> None:
            bar.update(done)

        yield report


def _parameters(overrides: list[str]) -> dict[str, object]:
    import yaml

    pairs = [override.partition("=") for override in overrides]
    for key, equals, _ in pairs:
        if not equals:
            raise typer.BadParameter(
                f"{key}: must be PARAMETER=VALUE, as in sentences=1000", param_hint="--set"
            )
    return {key: yaml.safe_load(value) for key, _, value in pairs}
