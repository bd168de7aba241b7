"""`charlm sample`."""

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    some_text,
    unicode_text,
)
from charlm.cli.terminal import TextWriter, emit, emit_json
from charlm.errors import CharlmError, OptionError, UnsupportedOptionError
from charlm.sampling.options import (
    DEFAULT_LENGTH,
    ConstraintOptions,
    FillOptions,
    Filters,
    SampleOptions,
    SearchOptions,
    build_options,
)

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import Run, Sample

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
_BYTE_ORDER_MARK = "\ufeff"  # Some editors begin a file with it.


def sample(
    run: Folder = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="Below 1 is more predictable, above 1 less; 0 takes the most probable token. [1]",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1, callback=at_most(MAX_COUNT), help="Draw from this many most probable tokens."
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw from the most probable tokens whose probabilities sum to this.",
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw from tokens with at least this fraction of the highest probability.",
        ),
    ] = None,
    typical: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Draw from the most typical tokens whose probabilities sum to this.",
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, callback=finite, help="Draw from tokens more probable than this."
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Like --epsilon, but lower where the distribution is flat.",
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            callback=finite,
            help="Above 1: tokens that the text already has become less probable.",
        ),
    ] = None,
    repetition_window: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="Number of last tokens that the penalty applies to. [the whole text]",
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
        ),
    ] = None,
    ban: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", callback=some_text, help="Never write TEXT; repeatable."),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            metavar="N",
            help="Beam search: find the most probable text with N beams.",
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MAX_PARALLEL),
            metavar="N",
            help="Write N candidates per text and keep the most probable.",
        ),
    ] = 1,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="For --beams and --best-of: higher favours longer texts. [0.6]",
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(callback=unicode_text, help="Beginning of the text; - reads it from stdin."),
    ] = "",
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", parser=as_path, help="Read the prompt from a file; - is stdin."
        ),
    ] = None,
    fill: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            callback=some_text,
            help="Fill the gap, ____, in TEXT, with a model of direction both.",
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            help="Maximum number of tokens. [500; in a gap 16]",
            show_default=False,
        ),
    ] = None,
    characters: Annotated[
        int | None,
        typer.Option(
            min=1, callback=at_most(MAX_COUNT), help="Number of characters to write, exactly."
        ),
    ] = None,
    until: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", callback=some_text, help="Stop when TEXT is written; repeatable."
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            min=1, callback=at_most(MAX_PARALLEL), help="Number of texts, written side by side."
        ),
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=at_most(MAX_SEED),
            help="The same seed writes the same texts. [a new seed]",
        ),
    ] = None,
    novel: Annotated[
        bool, typer.Option("--novel", help="Only texts that are not in the corpus, each once.")
    ] = False,
    max_copy: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_COUNT),
            metavar="N",
            help="Copy at most N characters in a row from the training text.",
        ),
    ] = None,
    matching: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            callback=unicode_text,
            help="Only texts that match as a whole; without records a text ends with the match.",
        ),
    ] = None,
    allow_unknown: Annotated[
        bool,
        typer.Option(
            "--allow-unknown", help="Read unknown characters and words of the prompt as <UNK>."
        ),
    ] = False,
    state_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_target,
            help="Save the state of the text, to continue it with --state-in.",
        ),
    ] = None,
    state_in: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_path,
            help="Continue the text of --state-out; prints only new text.",
        ),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive", help="Write in turns with the model: type a line, and it continues."
        ),
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Print control characters unescaped on a terminal."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each text as a JSON object on one line.")
    ] = False,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
) -> None:
    """Write new text with a trained model.

    A model of records (one per line) ends its texts itself; others write --length tokens. Filters
    apply in this order: banned texts, repetition penalty, no-repeat, temperature, top k, top p,
    min p, typical, epsilon, eta.

    Try: charlm sample --temperature 0.8 --prompt "The "
    """
    given: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    given |= {"min_p": min_p, "typical": typical, "epsilon": epsilon, "eta": eta}
    given |= {"repetition_penalty": repetition_penalty, "repetition_window": repetition_window}
    given |= {"no_repeat_ngram": no_repeat_ngram, "ban": ban or None, "max_copy": max_copy}
    given |= {"matching": matching, "novel": novel or None, "prompt": prompt or None}
    given |= {"length": length, "characters": characters, "until": until or None}
    given |= {"count": count, "best_of": best_of if best_of > 1 else None, "seed": seed}
    given |= {"beams": beams, "length_penalty": length_penalty, "text": fill}
    given |= {"allow_unknown": allow_unknown, "state_in": state_in}
    given |= {"state_out": None if state_out is None else True}
    if prompt_file is not None:
        _refuse_with("prompt_file", {"prompt": given["prompt"], "fill": fill})
    if interactive:
        others = {name: given[name] for name in _NOT_INTERACTIVE}
        others |= {"count": count if count > 1 else None, "fill": fill}
        others |= {"as_json": as_json or None, "prompt_file": prompt_file}
        _refuse_with("interactive", others)
    options = _options(given)

    from charlm.api import load

    output = _Output(
        load(choose_run(run, named_run), which=which, device=device), as_json=as_json, raw=raw
    )
    if isinstance(options, FillOptions):
        output.fill(options)
    elif isinstance(options, SearchOptions):
        output.search(replace(options, prompt=_read_prompt(prompt, prompt_file)))
    elif interactive:
        output.converse(options)
    else:
        output.sample(replace(options, prompt=_read_prompt(prompt, prompt_file)), state_out)


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


