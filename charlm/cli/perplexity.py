"""`charlm eval perplexity`: the score of a model on a text."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from charlm.cli.arguments import options_from
from charlm.cli.loading import load
from charlm.cli.options import (
    Device,
    Json,
    NamedRun,
    RunAndTexts,
    Split,
    Which,
    at_most,
    choose_text,
    count_option,
    device_for,
    parallel_option,
)
from charlm.cli.terminal import emit_result
from charlm.evaluation.options import FIT_TOKENS, SEGMENT, ScoringOptions

_MAX_ORDER = 32  # Texts hardly share longer n-grams.

Streams = Annotated[
    int,
    parallel_option(
        help="Pieces of the text that are read side by side: 1 is exact, more are faster.",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16"], typer.Option(help="Precision of the matrix products.")
]
Temperature = Annotated[
    str,
    typer.Option(help="Divisor of the logits; fit takes the best one on the validation split."),
]
Dynamic = Annotated[
    bool,
    typer.Option(
        "--dynamic",
        help="Also score dynamic evaluation: the model learns from the text that it reads.",
    ),
]
Cache = Annotated[
    bool,
    typer.Option(
        "--cache",
        help="Also score the model with a neural cache, which favours tokens that followed similar "
        "states.",
    ),
]
MixNgram = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=at_most(_MAX_ORDER),
        metavar="N",
        help="Also score the model interpolated with a Kneser-Ney model of order N of the training "
        "text: 5 suits words, 8 the characters of a long text.",
    ),
]
Segment = Annotated[
    int,
    count_option(help="With --dynamic: tokens that are predicted before each step."),
]
FitTokens = Annotated[
    int,
    count_option(
        help="With --dynamic, --cache and --mix-ngram: tokens of the validation split on which "
        "rates and weights are fitted.",
    ),
]
Baselines = Annotated[
    bool,
    typer.Option("--baselines", help="Also score n-grams and compressors on the same text."),
]
Int8 = Annotated[
    bool,
    typer.Option("--int8", help="Also score the model with its products in int8; runs on the CPU."),
]


@dataclass(frozen=True)
class PerplexityArguments:
    """The arguments of `charlm eval perplexity`, in the order of its help."""

    run_and_texts: RunAndTexts = None
    split: Split = None
    named_run: NamedRun = None
    which: Which = "best"
    streams: Streams = 1
    precision: Precision = "fp32"
    temperature: Temperature = "1"
    dynamic: Dynamic = False
    cache: Cache = False
    mix_ngram: MixNgram = None
    segment: Segment = SEGMENT
    fit_tokens: FitTokens = FIT_TOKENS
    baselines: Baselines = False
    int8: Int8 = False
    device: Device = "auto"
    as_json: Json = False


@options_from(PerplexityArguments)
def perplexity(arguments: PerplexityArguments) -> None:
    """Score a model on a text: nats per token, perplexity, bits per character and byte.

    The default is exact: one stream with the state carried through the whole text, and each token
    predicted once. --dynamic, --cache and --mix-ngram can be combined; their score is shown beside
    that of the model, and they are fitted on the validation split.

    Try: charlm eval perplexity --split valid
    """
    folder, text = choose_text(arguments.run_and_texts, arguments.named_run, arguments.split)
    options = _scoring_options(arguments, text)
    device = device_for(arguments.device, int8=arguments.int8)
    run = load(folder, which=arguments.which, device=device)
    from charlm.evaluation.perplexity import measure_perplexity

    score = measure_perplexity(run.trained, options)
    emit_result(score, as_json=arguments.as_json)


def _scoring_options(arguments: PerplexityArguments, text: dict[str, Any]) -> ScoringOptions:
    return ScoringOptions(
        **text,
        streams=arguments.streams,
        precision=arguments.precision,
        temperature=_parse_temperature(arguments.temperature),
        dynamic=arguments.dynamic,
        cache=arguments.cache,
        mix_ngram=arguments.mix_ngram,
        segment=arguments.segment,
        fit_tokens=arguments.fit_tokens,
        baselines=arguments.baselines,
        int8=arguments.int8,
    )


def _parse_temperature(text: str) -> float | Literal["fit"]:
    if text == "fit":
        return "fit"
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(
            f"must be a number above 0, or fit, got {text!r}", param_hint="--temperature"
        ) from None
