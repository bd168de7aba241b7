"""`charlm train`: begin a training, or resume one."""

import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from charlm.cli.arguments import given_options, options_from
from charlm.cli.new_run import (
    NewRun,
    begin,
    checked_or_chosen,
    run_name,
    say_limited_passes,
    task_override,
    text_override,
    training_overrides,
)
from charlm.cli.options import as_seeds, flag
from charlm.cli.train_options import TrainArguments
from charlm.errors import OptionError, refuse_beside
from charlm.training.launcher import is_launched

if TYPE_CHECKING:
    from charlm.runs.experiment import Experiment
    from charlm.training.process_group import Group

_Prepare = Callable[["Group"], "Experiment"]  # Begins or resumes a run.
_BUDGETS = ("minutes", "steps", "epochs")
# Options that change the settings of the training, also of a run that is resumed.
_CHANGES = (*_BUDGETS, "device", "on_divergence")
# Options that cannot be combined with --resume.
_NOT_RESUMED = ("texts", "corpus", "config", "overrides", "out", "seed", "from_run", "task")


@options_from(TrainArguments)
def train(arguments: TrainArguments) -> int:
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
    _check_options(arguments)
    if arguments.seeds is not None:
        return _train_seeds(arguments, arguments.seeds)
    return _train_in_group(arguments) if is_launched() else _train(arguments)


def _train_in_group(arguments: TrainArguments) -> int:
    """Train as one of the processes of torchrun; return the exit status."""
    from charlm.cli.progress import follow
    from charlm.training.process_group import join

    arguments = _under_torchrun(arguments)
    group = join()
    if not group.is_first:
        return follow(lambda: _resume(arguments, Path(group.wait_for("folder")), group))
    _train(arguments, group)
    return 0  # torchrun would start a failed process again.


def _train(arguments: TrainArguments, group: "Group | None" = None) -> int:
    """Train in this process, the first one of `group`, or start several; return the exit status."""
    plan = _plan(arguments)
    from charlm.cli.progress import follow
    from charlm.training.process_group import SINGLE_PROCESS

    if arguments.processes is not None and arguments.processes > 1:
        status = _launch_processes(plan.prepare, arguments.processes, arguments)
    else:
        is_tracked = arguments.track is not None
        status = follow(
            lambda: plan.prepare(group or SINGLE_PROCESS), track=is_tracked, report=arguments.report
        )
    say_limited_passes(are_limited=plan.limits_passes and status == 0)
    return status


def _check_options(arguments: TrainArguments) -> None:
    """Refuse options that cannot be used together, and a tracker that is not installed."""
    budgets = given_options(arguments, _BUDGETS)
    if len(budgets) > 1:
        raise typer.BadParameter(
            "only one budget is possible; keep one of them",
            param_hint=" and ".join(map(flag, budgets)),
        )
    if arguments.resume is not None:
        reason = "which continues the run with its own settings"
        refuse_beside("resume", reason, **given_options(arguments, _NOT_RESUMED))
    if arguments.from_vocabulary is not None and arguments.from_run is None:
        raise OptionError("from_vocabulary", "has no effect without {}", others=["from_run"])
    if arguments.processes is not None and arguments.processes > 1:
        reason = "which trains in other processes; run charlm view afterwards"
        refuse_beside("processes", reason, report=arguments.report)
    if arguments.track is not None:
        from charlm.tracking import check_installed

        check_installed()


def _train_seeds(arguments: TrainArguments, seeds: str) -> int:
    """Train once per seed; return the exit status."""
    beside = given_options(arguments, ("seed", "resume", "processes", "track"))
    reason = "which trains one run after the other in this process"
    refuse_beside("seeds", reason, **beside, torchrun=is_launched())
    numbers = as_seeds(seeds)
    from charlm.cli.seeds import train_seeds

    make_run = partial(_make_run, arguments)
    name = _run_name(arguments)
    return train_seeds(make_run, numbers, arguments.out, name, report=arguments.report)


def _make_run(arguments: TrainArguments) -> NewRun:
    """Check the configuration, or choose one."""
    from charlm.runs.folder import check_is_run

    ancestor = None
    if arguments.from_run is not None:
        check_is_run(arguments.from_run)
        from charlm.runs.warm_start import open_ancestor

        ancestor = open_ancestor(arguments.from_run, arguments.from_vocabulary or "grow")
    changes = given_options(arguments, _CHANGES)
    settings = [
        *(arguments.overrides or []),
        *training_overrides({**changes, "seed": arguments.seed}),
        *text_override(arguments.sources),
        *task_override(arguments.task),
    ]
    return checked_or_chosen(arguments.config, settings, ancestor)


