"""`charlm eval`, with `perplexity`, `agreement`, `parity` and `gradients`."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from charlm.cli import novelty
from charlm.cli.help import CommandGroup
from charlm.cli.options import (
    MAX_COUNT,
    MAX_PARALLEL,
    MAX_SEED,
    At,
    Device,
    Folder,
    Json,
    NamedRun,
    Split,
    Which,
    at_most,
    choose_run,
    not_empty,
    part_to_score,
    split_run_and_texts,
)
from charlm.cli.tables import format_number, format_range, format_settings
from charlm.cli.terminal import emit_result, folded, say
from charlm.evaluation.options import FIT_TOKENS, SEGMENT, ScoringOptions

if TYPE_CHECKING:  # It imports torch.
    from charlm.evaluation.baselines import Baseline
    from charlm.evaluation.perplexity import Perplexity
    from charlm.evaluation.probes.agreement import Agreement
    from charlm.evaluation.probes.gradients import Curve, Gradients
    from charlm.evaluation.probes.parity import Parity

# Scores that are None where the cost of what the tokens leave out cannot be computed.
_MAY_BE_UNKNOWN = ("bits_per_character", "bits_per_byte", "restoration_nats")
_MAX_ORDER = 32  # Of n-grams: texts hardly share longer ones.

app = typer.Typer(help="Score a model.", rich_markup_mode=None, cls=CommandGroup)
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
    split: Split = None,
    named_run: NamedRun = None,
    which: Which = "best",
    streams: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            help="Pieces of the text read side by side: 1 is exact, more are faster.",
        ),
    ] = 1,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Precision of the matrix products.")
    ] = "fp32",
    temperature: Annotated[
        str,
        typer.Option(help="Divisor of the logits; fit: the best one on the validation split."),
    ] = "1",
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic", help="Also score dynamic evaluation, which learns from the text."
        ),
    ] = False,
    cache: Annotated[
        bool,
        typer.Option("--cache", help="Also score the model with a neural cache of the text."),
    ] = False,
    mix_ngram: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(_MAX_ORDER),
            metavar="N",
            help="Also score the model interpolated with a Kneser-Ney model of order N.",
        ),
    ] = None,
    segment: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="With --dynamic: tokens that are predicted before each step.",
        ),
    ] = SEGMENT,
    fit_tokens: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="Tokens of the validation split on which rates and weights are fitted.",
        ),
    ] = FIT_TOKENS,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also score n-grams and compressors on the same text."),
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Also score the model with its products in int8; runs on the CPU."
        ),
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score a model on a text: nats per token, perplexity, bits per character and byte.

    The default is exact: one stream with the state carried through the whole text, and each token
    predicted once. --dynamic, --cache and --mix-ngram can be combined; their score is shown beside
    that of the model, and they are fitted on the validation split.

    Try: charlm eval perplexity --split valid
    """
    folder, texts = split_run_and_texts(run_and_texts, named_run)
    options = ScoringOptions(
        paths=texts,
        split=part_to_score(split, texts),
        streams=streams,
        precision=precision,
        temperature=_parse_temperature(temperature),
        dynamic=dynamic,
        cache=cache,
        mix_ngram=mix_ngram,
        segment=segment,
        fit_tokens=fit_tokens,
        baselines=baselines,
        int8=int8,
    )
    from charlm.api import load
    from charlm.evaluation.perplexity import measure_perplexity

    device = "cpu" if int8 and device == "auto" else device
    score = measure_perplexity(load(folder, which=which, device=device).trained, options)
    emit_result(score.to_json(), _perplexity_table(score), as_json=as_json)


