"""`charlm train`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from charlm.cli.options import MOST, MOST_SEED, above_zero, as_path, at_most, known_device, not_empty, refuse_beside
from charlm.errors import ConfigError

if TYPE_CHECKING:
    from charlm.config import Config

Texts = Annotated[
    list[str] | None, typer.Argument(metavar="TEXT", callback=not_empty, help="Files, folders, globs, .gz, or - .")
]
ConfigName = Annotated[str | None, typer.Option(callback=not_empty, help="A YAML file, or the name of a shipped one.")]
Corpora = Annotated[
    list[str] | None, typer.Option(callback=not_empty, help="Name of a corpus, or a text's path; again for several.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one field; again for more.")
]


def train(
    texts: Texts = None,
    config: ConfigName = None,
    corpus: Corpora = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=as_path, help="Run folder to make. [runs/CONFIG-TIME]")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(callback=above_zero, help="Budget: minutes of training steps.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, callback=at_most(MOST), help="Budget: training steps.")] = None,
    epochs: Annotated[float | None, typer.Option(callback=above_zero, help="Budget: passes over the text.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, callback=at_most(MOST_SEED), help="Seed of weights, dropout and order.")
    ] = None,
    device: Annotated[str | None, typer.Option(callback=known_device, help="auto, cpu, cuda, or cuda:N.")] = None,
    on_divergence: Annotated[
        Literal["stop", "halve"] | None,
        typer.Option(help="halve: go back to the last good evaluation, with half the rate. [stop]"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", parser=as_path, help="Run folder to go on with.")
    ] = None,
) -> None:
    """Train a model on a text; print its run folder.

    Without --config, what fits the text, the device and the budget is chosen, and told.

    Ctrl-C finishes the step and saves; --resume goes on from there as if nothing had been.

    Try: charlm train my.txt --minutes 5
    """
    from charlm.cli.progress import follow
    from charlm.training.checkpoint import check_new
    from charlm.training.choice import choose

    budgets = {"minutes": minutes, "steps": steps, "epochs": epochs}
    budget = {name: value for name, value in budgets.items() if value is not None}
    if len(budget) > 1:
        raise typer.BadParameter("give one of them", param_hint=" and ".join(f"--{name}" for name in budget))
    sources = [*(corpus or []), *(texts or [])]
    if resume is not None:
        given = {
            "TEXT": texts,
            "--corpus": corpus,
            "--config": config,
            "--set": overrides,
            "--out": out,
            "--seed": seed,
        }
        refuse_beside("--resume", [name for name, value in given.items() if value], "which goes on with the run's own")
        follow(lambda run: run.resume(resume, budget=budget, device=device, on_divergence=on_divergence))
        return
    short = budget | {"seed": seed, "device": device, "on_divergence": on_divergence}
    changes = [*(overrides or []), *(f"training.{name}={value}" for name, value in short.items() if value is not None)]
    changes += [f"corpus.text={json.dumps(sources)}"] if sources else []
    folder = out if out is not None else named_folder(config, sources)
    check_new(folder)  # Before what takes seconds.
    checked = checked_config(config, changes)
    if config is not None:
        follow(lambda run: run.begin(checked, folder))
        return
    choice = choose(changes)
    kept = f"all of it: {folder}/config.yaml, to be edited and trained with --config"
    follow(lambda run: run.begin(choice.config, folder), first=[*choice.reasons, kept])


def checked_config(config: str | None, changes: list[str]) -> "Config":
    """Return a configuration with what options change of it.

    Raises:
        ConfigError: There is no such file, or it has mistakes of its own.
        BadParameter: It has not, so that the options are what is wrong with it.
    """
    from charlm.config import load_config

    try:
        return load_config(config, changes)
    except ConfigError as error:
        load_config(config)
        raise typer.BadParameter(str(error), param_hint="--set") from None


def named_folder(config: str | None, sources: list[str], *, before: str = "") -> Path:
    """Return a new run folder, named after the config or else the first text, with something put before it."""
    from charlm.api import new_run_folder

    named = config or (sources[0] if sources else "run")
    return new_run_folder(before + ("stdin" if named == "-" else Path(named).stem or "run"))
