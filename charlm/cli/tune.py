"""`charlm tune`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.options import (
    MOST,
    MOST_SEED,
    above_zero,
    as_path,
    at_most,
    refuse_beside,
    some_text,
    study_name,
)
from charlm.cli.terminal import emit, emit_json, say
from charlm.cli.train import (
    ConfigName,
    Corpora,
    Overrides,
    TextArguments,
    checked_config,
    named_folder,
)
from charlm.errors import CharlmError

if TYPE_CHECKING:
    from charlm.tuning.results import Trial, Tuning


def tune(
    texts: TextArguments = None,
    config: ConfigName = None,
    corpus: Corpora = None,
    overrides: Overrides = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION.KEY=VALUES",
            help="A range, low..high, or choices, a,b,c; again for more keys.",
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(callback=above_zero, help="Budget of the search: minutes.")
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(min=1, callback=at_most(MOST), help="Budget of the search: trials."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", parser=as_path, help="Folder of the search. [runs/tune-CONFIG-TIME]"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, callback=at_most(MOST_SEED), help="Seed of the search and of every training."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=as_path, help="Folder of a search to go on with."),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            callback=some_text,
            help="For workers on several machines: postgresql://user@host/database.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=study_name, help="The search's name there. [charlm]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Search for the settings with the lowest validation loss; print a table, write a config and keep the best run.

    A trial's own budget is the configuration's: --set training.minutes=2. Trials that fall behind are given up. Ctrl-C
    ends the search with what it has; --resume, or the same command, goes on. Given while the search is running, it
    joins in: the processes share its budget, and a trial whose process dies is tried again by another. With --storage
    the same command joins in on other machines too, each with a folder and a copy of the text of its own.

    Try: charlm tune my.txt --search training.learning_rate=1e-3..3e-2 --search model.hidden_size=256,512 --minutes 30
    """
    from charlm.cli.progress import stop_requests
    from charlm.tuning import search as tuning

    sources, told = [*(corpus or []), *(texts or [])], 0

    def report(trial: "Trial", best: "Trial | None") -> None:
        nonlocal told
        told += 1
        say(f"{_line(trial)}{', the best so far' if trial == best else ''}")

    def waiting(running: int) -> None:
        say(f"nothing is left to begin; waiting for what other workers are trying ({running})")

    if study is not None and storage is None and resume is None:
        raise typer.BadParameter(
            "names a search in a database: give --storage too", param_hint="--study"
        )
    with stop_requests() as stop:
        shared: dict[str, Any] = {
            "storage": storage,
            "minutes": minutes,
            "trials": trials,
            "stop": stop,
            "report": report,
            "waiting": waiting,
        }
        if resume is not None:
            given = {
                "TEXT": texts,
                "--corpus": corpus,
                "--config": config,
                "--set": overrides,
                "--search": search,
                "--out": out,
                "--seed": seed,
                "--study": study,
            }
            names = [name for name, value in given.items() if value]
            refuse_beside("--resume", names, "which goes on with the search's own")
            found = tuning.resume(resume, **shared)
        else:
            changes = [*(overrides or []), *([] if seed is None else [f"training.seed={seed}"])]
            changes += [f"corpus.text={json.dumps(sources)}"] if sources else []
            folder = out or named_folder(config, sources, before="tune-")
            found = tuning.tune(
                checked_config(config, changes), search or [], out=folder, study=study, **shared
            )
        stopped = stop()
    if stopped:
        say(f"stopped; go on: charlm tune --resume {found.folder}")
    elif found.exhausted:
        say("there is nothing left to try: the search ends before its budget")
    elif not told:
        say("its budget is spent already; give a larger one to go on, such as --trials 100")
    _show(found, as_json)


def _show(found: "Tuning", as_json: bool) -> None:
    best, config = found.best, found.folder / "best.yaml"
    if as_json:
        whole = (
            {"loss_nats": best.loss_nats, "config": str(config), "run": str(found.best_run)}
            if best
            else {}
        )
        whole |= {"host": found.best_host} if found.best_host else {}
        trials = [asdict(trial) for trial in found.trials]
        emit_json(
            whole
            | {"best": trials[0] if best else None, "trials": trials, "settings": found.settings}
        )
    else:
        rows = [
            ["trial", "outcome", "loss_nats", "seconds", *found.space],
            *(_row(found, trial) for trial in found.trials),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            emit(
                "  ".join(
                    text.ljust(width) for text, width in zip(row, widths, strict=True)
                ).rstrip()
            )
    if best is None:
        why = next((f" ({trial.note})" for trial in found.trials if trial.note), "")
        raise CharlmError(
            f"{found.folder}: no trial reached an evaluation{why}; give more --minutes, or trials a smaller budget"
        )
    say(f"{config} holds the settings of trial {best.number}; its model: {found.use}")


def _row(found: "Tuning", trial: "Trial") -> list[str]:
    loss = "-" if trial.loss_nats is None else f"{trial.loss_nats:.4f}"
    seconds = "-" if trial.seconds is None else f"{trial.seconds:.1f}"
    values = [_value(trial.values[key]) if key in trial.values else "-" for key in found.space]
    return [str(trial.number), trial.outcome, loss, seconds, *values]


def _line(trial: "Trial") -> str:
    loss = "no loss yet" if trial.loss_nats is None else f"{trial.loss_nats:.4f} nats"
    values = ", ".join(f"{key}={_value(value)}" for key, value in trial.values.items())
    return f"trial {trial.number}: {loss}, {trial.outcome}; {values}{f' ({trial.note})' if trial.note else ''}"


def _value(value: Any) -> str:
    return (
        f"{value:.4g}"
        if isinstance(value, float)
        else value
        if isinstance(value, str)
        else json.dumps(value)
    )
