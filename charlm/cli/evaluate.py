"""`charlm eval`."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from charlm.cli import novelty
from charlm.cli.options import (
    MOST,
    MOST_BESIDE,
    MOST_SEED,
    Device,
    Json,
    Split,
    Which,
    at_most,
    not_empty,
)
from charlm.cli.terminal import emit_result

if TYPE_CHECKING:  # It imports torch.
    from charlm.evaluation.baselines import Baseline
    from charlm.evaluation.perplexity import Perplexity
    from charlm.evaluation.probes.agreement import Agreement
    from charlm.evaluation.probes.gradients import Gradients

_MOST_ORDER = 32  # Of n-grams: no text of ours shares longer ones.

app = typer.Typer(help="Score a model.", rich_markup_mode=None)
app.command("novelty")(novelty.novelty)


@app.callback()
def _eval() -> None:
    """Score a model."""


@app.command("perplexity")
def perplexity(
    run_and_texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|TEXT",
            callback=not_empty,
            help="Run folder [the newest under runs/], then texts to score.",
        ),
    ] = None,
    split: Split = "valid",
    which: Which = "best",
    streams: Annotated[
        int,
        typer.Option(
            min=1, callback=at_most(MOST_BESIDE), help="1 is exact; more read side by side, faster."
        ),
    ] = 1,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Of matrix products.")
    ] = "fp32",
    temperature: Annotated[
        str,
        typer.Option(help="What logits are divided by; fit: what is best on the validation split."),
    ] = "1",
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Also score it as it learns from what it has read.")
    ] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Also with a neural cache of what it has read.")
    ] = False,
    mix_ngram: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(_MOST_ORDER),
            metavar="N",
            help="Also with a Kneser-Ney model of N-grams mixed in.",
        ),
    ] = None,
    segment: Annotated[
        int,
        typer.Option(
            min=1, callback=at_most(MOST), help="With --dynamic: tokens predicted before a step."
        ),
    ] = 20,
    fit_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MOST),
            help="Tokens of the validation split to fit rates and weights on.",
        ),
    ] = 20_000,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also score n-grams and compressors on the same text."),
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model on a text: nats per token, perplexity, bits per character and byte.

    Exact by default: one stream, the state carried through, every token predicted once. --dynamic, --cache and
    --mix-ngram go together; what they score stands apart, and all they need is fitted on the validation split.

    Try: charlm eval perplexity --split valid
    """
    from charlm.api import load

    chosen = _number_or_fit(temperature)
    folder, texts = run_then_texts(run_and_texts or [])
    score = load(folder, which=which, device=device).perplexity(
        paths=texts,
        split=split,
        streams=streams,
        precision=precision,
        temperature=chosen,
        dynamic=dynamic,
        cache=cache,
        mix_ngram=mix_ngram,
        segment=segment,
        fit_tokens=fit_tokens,
        baselines=baselines,
    )
    emit_result(score.to_json(), _perplexity_table(score), as_json=as_json)


def _perplexity_table(score: "Perplexity") -> Iterator[str]:
    adapted = asdict(score.adapted) if score.adapted else {}
    if adapted:
        yield f"{'':<20} {'static':>14} {'adapted':>14}"
    for name, value in asdict(score).items():
        if isinstance(value, int | float):
            cells = [value, adapted[name]] if name in adapted else [value]
            yield f"{name:<20} " + " ".join(f"{_number(cell):>14}" for cell in cells)
    yield told_settings(score.settings)
    if score.adapted:
        yield f"adapted: {told_settings(score.adapted.settings)}"
    if score.baselines:
        yield from _baselines_table(score.baselines)


