"""`charlm train`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from charlm.errors import ConfigError

Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Files, folders, globs, .gz, or - .")]
ConfigName = Annotated[str | None, typer.Option(help="A YAML file, or the name of a shipped one.")]
Corpora = Annotated[list[str] | None, typer.Option(help="Name of a corpus, or a text's path; again for several.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one field; again for more.")
]


def train(
    texts: Texts = None,
    config: ConfigName = None,
    corpus: Corpora = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make. [runs/CONFIG-TIME]")] = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Budget: minutes of training steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget: training steps.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0, help="Budget: passes over the text.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, dropout and order.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, or cuda:N.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
) -> None:
    """Train a model on a text; print its run folder.

    Without --config, what fits the text, the device and the budget is chosen, and told.

    Ctrl-C finishes the step and saves; --resume goes on from there as if nothing had been.

    Try: charlm train my.txt --minutes 5
    """
    from charlm.cli.progress import follow
    from charlm.config import load_config
    from charlm.training.choice import choose

    budgets = {"minutes": minutes, "steps": steps, "epochs": epochs}
    budget = {name: value for name, value in budgets.items() if value is not None}
    if len(budget) > 1:
        raise ConfigError(f"{' and '.join(f'--{name}' for name in budget)}: give one of --minutes, --steps, --epochs")
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
        _refuse_with_resume([name for name, value in given.items() if value])
        follow(lambda run: run.resume(resume, budget=budget, device=device))
        return
    short = budget | {"seed": seed, "device": device}
    changes = [*(overrides or []), *(f"training.{name}={value}" for name, value in short.items() if value is not None)]
    changes += [f"corpus.text={json.dumps(sources)}"] if sources else []
    folder = out if out is not None else named_folder(config, sources)
    if config is not None:
        checked = load_config(config, changes)
        follow(lambda run: run.begin(checked, folder))
        return
    choice = choose(changes)
    kept = f"all of it: {folder}/config.yaml, to be edited and trained with --config"
    follow(lambda run: run.begin(choice.config, folder), first=[*choice.reasons, kept])


def _refuse_with_resume(given: list[str]) -> None:
    if given:
        raise ConfigError(
            f"{', '.join(given)}: cannot be given with --resume, which goes on with the run's own settings"
        )


def named_folder(config: str | None, sources: list[str], *, before: str = "") -> Path:
    """Return a new run folder, named after the config or else the first text, with something put before it."""
    from charlm.api import new_run_folder

    named = config or (sources[0] if sources else "run")
    return new_run_folder(before + ("stdin" if named == "-" else Path(named).stem or "run"))
