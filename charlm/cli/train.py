"""The command `charlm train`."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from charlm.cli.new_run import (
    ConfigName,
    Corpora,
    NewRun,
    Overrides,
    Task,
    TextArguments,
    begin,
    checked_or_chosen,
    run_name,
    say_time_left,
    task_override,
    text_override,
    training_overrides,
)
from charlm.cli.options import (
    MAX_COUNT,
    MAX_PROCESSES,
    MAX_SEED,
    above_zero,
    as_path,
    as_seeds,
    at_most,
    flag,
    known_device,
    refuse_beside,
)
from charlm.errors import OptionError

if TYPE_CHECKING:
    from charlm.runs.experiment import Experiment
    from charlm.training.process_group import Group

_Prepare = Callable[["Group"], "Experiment"]  # Begins or resumes a run.


@dataclass(frozen=True)
class _Changes:
    """Settings that options change, also in a run that is resumed.

    Attributes:
        budget: Number of minutes, steps or epochs, by name; empty to keep the budget.
        device: Device, or None to keep it.
        on_divergence: What to do after a divergence, or None to keep it.
    """

    budget: dict[str, float]
    device: str | None
    on_divergence: str | None

    def given(self) -> dict[str, object]:
        """Return the options that were given, by name."""
        options = {"device": self.device, "on_divergence": self.on_divergence}
        return {**self.budget, **{name: given for name, given in options.items() if given}}

    def resume(self, folder: Path, group: "Group") -> "Experiment":
        """Prepare to resume the run in a folder."""
        from charlm.data.tokens import available_cores
        from charlm.runs import prepare
        from charlm.training.process_group import is_launched

        experiment = prepare.resume(
            folder,
            budget=self.budget,
            device=self.device,
            on_divergence=self.on_divergence,
            group=group,
            workers=available_cores() if group.is_first else 1,
        )
        if not is_launched():  # A run that has ended is no error of a process that restarts it.
            prepare.check_budget(experiment)
        return experiment


def train(
    texts: TextArguments = None,
    config: ConfigName = None,
    corpus: Corpora = None,
    overrides: Overrides = None,
    task: Task = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", parser=as_path, help="Run folder to create. [runs/CONFIG-TIME]"
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(callback=above_zero, help="Budget: minutes of training steps.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, callback=at_most(MAX_COUNT), help="Budget: number of training steps."),
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(callback=above_zero, help="Budget: number of passes over the text."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            callback=at_most(MAX_SEED),
            help="Seed of initial weights, dropout and data order.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS",
            help="Train once per seed, as in 1..5 or 1,7; print mean, deviation and range.",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(callback=known_device, help="auto, cpu, cuda, or cuda:N.")
    ] = None,
    on_divergence: Annotated[
        Literal["stop", "halve"] | None,
        typer.Option(
            help="If the loss is not finite: stop, or halve the learning rate and go back. [stop]"
        ),
    ] = None,
    from_run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            parser=as_path,
            help="Start from the weights and the tokenizer of a run, for a text like its own.",
        ),
    ] = None,
    from_vocabulary: Annotated[
        Literal["grow", "keep"] | None,
        typer.Option(
            help="--from: grow: add tokens that are only in the new text; keep: read them as "
            "<UNK>. [grow]"
        ),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", parser=as_path, help="Run folder to resume.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            callback=at_most(MAX_PROCESSES),
            help="Number of processes on this machine that train together.",
        ),
    ] = None,
    track: Annotated[
        Literal["tensorboard"] | None,
        typer.Option(help="Also write metrics and samples to RUN/tensorboard, for TensorBoard."),
    ] = None,
    report: Annotated[
        bool,
        typer.Option("--report", help="At the end, write RUN/report.html; see charlm view."),
    ] = False,
) -> int:
    """Train a model on a text, and print its run folder.

    Without --config, charlm chooses settings that suit the text, the device and the budget, and
    prints them.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 finish the step and save; the exit status is then 128 plus
    the number of the signal, 130 for Ctrl-C. --resume continues from there, with the same result
    as if the training had never stopped.

    For several GPUs or machines, use --processes, or torchrun ... -m charlm train ... --out DIR;
    see docs/scale.md.

    Try: charlm train my.txt --minutes 5
    """
    from charlm.cli.progress import follow
    from charlm.cli.seeds import train_seeds
    from charlm.runs.folder import check_new
    from charlm.tracking import check_installed
    from charlm.training.process_group import SINGLE_PROCESS, is_launched, join

    changes = _Changes(_one_budget(minutes, steps, epochs), device, on_divergence)
    sources = [*(corpus or []), *(texts or [])]
    if resume is not None:
        others: dict[str, object] = {"TEXT": texts, "--corpus": corpus, "--config": config}
        others |= {"--set": overrides, "--out": out, "--seed": seed, "--from": from_run}
        others |= {"--task": task}
        refuse_beside("--resume", others, "which continues the run with its own settings")
    if from_vocabulary is not None and from_run is None:
        raise OptionError("from_vocabulary", "has no effect without {}", others=["from_run"])
    if track is not None:
        check_installed()
    group = SINGLE_PROCESS
    prepare: _Prepare
    leaves_time = False
    settings = [
        *(overrides or []),
        *training_overrides({**changes.given(), "seed": seed}),
        *text_override(sources),
        *task_override(task),
    ]
    if seeds is not None:
        beside: dict[str, object] = {"--seed": seed, "--resume": resume, "--processes": processes}
        beside |= {"--track": track, "torchrun": is_launched() or None, "--report": report or None}
        refuse_beside("--seeds", beside, "which trains one run after the other in this process")
        make_run = partial(_make_run, config, settings, from_run, from_vocabulary)
        return train_seeds(make_run, as_seeds(seeds), out, run_name(config, sources))
    if is_launched():
        _check_torchrun_options(out or resume, processes)
        # torchrun restarts the same command when a process has ended.
        resume = resume or (out if out and (out / "config.yaml").is_file() else None)
        group = join()
    if not group.is_first:
        return follow(lambda: changes.resume(Path(group.wait_for("folder")), group))
    if resume is not None:
        prepare = partial(changes.resume, resume)
    else:
        if out is not None:
            check_new(out)
        new = _make_run(config, settings, from_run, from_vocabulary)
        leaves_time = new.leaves_time
        prepare = partial(begin, new, out, run_name(config, sources))
    if processes is not None and processes > 1:
        reason = "which trains in other processes; run charlm view afterwards"
        refuse_beside("--processes", {"--report": report or None}, reason)
        return _launch_processes(prepare, processes, {**changes.given(), "track": track})
    status = follow(lambda: prepare(group), track=track is not None, report=report)
    say_time_left(is_left=leaves_time and status == 0)
    return 0 if is_launched() else status  # torchrun would start a failed process again.


def _one_budget(minutes: float | None, steps: int | None, epochs: float | None) -> dict[str, float]:
    """Return the budget that was given, by name; raise BadParameter if there are several."""
    options = {"minutes": minutes, "steps": steps, "epochs": epochs}
    budget = {name: value for name, value in options.items() if value is not None}
    if len(budget) > 1:
        raise typer.BadParameter(
            "only one budget is possible; keep one of them",
            param_hint=" and ".join(map(flag, budget)),
        )
    return budget


def _make_run(
    config: str | None,
    overrides: list[str],
    from_run: Path | None,
    vocabulary: Literal["grow", "keep"] | None,
) -> NewRun:
    """Check the configuration, or choose one."""
    from charlm.runs.warm_start import open_ancestor

    ancestor = None if from_run is None else open_ancestor(from_run, vocabulary or "grow")
    return checked_or_chosen(config, overrides, ancestor)


def _check_torchrun_options(folder: Path | None, processes: int | None) -> None:
    if processes is not None:
        raise typer.BadParameter(
            "torchrun sets the number of processes; remove it", param_hint="--processes"
        )
    if folder is None:
        raise typer.BadParameter(
            "is needed under torchrun, so that a process that is restarted finds the run",
            param_hint="--out",
        )


def _launch_processes(prepare: _Prepare, processes: int, options: dict[str, object]) -> int:
    """Begin the run here, where an error is printed once, and resume it in several processes.

    Returns:
        The exit status.
    """
    from charlm.runs.signals import stop_signals
    from charlm.runs.snapshot import has_ended
    from charlm.training.process_group import Group, launch

    experiment = prepare(Group(size=processes))
    experiment.lock.release()
    given = {name: value for name, value in options.items() if value is not None}
    arguments = [part for name, value in given.items() for part in (flag(name), str(value))]
    command = ["train", "--resume", str(experiment.folder), *arguments]
    status = launch(processes, command, signals=[number.name for number in stop_signals()])
    if not status and not has_ended(experiment.folder, experiment.config.training):
        return 128 + signal.SIGTERM  # One of the processes was asked to stop.
    return status
