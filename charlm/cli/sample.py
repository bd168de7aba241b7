"""`charlm sample`."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import (
    MOST,
    MOST_BESIDE,
    MOST_SEED,
    Device,
    Folder,
    Which,
    as_path,
    as_target,
    at_most,
    finite,
    flag,
    some_text,
    unicode_text,
)
from charlm.cli.terminal import emit, emit_json
from charlm.errors import CharlmError

if TYPE_CHECKING:  # It imports torch.
    from charlm.api import Run, Sample

_FILTERS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical",
    "epsilon",
    "eta",
    "repetition_penalty",
    "repetition_window",
    "no_repeat_ngram",
)
_STATES = ("state_in", "state_out")
# Options that one another would not heed.
_CONFLICTS: Mapping[str, tuple[str, ...]] = {
    "fill": (
        *_FILTERS[1:],
        "ban",
        "beams",
        "best_of",
        "length_penalty",
        "prompt",
        "prompt_file",
        "characters",
        "until",
        "novel",
        "max_copy",
        "matching",
        *_STATES,
        "interactive",
    ),
    "beams": (
        *_FILTERS[:-1],
        "best_of",
        "novel",
        "max_copy",
        "matching",
        *_STATES,
        "interactive",
        "seed",
    ),
    "interactive": (
        "count",
        "best_of",
        "novel",
        "max_copy",
        "matching",
        "as_json",
        "prompt",
        "prompt_file",
        *_STATES,
    ),
    "state_in": ("count", "best_of", "novel", "max_copy"),
    "state_out": ("count", "best_of", "novel", "max_copy"),
    "matching": ("characters", "until", "max_copy", *_STATES),
    "prompt_file": ("prompt",),
}


def sample(
    run: Folder = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0, callback=finite, help="0 takes the most probable; above 1 is wilder. [1]"
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1, callback=at_most(MOST), help="Draw from this many most probable tokens."
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, callback=finite, help="Draw from the most probable that sum to this."
        ),
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Only tokens of this share of the most probable one's.",
        ),
    ] = None,
    typical: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, callback=finite, help="Draw from the most typical that sum to this."
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(min=0, max=1, callback=finite, help="Only tokens more probable than this."),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, callback=finite, help="The same, but laxer where all are improbable."
        ),
    ] = None,
    repetition_penalty: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            callback=finite,
            help="Above 1: what the text has already becomes less probable.",
        ),
    ] = None,
    repetition_window: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST),
            help="Tokens back that the penalty looks. [the whole text]",
        ),
    ] = None,
    no_repeat_ngram: Annotated[
        int | None,
        typer.Option(
            "--no-repeat",
            min=1,
            callback=at_most(MOST),
            metavar="N",
            help="Never N tokens in a row twice.",
        ),
    ] = None,
    ban: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", callback=some_text, help="Never write TEXT; again for more."),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST_BESIDE),
            metavar="N",
            help="Search for the most probable text, N side by side.",
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(
            min=1,
            callback=at_most(MOST_BESIDE),
            metavar="N",
            help="Write N for each text and keep the most probable.",
        ),
    ] = 1,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=finite,
            help="Of --beams and --best-of: above 0 favours longer texts. [0.6]",
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(
            callback=unicode_text, help="What the text begins with; - reads it from stdin."
        ),
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
            help="Fill the gap, ____, of a text; for a model of direction both.",
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST),
            help="Most tokens to write. [500; in a gap 16]",
            show_default=False,
        ),
    ] = None,
    characters: Annotated[
        int | None,
        typer.Option(min=1, callback=at_most(MOST), help="Characters to write, cut exactly."),
    ] = None,
    until: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", callback=some_text, help="Stop once TEXT is written; again for more."
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            min=1, callback=at_most(MOST_BESIDE), help="How many texts, written side by side."
        ),
    ] = 1,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=at_most(MOST_SEED),
            help="The same seed writes the same texts. [a new one]",
        ),
    ] = None,
    novel: Annotated[
        bool, typer.Option("--novel", help="Only texts not in the corpus, without repeats.")
    ] = False,
    max_copy: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST),
            metavar="N",
            help="Copy at most N characters in a row from the training text.",
        ),
    ] = None,
    matching: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            callback=unicode_text,
            help="Only texts that match as a whole; those of no records end there.",
        ),
    ] = None,
    allow_unknown: Annotated[
        bool,
        typer.Option(
            "--allow-unknown", help="Read what the model never saw in the prompt as <UNK>."
        ),
    ] = False,
    state_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_target,
            help="Keep where the text stands, to go on with --state-in.",
        ),
    ] = None,
    state_in: Annotated[
        Path | None,
        typer.Option(metavar="FILE", parser=as_path, help="Go on from there; prints what is new."),
    ] = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", help="Write in turns: a line of yours, then the model.")
    ] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="On a terminal, print control characters as they are, not escaped."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object a text, one a line.")
    ] = False,
    which: Which = "best",
    device: Device = "auto",
) -> None:
    """Write new text with a trained model.

    A model of records (a line each) ends its texts by itself; others write --length tokens. Whatever of it is given is
    applied in this order: bans, repetition penalty, no-repeat, temperature, top k, top p, min p, typical, epsilon, eta.

    Try: charlm sample --temperature 0.8 --prompt "The "
    """
    given = dict(locals())
    _refuse_conflicts(given)
    import secrets

    from charlm.api import load

    loaded = load(run, which=which, device=device)
    if seed is None and state_in is None:
        given["seed"] = secrets.randbelow(2**31)
    given["prompt"] = _prompt(prompt, prompt_file)
    way = next(
        (
            way
            for name, way in _WAYS.items()
            if given[name] is not None and given[name] is not False
        ),
        _write,
    )
    way(loaded, given)


def _refuse_conflicts(given: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect beside another."""
    used = {
        name
        for name, value in given.items()
        if value is not None and value is not False and value not in ("", [])
    }
    used -= {name for name in ("count", "best_of") if given[name] == 1}
    for name, others in _CONFLICTS.items():
        odd = [flag(other) for other in others if other in used]
        if name in used and odd:
            raise typer.BadParameter(
                f"has no effect with {flag(name)}; leave one out", param_hint=", ".join(odd)
            )
    for name, needed in {
        "repetition_window": ["repetition_penalty"],
        "length_penalty": ["beams", "best_of"],
    }.items():
        if name in used and not used & set(needed):
            remedy = f"has no effect without {' or '.join(map(flag, needed))}"
            raise typer.BadParameter(remedy, param_hint=flag(name))


