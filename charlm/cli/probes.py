"""`charlm eval memory`, `context`, `gradients` and `cells`: what a model does with its input."""

from dataclasses import dataclass
from typing import Annotated

import typer

from charlm.cli.arguments import options_from
from charlm.cli.loading import load
from charlm.cli.options import (
    MAX_PARALLEL,
    At,
    Device,
    Json,
    NamedRun,
    RunAndTexts,
    Split,
    Which,
    at_most,
    choose_text,
    count_option,
    parallel_option,
    seed_option,
    some_text,
    split_run_and_texts,
    texts_or_split,
)
from charlm.cli.predict import describe_unknown
from charlm.cli.terminal import emit_result, say
from charlm.config.values import MAX_COUNT
from charlm.errors import refuse_beside
from charlm.storage.arguments import refuse_file_name

_MAX_PASSAGE = 4096  # In tokens. The work grows with the square of their number.

Passage = Annotated[
    str | None,
    typer.Option("--text", callback=some_text, help="Passage to read, instead of files."),
]
Window = Annotated[
    int,
    typer.Option(
        min=3,
        callback=at_most(MAX_COUNT),
        help="Tokens in a window, one more than the largest distance.",
    ),
]
Windows = Annotated[int, parallel_option(help="Number of windows, evenly spaced over the text.")]
TokensToRead = Annotated[
    int,
    typer.Option(min=200, callback=at_most(MAX_PARALLEL), help="Maximum number of tokens to read."),
]
Shifts = Annotated[int, count_option(help="Number of shifts of the labels in the control.")]
Untrained = Annotated[
    bool, typer.Option("--untrained", help="Measure the network as before its training.")
]


def memory(
    run_and_texts: RunAndTexts = None,
    named_run: NamedRun = None,
    text: Passage = None,
    split: Split = None,
    tokens: Annotated[
        int,
        typer.Option(
            min=2,
            max=_MAX_PASSAGE,
            help="Maximum number of tokens of the passage; the rest is not read.",
        ),
    ] = 400,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show which earlier tokens each prediction of a passage depends on.

    The measure is the squared norm of the gradient of the target's logit with respect to each
    earlier one-hot input. Each row lists the earlier tokens with the largest values, relative to
    the maximum of the row, with their distance in tokens.

    Try: charlm eval memory --text "context the formal study of grammar"
    """
    folder, texts = split_run_and_texts(run_and_texts, named_run)
    if text is not None:
        refuse_beside("text", "which is the passage itself", texts=texts, split=split)
        refuse_file_name("text", text, "leave out --text for a file")
    chosen = {"text": text} if text is not None else texts_or_split(texts, split)
    run = load(folder, which=which, device=device)
    result = run.memory(**chosen, tokens=tokens)
    emit_result(result, as_json=as_json)
    if text is not None and (unknown := run.tokenizer.count_unknown(text)):
        say(describe_unknown(unknown, 1, run.tokenizer.section.level))


def context(
    run_and_texts: RunAndTexts = None,
    named_run: NamedRun = None,
    split: Split = None,
    targets: Annotated[int, parallel_option(help="Number of tokens that are predicted.")] = 2000,
    at: At = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show how the loss falls with the number of tokens that the model has read.

    The same tokens are predicted from contexts of 1 to 1,000 tokens, each read from the initial
    state. Where the loss stops falling, the model uses no more context.

    Try: charlm eval context --split valid
    """
    folder, text = choose_text(run_and_texts, named_run, split)
    run = load(folder, which=which, device=device)
    result = run.context(**text, targets=targets, at=at or ())
    emit_result(result, as_json=as_json)


@dataclass(frozen=True)
class GradientsArguments:
    """The arguments of `charlm eval gradients`, in the order of its help."""

    run_and_texts: RunAndTexts = None
    split: Split = None
    window: Window = 64
    windows: Windows = 64
    at: At = None
    untrained: Untrained = False
    named_run: NamedRun = None
    which: Which = "best"
    device: Device = "auto"
    as_json: Json = False


@options_from(GradientsArguments)
def gradients(arguments: GradientsArguments) -> None:
    """Show how the gradient of a token's loss changes over the tokens before it.

    Prints the norm of the gradient with respect to each earlier state of each layer, by distance
    in tokens: relative to distance 0 (the median over the windows), and its mean and quantiles.
    Where it vanishes, nothing can be learned over that distance; where it grows, it explodes.

    Try: charlm eval gradients --window 128
    """
    folder, text = choose_text(arguments.run_and_texts, arguments.named_run, arguments.split)
    result = load(folder, which=arguments.which, device=arguments.device).gradients(
        **text,
        window=arguments.window,
        windows=arguments.windows,
        at=arguments.at or (),
        untrained=arguments.untrained,
    )
    emit_result(result, as_json=arguments.as_json)
    if result.is_certain:
        say(
            f"the median loss of the measured tokens is {result.median_loss_nats:.2g} nats, near "
            "zero: their gradients say little about the recurrence; name tokens that are hard to "
            "predict: --at TOKEN"
        )


@dataclass(frozen=True)
class CellsArguments:
    """The arguments of `charlm eval cells`, in the order of its help."""

    run_and_texts: RunAndTexts = None
    named_run: NamedRun = None
    split: Split = None
    tokens: TokensToRead = 20_000
    shifts: Shifts = 20
    seed: Annotated[int, seed_option(help="Seed of the shifts.")] = 1
    which: Which = "best"
    device: Device = "auto"
    as_json: Json = False


@options_from(CellsArguments)
def cells(arguments: CellsArguments) -> None:
    """Show which single unit follows quotation marks, brackets, lines, words and so on.

    The unit is chosen on one half of the text and scored on the other. The control is the best
    score of labels that are shifted along the text: a score near it means nothing.

    Try: charlm eval cells --split valid
    """
    folder, text = choose_text(arguments.run_and_texts, arguments.named_run, arguments.split)
    result = load(folder, which=arguments.which, device=arguments.device).cells(
        **text,
        tokens=arguments.tokens,
        shifts=arguments.shifts,
        seed=arguments.seed,
    )
    emit_result(result, as_json=arguments.as_json)
