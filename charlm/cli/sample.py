"""`charlm sample`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from charlm.errors import ConfigError

Folder = Annotated[Path | None, typer.Argument(metavar="RUN", help="Run folder. [the newest under runs/]")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:N, whichever it was trained on.")]
Which = Annotated[Literal["best", "last"], typer.Option("--checkpoint", help="Best by validation loss, or the last.")]


def sample(
    run: Folder = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most probable; above 1 is wilder.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from this many most probable tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Draw from the most probable that sum to this.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="What the text begins with; - reads it from stdin.")] = "",
    fill: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Fill the gap, ____, of a text; for a model of direction both.")
    ] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Most tokens to write. [500; in a gap 16]", show_default=False)
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many texts.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed writes the same texts. [a new one]")] = None,
    novel: Annotated[bool, typer.Option("--novel", help="Only texts not in the corpus, without repeats.")] = False,
    allow_unknown: Annotated[
        bool, typer.Option("--allow-unknown", help="Read what the model never saw in the prompt as <UNK>.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a text, one a line.")] = False,
    which: Which = "best",
    device: Device = "auto",
) -> None:
    """Write new text with a trained model.

    A model of records (a line each) ends its texts by itself; others write --length tokens.

    Try: charlm sample --temperature 0.8 --prompt "The "
    """
    import secrets

    from charlm.api import load
    from charlm.sampling.generate import Settings

    loaded = load(run, which=which, device=device)
    seed = secrets.randbelow(2**31) if seed is None else seed
    prompt = _read_stdin() if prompt == "-" else prompt
    if fill is not None:
        given = {"--prompt": prompt, "--top-k": top_k, "--top-p": top_p, "--novel": novel}
        _refuse_with_fill([name for name, value in given.items() if value])
        filled = loaded.fill(
            fill, length=length or 16, count=count, temperature=temperature, seed=seed, allow_unknown=allow_unknown
        )
        for one in filled:
            print(json.dumps(asdict(one), ensure_ascii=False) if as_json else one.text)
        return
    length = length or 500
    if count == 1 and not (as_json or novel):
        for piece in loaded.stream(
            prompt=prompt, length=length, settings=Settings(temperature, top_k, top_p), seed=seed,
            allow_unknown=allow_unknown,
        ):  # fmt: skip
            print(piece, end="", flush=True)
        print()
        return
    texts = loaded.sample(
        prompt=prompt, length=length, count=count, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        novel=novel, allow_unknown=allow_unknown,
    )  # fmt: skip
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "length": length, "novel": novel}
    belongs = {"run": str(loaded.folder), "step": loaded.state["step"], "seed": seed, "settings": settings}
    for number, text in enumerate(texts):
        if as_json:
            print(json.dumps(asdict(text) | belongs, ensure_ascii=False))
        else:
            print(text.text if loaded.writes_records or number == len(texts) - 1 else f"{text.text}\n\n---\n")


def _refuse_with_fill(given: list[str]) -> None:
    if given:
        raise ConfigError(f"{', '.join(given)}: has no effect on a gap; leave it out with --fill")


def _read_stdin() -> str:
    return sys.stdin.buffer.read().decode(errors="surrogateescape")