def _run_name(arguments: TrainArguments) -> str:
    return run_name(arguments.config, arguments.sources)


class _Plan(NamedTuple):
    """A training that has been checked.

    Attributes:
        prepare: Function that begins or resumes the run.
        limits_passes: Whether the budget is passes in place of the minutes that were given.
    """

    prepare: _Prepare
    limits_passes: bool


def _plan(arguments: TrainArguments) -> _Plan:
    """Return how to begin a new run, or how to resume one."""
    from charlm.runs.folder import check_is_run, check_new

    if arguments.resume is not None:
        check_is_run(arguments.resume)
        return _Plan(partial(_resume, arguments, arguments.resume), limits_passes=False)
    if arguments.out is not None:
        check_new(arguments.out)
    new = _make_run(arguments)
    prepare = partial(begin, new, arguments.out, _run_name(arguments))
    return _Plan(prepare, new.limits_passes)


def _resume(arguments: TrainArguments, folder: Path, group: "Group") -> "Experiment":
    """Prepare to resume the run in a folder."""
    from charlm.data.tokens import available_cores
    from charlm.runs import prepare

    experiment = prepare.resume(
        folder,
        budget=_replacing_budget(arguments, folder),
        device=arguments.device,
        on_divergence=arguments.on_divergence,
        group=group,
        workers=available_cores() if group.is_first else 1,
    )
    if not is_launched():  # A run that has ended is no error of a process that restarts it.
        prepare.check_budget(experiment)
    return experiment


def _replacing_budget(arguments: TrainArguments, folder: Path) -> dict[str, float]:
    """Return the budget that replaces that of the run in a folder.

    The command that began the run may have chosen passes over a small text in place of its
    minutes. The passes stay, in each of its processes.
    """
    from charlm.runs.folder import load_run

    budget = given_options(arguments, _BUDGETS)
    began_it = arguments.resume is None or arguments.out is not None  # --out: torchrun restarts it.
    if began_it and arguments.config is None and "minutes" in budget:
        return budget if load_run(folder).config.training.minutes is not None else {}
    return budget


def _under_torchrun(arguments: TrainArguments) -> TrainArguments:
    """Return the arguments; with --resume if the run exists.

    torchrun restarts the same command when a process has ended.
    """
    _check_torchrun_options(arguments.out or arguments.resume, arguments.processes)
    out = arguments.out
    begun = out if out and (out / "config.yaml").is_file() else None
    return replace(arguments, resume=arguments.resume or begun)


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


def _check_cell_is_known(experiment: "Experiment", processes: int) -> None:
    """Raise GroupError for a cell that only this program has registered."""
    from charlm.config.cell import CELL_KINDS
    from charlm.errors import GroupError

    kind = experiment.config.model.cell.kind
    if kind not in CELL_KINDS:
        raise GroupError(
            f"--processes: the other processes do not know the cell {kind}, which this program "
            f"registered; train the run with: torchrun --nproc-per-node {processes} "
            f"{shlex.quote(sys.argv[0])} train --resume {shlex.quote(str(experiment.folder))}"
        )


def _launch_processes(prepare: _Prepare, processes: int, arguments: TrainArguments) -> int:
    """Begin the run here, where an error is printed once, and resume it in several processes.

    Returns:
        The exit status.
    """
    from charlm.runs.signals import stop_signals
    from charlm.runs.snapshot import has_ended
    from charlm.training.process_group import Group, launch

    experiment = prepare(Group(size=processes))
    experiment.lock.release()
    _check_cell_is_known(experiment, processes)
    # The configuration of a new run has the changes; its budget may be chosen instead of minutes.
    changes = () if arguments.resume is None else _CHANGES
    given = given_options(arguments, (*changes, "track"))
    options = [part for name, value in given.items() for part in (flag(name), str(value))]
    command = ["train", "--resume", str(experiment.folder), *options]
    status = launch(processes, command, signals=[number.name for number in stop_signals()])
    if not status and not has_ended(experiment.folder, experiment.config.training):
        return 128 + signal.SIGTERM  # One of the processes was asked to stop.
    return status
