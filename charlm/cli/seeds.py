"""`charlm train --seeds`: several trainings that differ in their seed only."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from charlm.cli.new_run import NewRun, begin, say_limited_passes
from charlm.cli.progress import follow, write_report_on
from charlm.cli.terminal import emit
from charlm.config.load import change_config
from charlm.runs.experiment import Experiment
from charlm.runs.folder import check_new
from charlm.runs.listing import summarize_seeds
from charlm.training.process_group import SINGLE_PROCESS


def train_seeds(
    make_run: Callable[[], NewRun],
    seeds: Sequence[int],
    out: Path | None,
    name: str,
    *,
    report: bool = False,
) -> int:
    """Train once per seed, then print mean, standard deviation and range of the scores.

    Args:
        make_run: Function that checks or chooses the settings, once for all seeds.
        seeds: Seeds.
        out: Folder of the run folders `seed-1` ...; None for new ones under `runs/`.
        name: First part of the name of a new folder.
        report: Whether to write a report on all runs: to `out`, else to the folder of the first.

    Returns:
        The exit status; not 0 if a training was stopped. The later ones are then not begun.
    """
    folders = {seed: out and out / f"seed-{seed}" for seed in seeds}
    for folder in filter(None, folders.values()):
        check_new(folder)
    new = make_run()
    experiments: list[Experiment] = []

    def begin_next(seed: int) -> Experiment:
        seeded = replace(
            new,
            config=change_config(new.config, [f"training.seed={seed}"]),
            reasons=() if experiments else new.reasons,
        )
        experiment = begin(seeded, folders[seed], f"{name}-seed-{seed}", SINGLE_PROCESS)
        experiments.append(experiment)
        return experiment

    for seed in seeds:
        status = follow(partial(begin_next, seed))
        if status:
            return status
    say_limited_passes(are_limited=new.limits_passes)
    trained = [experiment.folder for experiment in experiments]
    emit(str(summarize_seeds(trained)))
    if report:
        write_report_on(trained, out and out / "report.html")
    return 0
