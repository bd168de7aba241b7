"""`charlm sample`."""

import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Protocol

import typer

from charlm.cli.options import (
    MAX_COUNT,
    MAX_PARALLEL,
    MAX_SEED,
    Device,
    Folder,
    NamedRun,
    Which,
    as_path,
    as_target,
    at_most,
    choose_run,
    finite,
    not_empty,
    some_text,
    unicode_text,
)
from charlm.cli.terminal import TextWriter, emit, emit_json, emit_result, say
from charlm.errors import CharlmError, OptionError, UnsupportedOptionError, quote
from charlm.sampling.options import (
    DEFAULT_LENGTH,
    DEFAULT_TEMPERATURE,
    CompletionOptions,
    ConstraintOptions,
    FillOptions,
    Filters,
    NextOptions,
    SampleOptions,
    SearchOptions,
    build_options,
)

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import Run, Sample
    from charlm.sampling.next_tokens import NextTokens
    from charlm.serving.client import RemoteRun

# Options that --interactive has no use for, besides those of the command line only.
_NOT_INTERACTIVE = (
    "best_of",
    "novel",
    "max_copy",
    "matching",
    "prompt",
    "state_in",
    "state_out",
    "beams",
)
# Options that --source can be combined with.
_WITH_SOURCE = ("beams", "length", "allow_unknown")
# Groups of options in the help.
_DRAWING = "How a token is drawn"
_EXTENT = "Beginning and end"
_CONTENTS = "What a text must and must not contain"
_NUMBER = "How many texts, and which"
_TASKS = "Instead of new texts, and in parts"
AnyOptions = SampleOptions | SearchOptions | FillOptions | NextOptions
_SOURCES_PER_BATCH = 256
_BYTE_ORDER_MARK = "\ufeff"  # Some editors begin a file with it.