def _baselines_table(baselines: "list[Baseline]") -> Iterator[str]:
    rows = [baseline.to_json() for baseline in baselines]
    width = max(len(row["name"]) for row in rows)
    yield f"\n{'baselines':<{width}}" + "".join(
        f" {name:>18}" for name in rows[0] if name != "name"
    )
    for row in rows:
        yield f"{row['name']:<{width}}" + "".join(
            f" {_number(value):>18}" for name, value in row.items() if name != "name"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def told_settings(settings: dict[str, Any]) -> str:
    """Return settings in a line, those of a part in brackets."""
    return ", ".join(
        f"{name} ({told_settings(value)})" if isinstance(value, dict) else f"{name} {value}"
        for name, value in settings.items()
    )


def _number_or_fit(text: str) -> float | Literal["fit"]:
    if text == "fit":
        return "fit"
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise typer.BadParameter(
            f"must be a number above 0, or fit; got {text!r}", param_hint="--temperature"
        )
    return number


@app.command("agreement")
def agreement(
    run_and_pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|PAIRS",
            callback=not_empty,
            help="Run folder [the newest under runs/], then a file of pairs, right TAB wrong a line; - is stdin.",
        ),
    ] = None,
    sentences: Annotated[
        int,
        typer.Option(
            min=2, callback=at_most(MOST), help="With no PAIRS: how many of the grammar's."
        ),
    ] = 2000,
    seed: Annotated[
        int,
        typer.Option(
            min=0, callback=at_most(MOST_SEED), help="The same seed asks the same sentences."
        ),
    ] = 2,
    longest: Annotated[
        int,
        typer.Option(
            min=0, max=16, help="Most phrases before the verb; the corpus agreement has 4."
        ),
    ] = 4,
    most_nouns: Annotated[
        int, typer.Option(min=0, max=16, help="Most nouns in them; the corpus has 3.")
    ] = 3,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure what a model remembers: does the verb agree with a subject many words back?

    Asks for the verbs of generated sentences (train on the corpus agreement), or which of two sentences in a file
    is more probable.

    Try: charlm eval agreement --longest 8 --most-nouns 6
    """
    from charlm.api import load

    folder, files = run_then_texts(run_and_pairs or [])
    if len(files) > 1:
        raise typer.BadParameter(f"one file of pairs at most, got {len(files)}", param_hint="PAIRS")
    result = load(folder, which=which, device=device).agreement(
        *files, sentences=sentences, seed=seed, longest=longest, most_nouns=most_nouns
    )
    emit_result(result.to_json(), _agreement_table(result), as_json=as_json)


def _agreement_table(result: "Agreement") -> Iterator[str]:
    yield f"{'accuracy':<37} {result.count:>8,} pairs {result.accuracy:>7.1%}"
    if result.unknown_share or result.unknown_pairs:
        yield f"{'the same tokens to the model':<37} {result.unknown_pairs:>8,} pairs"
        yield f"{'tokens read as <UNK>':<37} {result.unknown_share:>22.1%}"
    tables = {
        "words from subject to verb": result.by_distance,
        "nouns between them": result.by_nouns,
        "nouns of the other number": result.by_attractors,
    }
    for title, rows in tables.items():
        for number, row in enumerate(rows):
            first, *_ = row.values()
            last = row.get("distance_to", first)
            label = (
                f"{first} or more"
                if last is None
                else f"{first} to {last}"
                if last != first
                else f"{first}"
            )
            yield f"{'' if number else title:<26} {label:<10} {row['count']:>8,} pairs {row['accuracy']:>7.1%}"
    yield ", ".join(f"{name} {value}" for name, value in result.settings.items())


@app.command("gradients")
def gradients(
    run_and_texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|TEXT",
            callback=not_empty,
            help="Run folder [the newest under runs/], then texts to read.",
        ),
    ] = None,
    split: Split = "valid",
    window: Annotated[
        int,
        typer.Option(
            min=3, callback=at_most(MOST), help="Tokens in a window: how far back to look."
        ),
    ] = 64,
    windows: Annotated[
        int,
        typer.Option(
            min=1, callback=at_most(MOST_BESIDE), help="How many windows, evenly over the text."
        ),
    ] = 64,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """See gradients flow: how much the loss of a token owes to the state so many tokens before it.

    The norm of the loss's derivative with respect to each earlier state of each layer, by distance in tokens: where
    it vanishes, nothing further back can be learnt from; where it grows, it explodes.

    Try: charlm eval gradients --window 128
    """
    from charlm.api import load

    folder, texts = run_then_texts(run_and_texts or [])
    result = load(folder, which=which, device=device).gradients(
        paths=texts, split=split, window=window, windows=windows
    )
    emit_result(result.to_json(), _gradients_table(result), as_json=as_json)


def _gradients_table(result: "Gradients") -> Iterator[str]:
    names = [f"{curve.layer} {curve.part}" for curve in result.curves]
    width = max(map(len, names))

    def line(label: str, *cells: str) -> str:
        return f"{label:<{width}}" + "".join(f"{cell:>11}" for cell in cells)

    yield line("", "distance", "mean", "10 %", "50 %", "90 %", "windows")
    for name, curve in zip(names, result.curves, strict=True):
        label = name
        for row in curve.distances:
            if row.distance.bit_count() <= 1:  # 0, 1, 2, 4, 8 and so on.
                norms = [row.mean, row.quantile_10, row.quantile_50, row.quantile_90]
                yield line(
                    label, f"{row.distance:,}", *[f"{norm:.3e}" for norm in norms], f"{row.count:,}"
                )
                label = ""
    for name, curve in zip(names, result.curves, strict=True):
        half_life = curve.half_life_tokens
        yield line(
            name,
            "half-life",
            *(["none"] if math.isinf(half_life) else [f"{half_life:,.2f}", "tokens"]),
        )
    yield ", ".join(f"{name} {value}" for name, value in result.settings.items())


def run_then_texts(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Tell a run folder from a text: the first argument is a run if it is a run folder or nothing else is there."""
    from charlm.data.cards import card_names

    if not arguments:
        return None, []
    first = arguments[0]
    is_text = (
        first == "-"
        or first in card_names()
        or (Path(first).exists() and not _looks_like_run(Path(first)))
    )
    return (None, arguments) if is_text else (Path(first), arguments[1:])


def _looks_like_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or path.parent.name == "runs"