def _taken(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return options by name, those that were not given left out."""
    return {name: given[name] for name in names if given[name] is not None}


def _fill(run: "Run", given: Mapping[str, Any]) -> None:
    names = ("length", "count", "temperature", "seed", "allow_unknown")
    for one in run.fill(given["fill"], **_taken(given, *names)):
        _emit_text(one.text, asdict(one), given)


def _interactive(run: "Run", given: Mapping[str, Any]) -> None:
    from charlm.cli.interactive import Conversation, converse
    from charlm.sampling.filters import Settings
    from charlm.sampling.text_stream import StopCondition

    if run.model.direction != "forward":
        raise CharlmError(
            f"--interactive: the model reads {run.model.direction}, and cannot go on from a line"
        )
    ending = StopCondition(given["length"], given["characters"], tuple(given["until"] or ()))
    converse(
        Conversation(
            run,
            settings=Settings(**_taken(given, *_FILTERS)),
            ending=ending,
            ban=given["ban"] or (),
            seed=given["seed"],
            allow_unknown=given["allow_unknown"],
            raw=given["raw"],
        )
    )


def _search(run: "Run", given: Mapping[str, Any]) -> None:
    names = (*_SHAPE, "beams", "count", "length_penalty", "no_repeat_ngram")
    _print_texts(run, run.search(**_taken(given, *names)), given)


def _write(run: "Run", given: Mapping[str, Any]) -> None:
    if given["count"] == given["best_of"] == 1 and not (
        given["as_json"] or given["novel"] or given["max_copy"]
    ):
        _stream(run, given)
        return
    names = (
        *_SHAPE,
        *_FILTERS,
        *_STATES,
        "count",
        "best_of",
        "length_penalty",
        "seed",
        "novel",
        "max_copy",
        "matching",
    )
    _print_texts(run, run.sample(**_taken(given, *names), scored=given["as_json"]), given)


def _stream(run: "Run", given: Mapping[str, Any]) -> None:
    from charlm.sampling.filters import Settings

    settings = Settings(**_taken(given, *_FILTERS))
    for piece in run.stream(
        **_taken(given, *_SHAPE, *_STATES, "seed", "matching"), settings=settings
    ):
        emit(piece, end="", raw=given["raw"])
    if given["state_out"] is None or sys.stdout.isatty():  # Else chapters in a row are one text.
        emit()


def _print_texts(run: "Run", texts: "list[Sample]", given: Mapping[str, Any]) -> None:
    belongs = {"run": str(run.folder), "step": run.state["step"], "settings": _settings(given)}
    for number, text in enumerate(texts):
        last = run.writes_records or number == len(texts) - 1
        _emit_text(text.text if last else f"{text.text}\n\n---\n", asdict(text) | belongs, given)


def _emit_text(text: str, facts: dict[str, Any], given: Mapping[str, Any]) -> None:
    if given["as_json"]:
        emit_json(facts, in_ascii=False, raw=given["raw"])
    else:
        emit(text, raw=given["raw"])


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the texts belong to."""
    names = (
        *_FILTERS,
        "ban",
        "beams",
        "best_of",
        "length_penalty",
        "length",
        "characters",
        "until",
        "novel",
        "max_copy",
        "matching",
    )
    settings = {name: given[name] for name in names}
    if given["beams"] is None and settings["temperature"] is None:
        settings["temperature"] = 1.0
    if settings["length"] is None and settings["characters"] is None:
        settings["length"] = 500
    if settings["length_penalty"] is None and (given["beams"] or given["best_of"] > 1):
        settings["length_penalty"] = 0.6
    return settings | {
        "state_in": None if given["state_in"] is None else str(given["state_in"]),
        "log_probabilities": "nats, of the model itself: at temperature 1, before filters, bans and constraints",
    }


def _prompt(prompt: str, file: Path | None) -> str:
    """Return the prompt, from where it is."""
    if prompt == "-" or file == Path("-"):
        return _decoded(sys.stdin.buffer.read(), "stdin")
    if file is None:
        return prompt
    try:
        return _decoded(file.read_bytes(), str(file))
    except OSError as error:
        raise CharlmError(f"--prompt-file: {file}: cannot be read: {error.strerror}") from None


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CharlmError(
            f"{name}: byte {error.start} of the prompt is not UTF-8; give it in UTF-8"
        ) from None


_SHAPE = ("prompt", "length", "characters", "until", "ban", "allow_unknown")
_WAYS = {"fill": _fill, "interactive": _interactive, "beams": _search}