def sample(
    run: Folder = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="Below 1 is more predictable, above 1 less; 0 takes the most probable token."
            f" [{DEFAULT_TEMPERATURE:g}]",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="Draw from this many most probable tokens.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw from the most probable tokens whose probabilities sum to this.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw from tokens with at least this fraction of the highest probability.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    typical: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw from the most typical tokens whose probabilities sum to this.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw from tokens more probable than this.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Like --epsilon, but lower where the distribution is flat.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            callback=finite,
            help="Above 1: tokens that the text already has become less probable.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    repetition_window: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="Number of last tokens that the penalty applies to. [the whole text]",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None,
        typer.Option(
            "--no-repeat",
            min=1,
            callback=at_most(MAX_COUNT),
            metavar="N",
            help="Never write the same N tokens in a row twice.",
            rich_help_panel=_DRAWING,
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            callback=unicode_text,
            help="Beginning of the text; - reads it from stdin.",
            rich_help_panel=_EXTENT,
        ),
    ] = "",
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_path,
            help="Read the prompt from a file; - is stdin.",
            rich_help_panel=_EXTENT,
        ),
    ] = None,
    allow_unknown: Annotated[
        bool,
        typer.Option(
            "--allow-unknown",
            help="Read unknown characters and words of the prompt as <UNK>; accept any TEXT.",
            rich_help_panel=_EXTENT,
        ),
    ] = False,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="Maximum number of tokens. [500; in a gap 16]",
            show_default=False,
            rich_help_panel=_EXTENT,
        ),
    ] = None,
    characters: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="Number of characters to write, exactly.",
            rich_help_panel=_EXTENT,
        ),
    ] = None,
    until: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            callback=some_text,
            help="Stop when TEXT is written; repeatable.",
            rich_help_panel=_EXTENT,
        ),
    ] = None,
    ban: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            callback=some_text,
            help="Never write TEXT; repeatable.",
            rich_help_panel=_CONTENTS,
        ),
    ] = None,
    matching: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            callback=unicode_text,
            help="Only texts that match as a whole; without records a text ends with the match.",
            rich_help_panel=_CONTENTS,
        ),
    ] = None,
    max_copy: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            metavar="N",
            help="Copy at most N characters in a row from the training text.",
            rich_help_panel=_CONTENTS,
        ),
    ] = None,
    novel: Annotated[
        bool,
        typer.Option(
            "--novel",
            help="Only texts that are not in the corpus, each once.",
            rich_help_panel=_CONTENTS,
        ),
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            help="Number of texts, written side by side; with --next, of tokens. [1; 10]",
            rich_help_panel=_NUMBER,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=at_most(MAX_SEED),
            help="The same seed writes the same texts. [a new seed]",
            rich_help_panel=_NUMBER,
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            metavar="N",
            help="Write N candidates per text and keep the most probable.",
            rich_help_panel=_NUMBER,
        ),
    ] = 1,
    beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            metavar="N",
            help="Beam search: find the most probable text with N beams.",
            rich_help_panel=_NUMBER,
        ),
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="For --beams and --best-of: higher favours longer texts. [0.6]",
            rich_help_panel=_NUMBER,
        ),
    ] = None,
    next_tokens: Annotated[
        bool,
        typer.Option(
            "--next",
            help="Print the most probable next tokens of the prompt, instead of a text.",
            rich_help_panel=_TASKS,
        ),
    ] = False,
    fill: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            callback=some_text,
            help="Fill the gap, ____, in TEXT, with a model of direction both.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            callback=some_text,
            help="Write the target of a source, with a model of task complete or translate.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    source_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_path,
            help="Write the target of each line of a file; - is stdin.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            help="Write in turns with the model: type a line, and it continues.",
            rich_help_panel=_TASKS,
        ),
    ] = False,
    state_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_target,
            help="Save the state of the text, to continue it with --state-in.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    state_in: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_path,
            help="Continue the text of --state-out; prints only new text.",
            rich_help_panel=_TASKS,
        ),
    ] = None,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Compute products in int8 on the CPU: faster for large models where it has "
            "AVX-512 VNNI or AMX.",
        ),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            callback=not_empty,
            help="Let a server of charlm serve write; RUN is the name of a run there.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=as_path, help="File with the key of the server of --url."
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Print control characters unescaped on a terminal."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each text as a JSON object on one line.")
    ] = False,
) -> None:
    """Write new text with a trained model.

    A model of records (lines or documents) ends its texts itself; others write --length tokens.
    Filters apply in this order: banned texts, repetition penalty, no-repeat, temperature, top k,
    top p, min p, typical, epsilon, eta.

    Try: charlm sample --prompt "The "
    """
    given: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    given |= {"min_p": min_p, "typical": typical, "epsilon": epsilon, "eta": eta}
    given |= {"repetition_penalty": repetition_penalty, "repetition_window": repetition_window}
    given |= {"no_repeat_ngram": no_repeat_ngram, "ban": ban or None, "max_copy": max_copy}
    given |= {"matching": matching, "novel": novel or None, "prompt": prompt or None}
    given |= {"length": length, "characters": characters, "until": until or None}
    given |= {"count": count, "best_of": best_of if best_of > 1 else None, "seed": seed}
    given |= {"beams": beams, "length_penalty": length_penalty, "text": fill}
    given |= {"allow_unknown": allow_unknown or None, "state_in": state_in}
    given |= {"state_out": None if state_out is None else True}
    if prompt_file is not None:
        _refuse_with("prompt_file", {"prompt": given["prompt"], "fill": fill})
    if source is not None or source_file is not None:
        option = "source" if source is not None else "source_file"
        others = {name: value for name, value in given.items() if name not in _WITH_SOURCE}
        others |= {"fill": others.pop("text"), "interactive": interactive or None, "url": url}
        others |= {"next": next_tokens or None, "prompt_file": prompt_file, "int8": int8 or None}
        others |= {"source_file": source_file if source is not None else None}
        _refuse_with(option, others | {"state_out": state_out})
        completion = CompletionOptions(beams or 1, length or DEFAULT_LENGTH, allow_unknown)
        model = _Model(choose_run(run, named_run), which, device)
        _complete(_sources(source, source_file), completion, model, as_json=as_json)
        return
    if interactive:
        others = {name: given[name] for name in _NOT_INTERACTIVE}
        others |= {"count": count if count != 1 else None, "fill": fill}
        others |= {"next": next_tokens or None}
        others |= {"as_json": as_json or None, "prompt_file": prompt_file}
        _refuse_with("interactive", others)
    if next_tokens:
        _refuse_with("next", {"fill": fill})
    options = build_options(NextOptions, given) if next_tokens else _options(given)
    folder = choose_run(run, named_run)
    if api_key_file is not None and url is None:
        raise OptionError("api_key_file", "has no effect without {}", others=["url"])
    if url is not None:
        local: dict[str, Any] = {"fill": fill, "beams": beams, "next": next_tokens or None}
        local |= {"interactive": interactive or None, "novel": novel or None}
        local |= {"state_in": state_in, "state_out": state_out}
        local |= {"int8": int8 or None, "device": None if device == "auto" else device}
        _refuse_with("url", local | {"checkpoint": None if which == "best" else which})
    options = _with_prompt(options, prompt, prompt_file)
    if url is not None:
        server = _connect(url, folder, api_key_file)
        _Output(server, as_json=as_json, raw=raw).write(options)
        return

    from charlm.api import load
    from charlm.trained_model import require_language_model

    loaded = load(folder, which=which, device="cpu" if int8 and device == "auto" else device)
    require_language_model(loaded.trained)
    if int8:
        loaded = _with_int8(loaded)
    output = _Output(_LocalRun(loaded, state_out), as_json=as_json, raw=raw)
    output.write(options, run=loaded, interactive=interactive)


