"""`charlm train`."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from charlm.cli.options import (
    MOST,
    MOST_PROCESSES,
    MOST_SEED,
    above_zero,
    as_path,
    at_most,
    known_device,
    not_empty,
    refuse_beside,
)
from charlm.cli.terminal import say
from charlm.errors import ConfigError, OptionError

if TYPE_CHECKING:
    from charlm.config.schema import Config
    from charlm.runs.experiment import Experiment
    from charlm.training.process_group import Group

TextArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", callback=not_empty, help="Files, folders, globs, or - ."),
]
ConfigName = Annotated[
    str | None, typer.Option(callback=not_empty, help="A YAML file, or the name of a shipped one.")
]
Corpora = Annotated[
    list[str] | None,
    typer.Option(callback=not_empty, help="Name of a corpus, or a text's path; again for several."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one field; again for more."),
]


def train(
    texts: TextArguments = None,
    config: ConfigName = None,
    corpus: Corpora = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=as_path, help="Run folder to make. [runs/CONFIG-TIME]"),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(callback=above_zero, help="Budget: minutes of training steps.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, callback=at_most(MOST), help="Budget: training steps.")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(callback=above_zero, help="Budget: passes over the text.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, callback=at_most(MOST_SEED), help="Seed of weights, dropout and order."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(callback=known_device, help="auto, cpu, cuda, or cuda:N.")
    ] = None,
    on_divergence: Annotated[
        Literal["stop", "halve"] | None,
        typer.Option(help="halve: go back to the last good evaluation, with half the rate. [stop]"),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", parser=as_path, help="Run folder to go on with.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MOST_PROCESSES),
            help="Processes that share the work on this machine.",
        ),
    ] = None,
    track: Annotated[
        Literal["tensorboard"] | None,
        typer.Option(help="Also write metrics and samples for TensorBoard, to RUN/tensorboard."),
    ] = None,
) -> None:
    """Train a model on a text; print its run folder.

    Without --config, what fits the text, the device and the budget is chosen, and told.

    Ctrl-C finishes the step and saves; --resume goes on from there as if nothing had been.

    On several GPUs or machines: --processes, or torchrun ... -m charlm train ... --out DIR; see docs/scale.md.

    Try: charlm train my.txt --minutes 5
    """
    from charlm.cli.progress import follow
    from charlm.tracking import check_installed
    from charlm.training.process_group import SINGLE_PROCESS, Group, is_launched, join

    budgets = {"minutes": minutes, "steps": steps, "epochs": epochs}
    budget = {name: value for name, value in budgets.items() if value is not None}
    if len(budget) > 1:
        raise typer.BadParameter(
            "give one of them", param_hint=" and ".join(f"--{name}" for name in budget)
        )
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
        refuse_beside(
            "--resume",
            [name for name, value in given.items() if value],
            "which goes on with the run's own",
        )
    together = is_launched()
    if together:
        _check_launched(out or resume, processes)
        resume = resume or (out if out and (out / "config.yaml").is_file() else None)
    if track is not None:
        check_installed()

    def go_on(folder: Path, group: Group) -> "Experiment":
        from charlm.data.tokens import available_cores
        from charlm.runs import prepare

        workers = available_cores() if group.is_first else 1
        return prepare.resume(
            folder,
            budget=budget,
            device=device,
            on_divergence=on_divergence,
            group=group,
            workers=workers,
        )

    group = join() if together else SINGLE_PROCESS
    first: list[str] = []
    if not group.is_first:
        follow(lambda: go_on(Path(group.wait_for("folder")), group))
        return
    prepare: Callable[[Group], Experiment]
    if resume is not None:
        prepare = partial(go_on, resume)
    else:
        short = budget | {"seed": seed, "device": device, "on_divergence": on_divergence}
        changes = [
            *(overrides or []),
            *(f"training.{name}={given}" for name, given in short.items() if given is not None),
        ]
        changes += [f"corpus.text={json.dumps(sources)}"] if sources else []
        prepare, first = _beginning(config, changes, out or named_folder(config, sources))
    if processes is None or processes == 1:
        follow(lambda: prepare(group), first=first, track=track is not None)
    else:
        _launch(
            prepare,
            first,
            processes,
            budget | {"device": device, "on-divergence": on_divergence, "track": track},
        )


def _beginning(
    config: str | None, changes: list[str], folder: Path
) -> "tuple[Callable[[Group], Experiment], list[str]]":
    """Return what begins a run, once the configuration is found good, and what to say then."""
    from charlm.data.tokens import available_cores
    from charlm.runs import prepare
    from charlm.runs.automatic import choose
    from charlm.runs.folder import check_new

    check_new(folder)  # Before what takes seconds.
    checked, first = checked_config(config, changes), []
    if config is None:
        choice = choose(changes)
        kept = f"all of it: {folder}/config.yaml, to be edited and trained with --config"
        checked, first = choice.config, [*choice.reasons, kept]
    return lambda group: prepare.begin(
        checked, folder, group=group, workers=available_cores()
    ), first


def _check_launched(folder: Path | None, processes: int | None) -> None:
    if processes is not None:
        raise typer.BadParameter(
            "torchrun says how many there are; remove it", param_hint="--processes"
        )
    if folder is None:
        raise typer.BadParameter(
            "is needed under torchrun, which starts again where a process has ended",
            param_hint="--out",
        )


def _launch(
    prepare: "Callable[[Group], Experiment]",
    first: list[str],
    processes: int,
    changes: dict[str, object],
) -> None:
    """Begin here, where a mistake is told once, and go on in several processes."""
    from charlm.training.process_group import Group, launch

    experiment = prepare(Group(size=processes))
    experiment.lock.release()
    for line in first:
        say(line)
    given = [
        part
        for name, value in changes.items()
        if value is not None
        for part in (f"--{name}", str(value))
    ]
    launch(processes, ["train", "--resume", str(experiment.folder), *given])


def checked_config(config: str | None, changes: list[str]) -> "Config":
    """Return a configuration with the changes that options make.

    Raises:
        ConfigError: The file is missing or has mistakes.
        OptionError: The file has no mistakes, but one of the changes is wrong.
    """
    from charlm.config.load import load_config

    try:
        return load_config(config, changes)
    except ConfigError as error:
        load_config(config)
        raise OptionError("overrides", str(error)) from None


def named_folder(config: str | None, sources: list[str], *, before: str = "") -> Path:
    """Return a new run folder, named after the config or else the first text, with something put before it."""
    from charlm.api import new_run_folder

    named = config or (sources[0] if sources else "run")
    return new_run_folder(before + ("stdin" if named == "-" else Path(named).stem or "run"))
