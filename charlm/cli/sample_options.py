"""The options of `charlm sample`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.options import (
    MAX_PARALLEL,
    Device,
    Folder,
    NamedRun,
    Which,
    as_path,
    as_target,
    at_most,
    finite,
    not_empty,
    some_text,
    unicode_text,
)
from charlm.config.values import MAX_COUNT, MAX_SEED
from charlm.sampling.options import DEFAULT_TEMPERATURE

# Groups of options in the help.
_drawing = partial(typer.Option, rich_help_panel="How a token is drawn")
_extent = partial(typer.Option, rich_help_panel="Beginning and end")
_contents = partial(typer.Option, rich_help_panel="What a text must and must not contain")
_number = partial(typer.Option, rich_help_panel="How many texts, and which")
_task = partial(typer.Option, rich_help_panel="Instead of new texts, and in parts")

_fraction = partial(_drawing, min=0, max=1, callback=finite)
_count = partial(_number, min=1, callback=at_most(MAX_PARALLEL))

Temperature = Annotated[
    float | None,
    _drawing(
        min=0,
        callback=finite,
        help="Below 1, texts are more predictable, above 1 less; 0 takes the most probable token."
        f" [{DEFAULT_TEMPERATURE:g}]",
    ),
]
TopK = Annotated[
    int | None,
    _drawing(
        min=1, callback=at_most(MAX_COUNT), help="Draw from this number of most probable tokens."
    ),
]
TopP = Annotated[
    float | None,
    _fraction(help="Draw from the most probable tokens whose probabilities sum to this."),
]
MinP = Annotated[
    float | None,
    _fraction(help="Draw from tokens with at least this fraction of the highest probability."),
]
Typical = Annotated[
    float | None,
    _fraction(
        help="Draw from the tokens whose surprisal is nearest to its mean, and whose probabilities "
        "sum to this."
    ),
]
Epsilon = Annotated[float | None, _fraction(help="Draw from tokens more probable than this.")]
Eta = Annotated[
    float | None,
    _fraction(help="Like --epsilon, but lower where many tokens are about equally probable."),
]
RepetitionPenalty = Annotated[
    float | None,
    _drawing(
        min=1e-6,
        callback=finite,
        help="Above 1, tokens that the text already has become less probable.",
    ),
]
RepetitionWindow = Annotated[
    int | None,
    _drawing(
        min=1,
        callback=at_most(MAX_COUNT),
        help="Number of last tokens that the penalty applies to. [the whole text]",
    ),
]
NoRepeat = Annotated[
    int | None,
    _drawing(
        "--no-repeat",
        min=1,
        callback=at_most(MAX_COUNT),
        metavar="N",
        help="Never write the same N tokens in a row twice.",
    ),
]

Prompt = Annotated[
    str, _extent(callback=unicode_text, help="Beginning of the text; - reads it from stdin.")
]
PromptFile = Annotated[
    Path | None,
    _extent(metavar="FILE", parser=as_path, help="Read the prompt from a file; - is stdin."),
]
AllowUnknown = Annotated[
    bool,
    _extent(
        "--allow-unknown",
        help="Read unknown characters and words of the prompt as <UNK>; accept texts to stop at or "
        "to ban that the model never writes.",
    ),
]
Length = Annotated[
    int | None,
    _extent(
        min=1,
        callback=at_most(MAX_COUNT),
        help="Maximum number of tokens. [500; with --fill 16]",
        show_default=False,
    ),
]
Characters = Annotated[
    int | None,
    _extent(min=1, callback=at_most(MAX_COUNT), help="Number of characters to write, exactly."),
]
Until = Annotated[
    list[str] | None,
    _extent(metavar="TEXT", callback=some_text, help="Stop when TEXT is written. Repeatable."),
]

Ban = Annotated[
    list[str] | None,
    _contents(metavar="TEXT", callback=some_text, help="Never write TEXT. Repeatable."),
]
Matching = Annotated[
    str | None,
    _contents(
        metavar="REGEX",
        callback=unicode_text,
        help="Write only texts that match as a whole; without records, a text ends with the match.",
    ),
]
MaxCopy = Annotated[
    int | None,
    _contents(
        min=1,
        callback=at_most(MAX_COUNT),
        metavar="N",
        help="Copy at most N characters in a row from the training text.",
    ),
]
Novel = Annotated[
    bool, _contents("--novel", help="Write only texts that are not in the corpus, each once.")
]

Count = Annotated[
    int | None,
    _count(help="Number of texts, or with --next of tokens. [1; with --next 10]"),
]
Seed = Annotated[
    int | None,
    _number(
        min=0,
        callback=at_most(MAX_SEED),
        help="The same seed writes the same texts. [a new seed each time]",
    ),
]
BestOf = Annotated[
    int, _count(metavar="N", help="Write N candidates per text and keep the most probable.")
]
Beams = Annotated[
    int | None,
    _count(metavar="N", help="Beam search: find the most probable text with N beams."),
]
LengthPenalty = Annotated[
    float | None,
    _number(
        min=0,
        callback=finite,
        help="With --beams and --best-of: a higher value favours longer texts. [0.6]",
    ),
]

Next = Annotated[
    bool,
    _task("--next", help="Print the most probable next tokens of the prompt, instead of a text."),
]
Fill = Annotated[
    str | None,
    _task(
        metavar="TEXT",
        callback=some_text,
        help="Fill the gap, ____, in TEXT; the model must read in both directions.",
    ),
]
Source = Annotated[
    str | None,
    _task(
        metavar="TEXT",
        callback=some_text,
        help="Write the target of the source TEXT, with a model of task complete or translate.",
    ),
]
SourceFile = Annotated[
    Path | None,
    _task(
        metavar="FILE",
        parser=as_path,
        help="Write the target of each line of a file; - is stdin.",
    ),
]
Interactive = Annotated[
    bool,
    _task("--interactive", help="Write in turns with the model: type a line, and it continues."),
]
StateOut = Annotated[
    Path | None,
    _task(
        metavar="FILE",
        parser=as_target,
        help="Save the state of the text, to continue it with --state-in.",
    ),
]
StateIn = Annotated[
    Path | None,
    _task(
        metavar="FILE",
        parser=as_path,
        help="Continue a text from the file of --state-out; print only the new text.",
    ),
]

Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Compute products in int8: faster for large models on a CPU with AVX-512 VNNI or AMX.",
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        callback=not_empty,
        help="Address of a server of charlm serve, which writes; RUN is the name of a run there.",
    ),
]
ApiKeyFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=as_path, help="File with the key of the server of --url."),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Print control characters unescaped on a terminal.")
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print each text as a JSON object on one line.")
]


@dataclass(frozen=True)
class SampleArguments:
    """The arguments of `charlm sample`, in the order of its help."""

    run: Folder = None

    temperature: Temperature = None
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    typical: Typical = None
    epsilon: Epsilon = None
    eta: Eta = None
    repetition_penalty: RepetitionPenalty = None
    repetition_window: RepetitionWindow = None
    no_repeat_ngram: NoRepeat = None

    prompt: Prompt = ""
    prompt_file: PromptFile = None
    allow_unknown: AllowUnknown = False
    length: Length = None
    characters: Characters = None
    until: Until = None

    ban: Ban = None
    matching: Matching = None
    max_copy: MaxCopy = None
    novel: Novel = False

    count: Count = None
    seed: Seed = None
    best_of: BestOf = 1
    beams: Beams = None
    length_penalty: LengthPenalty = None

    next_tokens: Next = False
    fill: Fill = None
    source: Source = None
    source_file: SourceFile = None
    interactive: Interactive = False
    state_out: StateOut = None
    state_in: StateIn = None

    named_run: NamedRun = None
    which: Which = "best"
    device: Device = "auto"
    int8: Int8 = False
    url: Url = None
    api_key_file: ApiKeyFile = None
    raw: Raw = False
    as_json: JsonLines = False


FILTERS = (
    *("temperature", "top_k", "top_p", "min_p", "typical", "epsilon", "eta"),
    *("repetition_penalty", "repetition_window", "no_repeat_ngram"),
)