class _Model(NamedTuple):
    """A model to load: its run folder, or None for the newest one, checkpoint and device."""

    folder: Path | None
    which: Literal["best", "last"]
    device: str


def _sources(source: str | None, file: Path | None) -> list[str]:
    """Return the source, or the lines of a file.

    Raises:
        UnsupportedOptionError: A line of the file is empty.
    """
    if file is None:
        return [] if source is None else [source]
    # `splitlines` would also divide a source at characters such as U+2028.
    lines = _read_text(file, "source_file").removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            problem = f"{file}: line {number} is empty and has no target; remove it"
            raise UnsupportedOptionError("source_file", problem)
    return [line.removesuffix("\r") for line in lines]


def _complete(
    sources: Sequence[str], options: CompletionOptions, model: _Model, *, as_json: bool
) -> None:
    """Print the target that a model writes for each source."""
    from charlm.api import load, load_translator
    from charlm.runs.files import RUNS
    from charlm.runs.folder import load_run, newest_run

    folder = model.folder or newest_run(RUNS)
    is_translator = load_run(folder).config.task.kind == "translate"
    load_it = load_translator if is_translator else load
    run = load_it(folder, which=model.which, device=model.device)
    for first in range(0, len(sources), _SOURCES_PER_BATCH):
        batch = sources[first : first + _SOURCES_PER_BATCH]
        for source, target in zip(batch, run.complete(batch, **asdict(options)), strict=True):
            facts = {"source": source, "target": target, "run": str(run.folder)}
            emit_result(facts | asdict(options), [target], as_json=as_json)


def _with_int8(run: "Run") -> "Run":
    """Return the run with products in int8; say so if they are no faster here."""
    from charlm.model.fast.int8 import has_int8_products
    from charlm.sampling.speed import seconds_per_step

    quantized = run.with_int8()
    if not has_int8_products(quantized.model):
        say("int8: this model has no product that is large enough to gain from int8; it uses fp32")
        return run
    seconds, seconds_before = (seconds_per_step(each.model) for each in (quantized, run))
    if seconds >= seconds_before:
        say(
            f"int8: a token takes {1e6 * seconds:.0f} µs, and {1e6 * seconds_before:.0f} µs in "
            "fp32: this processor gains nothing from int8 for this model; leave out --int8"
        )
    return quantized


def _refuse_with(option: str, others: Mapping[str, Any]) -> None:
    """Refuse options that are given, but cannot be used together with another one."""
    for other, value in others.items():
        if value is not None:
            raise OptionError(other, "cannot be used with {}; leave one out", others=[option])


def _options(given: Mapping[str, Any]) -> SampleOptions | SearchOptions | FillOptions:
    if given["beams"] is not None and given["text"] is None:
        return build_options(SearchOptions, given)
    seed = given["seed"]
    if seed is None and given["state_in"] is None:
        seed = secrets.randbelow(2**31)
    given = {**given, "seed": seed}
    if given["text"] is not None:
        return build_options(FillOptions, given)
    return build_options(SampleOptions, given)


