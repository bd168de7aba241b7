"""`charlm eval`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from charlm.cli.sample import Device, Which

app = typer.Typer(help="Score a model.", rich_markup_mode=None)


@app.callback()
def _eval() -> None:
    """Score a model."""


@app.command("perplexity")
def perplexity(
    run_and_texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN|TEXT", help="Run folder [the newest under runs/], then texts to score."),
    ] = None,
    split: Annotated[
        Literal["train", "valid", "test"], typer.Option(help="With no TEXT: this part of the run's own corpus.")
    ] = "valid",
    which: Which = "best",
    streams: Annotated[int, typer.Option(min=1, help="1 is exact; more read side by side, faster.")] = 1,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of matrix products.")] = "fp32",
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Score a model on a text: nats per token, perplexity, bits per character and byte.

    Exact by default: one stream, the state carried through, every token predicted once.

    Try: charlm eval perplexity --split valid
    """
    from charlm.api import load

    folder, texts = _run_then_texts(run_and_texts or [])
    score = load(folder, which=which, device=device).perplexity(
        paths=texts, split=split, streams=streams, precision=precision
    )
    if as_json:
        print(json.dumps(score.to_json()))
        return
    for name, value in score.to_json().items():
        if name != "settings":
            shown = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
            print(f"{name:<20} {shown:>14}")
    print(", ".join(f"{name} {value}" for name, value in score.settings.items()))


def _run_then_texts(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Tell a run folder from a text: the first argument is a run if it is a run folder or nothing else is there."""
    from charlm.data.cards import card_names

    if not arguments:
        return None, []
    first = arguments[0]
    is_text = first == "-" or first in card_names() or (Path(first).exists() and not _looks_like_run(Path(first)))
    return (None, arguments) if is_text else (Path(first), arguments[1:])


def _looks_like_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or path.parent.name == "runs"