@app.command("agreement")
def agreement(
    run_and_pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|PAIRS",
            callback=not_empty,
            help="Run folder [the newest under runs/], then a file of pairs, one per line: the "
            "right sentence, a tab, the wrong one; - is stdin.",
        ),
    ] = None,
    sentences: Annotated[
        int,
        typer.Option(
            min=2, callback=at_most(MAX_COUNT), help="Without PAIRS: number of generated sentences."
        ),
    ] = 2000,
    seed: Annotated[
        int,
        typer.Option(min=0, callback=at_most(MAX_SEED), help="Seed of the generated sentences."),
    ] = 2,
    longest: Annotated[
        int,
        typer.Option(
            min=0, max=16, help="Most phrases before the verb; the corpus agreement has 4."
        ),
    ] = 4,
    most_nouns: Annotated[
        int, typer.Option(min=0, max=16, help="Most nouns in these phrases; the corpus has 3.")
    ] = 3,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure what a model remembers: does the verb agree with a subject many words before it?

    Compares the verbs of generated sentences (train on the corpus agreement), or the two sentences
    of each pair in a file.

    Try: charlm eval agreement --longest 8 --most-nouns 6
    """
    folder, files = split_run_and_texts(run_and_pairs, named_run)
    if len(files) > 1:
        raise typer.BadParameter(f"one file of pairs at most, got {len(files)}", param_hint="PAIRS")
    from charlm.api import load

    result = load(folder, which=which, device=device).agreement(
        *files, sentences=sentences, seed=seed, longest=longest, most_nouns=most_nouns
    )
    emit_result(result.to_json(), _agreement_table(result), as_json=as_json)


@app.command("parity")
def parity(
    run: Folder = None,
    strings: Annotated[
        int,
        typer.Option(
            min=2, callback=at_most(MAX_COUNT), help="Number of strings of each length, even."
        ),
    ] = 200,
    longest: Annotated[
        int,
        typer.Option(min=1, max=4096, help="Most bits of a string; the corpus parity has 16."),
    ] = 64,
    seed: Annotated[
        int, typer.Option(min=0, callback=at_most(MAX_SEED), help="Seed of the strings.")
    ] = 2,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure what a recurrence can compute: is the number of ones in a string of bits odd?

    Train on the corpus parity first. Chance is 50 %.

    Try: charlm eval parity --longest 128
    """
    from charlm.api import load

    folder = choose_run(run, named_run)
    result = load(folder, which=which, device=device).parity(
        strings=strings, longest=longest, seed=seed
    )
    emit_result(result.to_json(), _parity_table(result), as_json=as_json)


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
    split: Split = None,
    window: Annotated[
        int,
        typer.Option(
            min=3, callback=at_most(MAX_COUNT), help="Tokens in a window: the largest distance + 1."
        ),
    ] = 64,
    windows: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            help="Number of windows, evenly spaced over the text.",
        ),
    ] = 64,
    at: At = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Measure the network as before its training.")
    ] = False,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show how the gradient of a token's loss changes over the tokens before it.

    Prints the norm of the gradient with respect to each earlier state of each layer, by distance
    in tokens: relative to distance 0 (the median over the windows), and its mean and quantiles.
    Where it vanishes, nothing can be learned over that distance; where it grows, it explodes.

    Try: charlm eval gradients --window 128
    """
    from charlm.api import load

    folder, texts = split_run_and_texts(run_and_texts, named_run)
    part = part_to_score(split, texts)
    result = load(folder, which=which, device=device).gradients(
        paths=texts, split=part, window=window, windows=windows, at=at or (), untrained=untrained
    )
    emit_result(result.to_json(), _gradients_table(result), as_json=as_json)
    if result.is_certain:
        say(
            f"the median loss of the measured tokens is {result.median_loss_nats:.2g} nats, near "
            "zero: their gradients say little about the recurrence; name tokens that are hard to "
            "predict: --at TOKEN"
        )


def _parse_temperature(text: str) -> float | Literal["fit"]:
    if text == "fit":
        return "fit"
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"must be a number above 0, or fit; got {text!r}", param_hint="--temperature"
        ) from None


def _perplexity_table(score: "Perplexity") -> Iterator[str]:
    others = {
        name: other.to_json()
        for name, other in (("adapted", score.adapted), ("int8", score.int8))
        if other is not None
    }
    if others:
        names = ["static" if "adapted" in others else "fp32", *others]
        yield f"{'':<24} " + " ".join(f"{name:>14}" for name in names)
    hidden = () if score.restoration_nats != 0 else ("restoration_nats", "token_bits_per_character")
    for name, value in score.to_json().items():
        is_shown = isinstance(value, int | float) or name in _MAY_BE_UNKNOWN
        if is_shown and name not in hidden:
            cells = [value, *(other[name] for other in others.values() if name in other)]
            yield f"{name:<24} " + " ".join(f"{format_number(cell):>14}" for cell in cells)
    if score.int8:
        yield f"{'int8 minus fp32':<24} {score.int8.difference_nats:>+14.5f} nats per token"
    yield folded(format_settings(score.settings))
    if score.adapted:
        yield folded(f"adapted: {format_settings(score.adapted.settings)}")
    fits = {"temperature": score.settings, "adaptation": score.adapted and score.adapted.settings}
    for name, settings in fits.items():
        if settings and settings.get("fitted_on_the_scored_text"):
            yield f"{name} fitted on the scored text: the score is better than on other texts"
    if score.baselines:
        yield from _baselines_table(score.baselines)


def _baselines_table(baselines: "list[Baseline]") -> Iterator[str]:
    columns = ("loss_nats", "perplexity", "bits_per_character", "bits_per_byte")
    width = max(len(baseline.name) for baseline in baselines)
    yield f"\n{'baselines':<{width}}" + "".join(f" {column:>18}" for column in columns)
    for baseline in baselines:
        cells = [format_number(getattr(baseline, column)) for column in columns]
        mark = " *" if baseline.fitted_on_the_scored_text else ""
        yield f"{baseline.name:<{width}}" + "".join(f" {cell:>18}" for cell in cells) + mark
    if any(baseline.fitted_on_the_scored_text for baseline in baselines):
        yield "* learned from the scored text, so the score says nothing about other texts"


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
            first = next(iter(row.values()))
            label = format_range(first, row.get("distance_to", first))
            heading = title if number == 0 else ""
            accuracy = f"{row['count']:>8,} pairs {row['accuracy']:>7.1%}"
            yield f"{heading:<26} {label:<10} {accuracy}"
    yield folded(format_settings(result.settings))


def _parity_table(result: "Parity") -> Iterator[str]:
    yield f"{'bits':>6}  {'strings':>8}  {'accuracy':>8}"
    for row in result.by_length:
        yield f"{row['bits']:>6,}  {row['count']:>8,}  {row['accuracy']:>8.1%}"
    yield f"{'all':>6}  {result.count:>8,}  {result.accuracy:>8.1%}"
    yield folded(format_settings(result.settings))


def _gradients_table(result: "Gradients") -> Iterator[str]:
    width = max(len(f"{curve.layer} {curve.part}") for curve in result.curves)
    columns = ("distance", "relative", "mean", "10 %", "50 %", "90 %", "windows")
    yield " " * width + "".join(f"{column:>11}" for column in columns)
    for curve in result.curves:
        yield from _curve_rows(curve, width)
    for curve in result.curves:
        is_infinite = math.isinf(curve.half_life_tokens)
        cells = ["none"] if is_infinite else [f"{curve.half_life_tokens:,.2f}", "tokens"]
        name = f"{curve.layer} {curve.part}"
        yield f"{name:<{width}}{'half-life':>11}" + "".join(f"{cell:>11}" for cell in cells)
    facts = f"median loss {result.median_loss_nats:.4f} nats, {format_settings(result.settings)}"
    yield folded(facts)


def _curve_rows(curve: "Curve", width: int) -> Iterator[str]:
    """Yield one row for each distance that is 0 or a power of two."""
    label = f"{curve.layer} {curve.part}"
    for row in curve.distances:
        if row.distance.bit_count() <= 1:
            norms = [row.relative, row.mean, row.quantile_10, row.quantile_50, row.quantile_90]
            cells = [f"{row.distance:,}", *[f"{norm:.3e}" for norm in norms], f"{row.count:,}"]
            yield f"{label:<{width}}" + "".join(f"{cell:>11}" for cell in cells)
            label = ""