class _Writer(Protocol):
    """A run that writes texts, on this machine or on a server."""

    @property
    def record_separator(self) -> str | None:
        """What the corpus has between two records; None if it has nothing, or no records."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Run and step, for JSON."""
        ...

    def write(self, options: SampleOptions) -> "list[Sample]":
        """Write texts."""
        ...

    def write_stream(self, options: SampleOptions) -> Iterator[str]:
        """Write one text, yielding its pieces."""
        ...


@dataclass(frozen=True)
class _LocalRun:
    """A run on this machine.

    Attributes:
        run: The run.
        state_out: File to write the state of a text to, or None.
    """

    run: "Run"
    state_out: Path | None

    @property
    def record_separator(self) -> str | None:
        return self.run.trained.record_separator

    @property
    def facts(self) -> dict[str, Any]:
        from charlm.trained_model import provenance

        facts = provenance(self.run.trained)
        return {name: facts[name] for name in ("run", "step", "products") if name in facts}

    def write(self, options: SampleOptions) -> "list[Sample]":
        from charlm.api import sample_to_file

        return sample_to_file(self.run.trained, options, self.state_out)

    def write_stream(self, options: SampleOptions) -> Iterator[str]:
        from charlm.api import stream_to_file

        return stream_to_file(self.run.trained, options, self.state_out)


def _connect(url: str, run: Path | None, api_key_file: Path | None) -> "RemoteRun":
    from charlm.serving.client import connect
    from charlm.serving.options import read_api_key

    api_key = None if api_key_file is None else read_api_key(api_key_file)
    return connect(url, model=None if run is None else run.name, api_key=api_key)


@dataclass(frozen=True)
class _Output:
    """How texts are printed.

    Attributes:
        writer: Run that writes the texts.
        as_json: Whether each text is a JSON object on one line.
        raw: Whether control characters are printed unescaped on a terminal.
    """

    writer: _Writer
    as_json: bool
    raw: bool

    def write(
        self, options: AnyOptions, *, run: "Run | None" = None, interactive: bool = False
    ) -> None:
        """Print what the options ask for; what is no new text needs a run on this machine."""
        if isinstance(options, SampleOptions) and not interactive:
            self.sample(options)
        elif run is not None:
            self._write_here(run, options)

    def _write_here(self, run: "Run", options: AnyOptions) -> None:
        if isinstance(options, FillOptions):
            self.fill(run, options)
        elif isinstance(options, SearchOptions):
            self.search(run, options)
        elif isinstance(options, NextOptions):
            self.next_tokens(run, options)
        else:
            self.converse(run, options)

    def fill(self, run: "Run", options: FillOptions) -> None:
        """Print texts whose gap is filled."""
        from charlm.sampling.fill import fill

        for filled in fill(run.trained, options):
            self._print(filled.text, filled.to_json())

    def next_tokens(self, run: "Run", options: NextOptions) -> None:
        """Print the most probable next tokens of a prompt."""
        from charlm.sampling.next_tokens import next_tokens

        result = next_tokens(run.trained, options)
        emit_result(result.to_json(), _next_tokens_table(result), as_json=self.as_json)

    def search(self, run: "Run", options: SearchOptions) -> None:
        """Print the most probable texts."""
        from charlm.sampling.search import search

        self._print_samples(search(run.trained, options), options)

    def converse(self, run: "Run", options: SampleOptions) -> None:
        """Write a text in turns with the user."""
        from charlm.cli.interactive import Conversation, converse

        direction = run.model.direction
        if direction != "forward":
            problem = f"the model reads {direction} and cannot continue a line"
            raise UnsupportedOptionError("interactive", problem)
        converse(Conversation(run.trained, options, raw=self.raw))

    def sample(self, options: SampleOptions) -> None:
        """Print sampled texts; a single text is printed while it is written."""
        constraints = options.constraints
        is_batch = options.count > 1 or options.best_of > 1
        if is_batch or self.as_json or constraints.novel or constraints.max_copy is not None:
            options = replace(options, scored=self.as_json)
            self._print_samples(self.writer.write(options), options)
            return
        writer = TextWriter(raw=self.raw)
        for piece in self.writer.write_stream(options):
            writer.write(piece)
        writer.finish()
        if not options.state_out or sys.stdout.isatty():  # Else successive parts form one text.
            emit(self._end(is_last=True), end="", raw=self.raw)

    def _end(self, *, is_last: bool) -> str:
        """Return what follows a text: as in the corpus, or else a line of dashes between two."""
        own = self.writer.record_separator
        end = own or ("\n" if is_last else "\n\n---\n\n")
        return f"{end}\n" if is_last and not end.endswith("\n") else end

    def _print_samples(
        self, samples: "Sequence[Sample]", options: SampleOptions | SearchOptions
    ) -> None:
        facts = self.writer.facts | {"settings": _settings(options)}
        for number, sample in enumerate(samples):
            end = self._end(is_last=number == len(samples) - 1)
            self._print(sample.text, sample.to_json() | facts, end=end)

    def _print(self, text: str, facts: Mapping[str, Any], *, end: str = "\n") -> None:
        if self.as_json:
            emit_json(facts, in_ascii=False, raw=self.raw)
        else:
            writer = TextWriter(raw=self.raw)
            writer.write(text)
            writer.finish()
            emit(end, end="", raw=self.raw)