@dataclass(frozen=True)
class _Output:
    """How the texts of a run are printed.

    Attributes:
        run: Run that writes the texts.
        as_json: Whether each text is a JSON object on one line.
        raw: Whether control characters are printed unescaped on a terminal.
    """

    run: "Run"
    as_json: bool
    raw: bool

    def fill(self, options: FillOptions) -> None:
        """Print texts whose gap is filled."""
        from charlm.sampling.fill import fill

        for filled in fill(self.run.trained, options):
            self._print(filled.text, filled.to_json())

    def search(self, options: SearchOptions) -> None:
        """Print the most probable texts."""
        from charlm.sampling.search import search

        self._print_samples(search(self.run.trained, options), options)

    def converse(self, options: SampleOptions) -> None:
        """Write a text in turns with the user."""
        from charlm.cli.interactive import Conversation, converse

        direction = self.run.model.direction
        if direction != "forward":
            problem = f"the model reads {direction} and cannot continue a line"
            raise UnsupportedOptionError("interactive", problem)
        converse(Conversation(self.run.trained, options, raw=self.raw))

    def sample(self, options: SampleOptions, state_out: Path | None) -> None:
        """Print sampled texts; a single text is printed while it is written."""
        from charlm.api import sample_to_file, stream_to_file

        constraints = options.constraints
        is_batch = options.count > 1 or options.best_of > 1
        if is_batch or self.as_json or constraints.novel or constraints.max_copy is not None:
            options = replace(options, scored=self.as_json)
            samples = sample_to_file(self.run.trained, options, state_out)
            self._print_samples(samples, options)
            return
        writer = TextWriter(raw=self.raw)
        for piece in stream_to_file(self.run.trained, options, state_out):
            writer.write(piece)
        writer.finish()
        if state_out is None or sys.stdout.isatty():  # Else successive parts form one text.
            emit()

    def _print_samples(
        self, samples: "Sequence[Sample]", options: SampleOptions | SearchOptions
    ) -> None:
        facts = {
            "run": str(self.run.folder),
            "step": self.run.state["step"],
            "settings": _settings(options),
        }
        for number, sample in enumerate(samples):
            is_last = self.run.writes_records or number == len(samples) - 1
            text = sample.text if is_last else f"{sample.text}\n\n---\n"
            self._print(text, sample.to_json() | facts)

    def _print(self, text: str, facts: Mapping[str, Any]) -> None:
        if self.as_json:
            emit_json(facts, in_ascii=False, raw=self.raw)
        else:
            writer = TextWriter(raw=self.raw)
            writer.write(text)
            writer.finish()
            emit()


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


def _read_prompt(prompt: str, file: Path | None) -> str:
    """Return the prompt: an argument, standard input, or the contents of a file."""
    if prompt == "-" or file == Path("-"):
        return _decode(sys.stdin.buffer.read(), "stdin")
    if file is None:
        return prompt.removeprefix(_BYTE_ORDER_MARK)
    try:
        return _decode(file.read_bytes(), str(file))
    except OSError as error:
        problem = f"{file}: cannot be read: {error.strerror}; name another file"
        raise UnsupportedOptionError("prompt_file", problem) from None


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise CharlmError(
            f"{name}: byte {error.start} of the prompt is not UTF-8; save the prompt as UTF-8"
        ) from None