def _next_tokens_table(result: "NextTokens") -> Iterator[str]:
    yield f"{'probability':>11}  token"
    for token in result.tokens:
        yield f"{token.probability:>11.2%}  {_visible(token.text)}"
    if result.num_others:
        yield f"{result.others_probability:>11.2%}  the other {result.num_others:,} tokens"


def _visible(token: str) -> str:
    """Return the text of a token in quotation marks, in which spaces and line ends are visible."""
    from charlm.data.tokenizer import EOS_TEXT, UNK_TEXT

    if token in (EOS_TEXT, UNK_TEXT):
        return token
    shown = quote(token)
    # What is no whole character has its backslashes already.
    return shown.replace("\\\\x", "\\x") if token.startswith("\\x") else shown


def _settings(options: SampleOptions | SearchOptions) -> dict[str, Any]:
    """Return the settings of a text under the names of the command's options."""
    if isinstance(options, SearchOptions):
        filters: dict[str, Any] = dict.fromkeys(asdict(Filters()))
        filters["no_repeat_ngram"] = options.no_repeat_ngram
        constraints = ConstraintOptions(ban=options.ban)
        ranking: dict[str, Any] = {
            "beams": options.beams,
            "best_of": 1,
            "length_penalty": options.length_penalty,
        }
        state_in = None
    else:
        filters = asdict(options.filters)
        constraints = options.constraints
        length_penalty = options.ranking_penalty if options.best_of > 1 else None
        ranking = {
            "beams": None,
            "best_of": options.best_of,
            "length_penalty": length_penalty,
        }
        state_in = None if options.state_in is None else str(options.state_in)
    stop = options.stop
    default_length = DEFAULT_LENGTH if stop.characters is None else None
    return {
        **filters,
        "ban": list(constraints.ban) or None,
        **ranking,
        "length": default_length if stop.length is None else stop.length,
        "characters": stop.characters,
        "until": list(stop.until) or None,
        "novel": constraints.novel,
        "max_copy": constraints.max_copy,
        "matching": constraints.matching,
        "state_in": state_in,
        "log_probabilities": "nats, of the model itself: at temperature 1, before filters, banned "
        "texts and constraints",
    }


def _with_prompt(options: AnyOptions, prompt: str, file: Path | None) -> AnyOptions:
    if isinstance(options, FillOptions):
        return options
    return replace(options, prompt=_read_prompt(prompt, file))


def _read_prompt(prompt: str, file: Path | None) -> str:
    """Return the prompt: an argument, standard input, or the contents of a file."""
    if file is None and prompt != "-":
        return prompt.removeprefix(_BYTE_ORDER_MARK)
    return _read_text(file or Path("-"), "prompt_file")


def _read_text(file: Path, option: str) -> str:
    """Return the contents of a file that is the value of an option; - is standard input."""
    try:
        is_stdin = file == Path("-")
        data, name = (sys.stdin.buffer.read(), "stdin") if is_stdin else (file.read_bytes(), file)
    except OSError as error:
        problem = f"{file}: cannot be read: {error.strerror}; name another file"
        raise UnsupportedOptionError(option, problem) from None
    try:
        return data.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        what = option.removesuffix("_file")
        raise CharlmError(
            f"{name}: byte {error.start} of the {what} is not UTF-8; save the {what} as UTF-8"
        ) from None
