"""`charlm tune`: search for settings."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.arguments import given_options, options_from
from charlm.cli.new_run import (
    ConfigName,
    Corpora,
    Overrides,
    TextArguments,
    check_texts,
    checked_config,
    run_name,
    say_example,
    text_override,
    training_overrides,
)
from charlm.cli.options import (
    Json,
    above_zero,
    as_new_path,
    as_path,
    count_option,
    seed_option,
    some_text,
    valid_study_name,
)
from charlm.cli.terminal import emit_result, say
from charlm.errors import CharlmError, OptionError, refuse_beside

if TYPE_CHECKING:
    from charlm.runs.automatic.choice import ChosenConfig
    from charlm.tuning.range_ends import RangeEnd
    from charlm.tuning.results import Trial, Tuning
    from charlm.tuning.search import Callbacks

Search = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SECTION.KEY=VALUES",
        help="Setting to search, and its values: a range, low..high, or choices, a,b,c. "
        "Repeatable.",
    ),
]
Minutes = Annotated[
    float | None, typer.Option(callback=above_zero, help="Budget of the search, in minutes.")
]
Trials = Annotated[int | None, count_option(help="Budget of the search: number of trials.")]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", parser=as_new_path, help="Folder of the search. [runs/tune-NAME-TIME]"
    ),
]
Seed = Annotated[int | None, seed_option(help="Seed of the search and of every training.")]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="DIR", parser=as_path, help="Folder of a search to continue."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        callback=some_text,
        help="Database for workers on several machines: postgresql://user@host/database.",
    ),
]
Study = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=valid_study_name,
        help="Name of the search in the database. [charlm]",
    ),
]


@dataclass(frozen=True)
class TuneArguments:
    """The arguments of `charlm tune`, in the order of its help."""

    texts: TextArguments = None
    config: ConfigName = None
    corpus: Corpora = None
    overrides: Overrides = None
    search: Search = None
    minutes: Minutes = None
    trials: Trials = None
    out: Out = None
    seed: Seed = None
    resume: Resume = None
    storage: Storage = None
    study: Study = None
    as_json: Json = False


# Options that cannot be combined with --resume.
_NOT_RESUMED = ("texts", "corpus", "config", "overrides", "search", "out", "seed", "study")


@options_from(TuneArguments)
def tune(arguments: TuneArguments) -> int:
    """Find the settings with the lowest validation loss: a table, a configuration and the best run.

    The budget of one trial is that of the configuration: --set training.minutes=2. A trial that is
    worse than the median of the others is stopped early. Ctrl-C ends the search and shows its
    results, with exit status 130; --resume, or the same command with the same --out, continues it.
    If the search is still running, the new process joins it: the processes share the budget, and
    the trial of a process that is killed is tried again. With --storage, processes on other
    machines can join too, each with its own folder and a copy of the text.

    Try: charlm tune my.txt --search training.learning_rate=1e-3..3e-2 --minutes 30
    """
    from charlm.runs.signals import stop_requests

    _check_options(arguments)
    reported: list[Trial] = []
    with stop_requests() as stop:
        results = _search(arguments, stop, reported)
        status = stop.exit_status
    _print_end(results, is_stopped=status > 0, has_trials=bool(reported))
    _print_results(results, arguments.as_json, is_stopped=status > 0)
    return status


def _check_options(arguments: TuneArguments) -> None:
    """Refuse options that cannot be used together."""
    if arguments.resume is not None:
        reason = "which continues the search unchanged"
        refuse_beside("resume", reason, **given_options(arguments, _NOT_RESUMED))
    elif arguments.study is not None and arguments.storage is None:
        raise OptionError("study", "has no effect without {}", others=["storage"])


def _search(
    arguments: TuneArguments, stop: Callable[[], bool], reported: "list[Trial]"
) -> "Tuning":
    """Begin a search, or continue one; add each trial to `reported`."""
    from charlm.runs.folder import new_folder

    if arguments.resume is not None:
        from charlm.tuning.search import resume

        return resume(arguments.resume, **_search_options(arguments, stop, reported))
    sources = [*(arguments.corpus or []), *(arguments.texts or [])]
    changes = [*(arguments.overrides or []), *training_overrides({"seed": arguments.seed})]
    config, reasons = _read_config(arguments.config, [*changes, *text_override(sources)])
    from charlm.tuning.search import tune

    options = _search_options(arguments, stop, reported)
    options["callbacks"] = replace(options["callbacks"], begin=lambda: _say_all(reasons))
    name = run_name(arguments.config, sources, prefix="tune-")
    with new_folder(arguments.out, name) as folder:
        search = arguments.search or []
        return tune(config, search, out=folder, study=arguments.study, **options)


def _search_options(
    arguments: TuneArguments, stop: Callable[[], bool], reported: "list[Trial]"
) -> dict[str, Any]:
    """Return the options of a search that begins or continues."""
    from charlm.tuning.study import Budget

    return {
        "storage": arguments.storage,
        "budget": Budget(minutes=arguments.minutes, trials=arguments.trials),
        "callbacks": _make_callbacks(stop, reported),
    }


def _read_config(name: str | None, overrides: list[str]) -> "ChosenConfig":
    """Return the configuration of that name; without one, the text is read as `train` reads it."""
    from charlm.runs.automatic.choice import ChosenConfig, choose_reading_of_text

    config = checked_config(name, overrides)
    say_example(config)
    if name is None:
        return choose_reading_of_text(overrides)
    check_texts(config)
    return ChosenConfig(config, ())


def _say_all(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)


def _make_callbacks(stop: Callable[[], bool], reported: "list[Trial]") -> "Callbacks":
    """Return callbacks that print each trial and add it to `reported`."""
    from charlm.tuning.search import Callbacks

    def report(trial: "Trial", best: "Trial | None") -> None:
        reported.append(trial)
        say(f"{_describe(trial)}{', the best so far' if trial == best else ''}")

    def say_waiting(num_running: int) -> None:
        trials = "1 trial" if num_running == 1 else f"{num_running} trials"
        say(f"nothing is left to begin; waiting for {trials} of other processes")

    return Callbacks(stop=stop, report=report, wait=say_waiting)


def _print_end(results: "Tuning", *, is_stopped: bool, has_trials: bool) -> None:
    """Print why the search ended, unless it used its budget."""
    if is_stopped:
        say(f"stopped; continue with: charlm tune --resume {shlex.quote(str(results.folder))}")
    elif results.exhausted:
        say("no values are left to try: the search ends before its budget")
    elif not has_trials:
        say("the budget is spent; to continue, give a larger one, such as --trials 100")


def _print_results(results: "Tuning", as_json: bool, *, is_stopped: bool) -> None:
    """Print the trials and the place of the best one.

    Raises:
        CharlmError: No trial has a loss, and the search was not stopped before it could have one.
    """
    from charlm.tuning.range_ends import range_ends

    best, config = results.best, results.folder / "best.yaml"
    emit_result(results, as_json=as_json)
    if best is None and is_stopped:
        return
    if best is None:
        remedy = "increase --minutes, or reduce the budget of a trial"
        reason = next((trial.note for trial in results.trials if trial.note), remedy)
        raise CharlmError(f"{results.folder}: no trial reached an evaluation; {reason}")
    _say_all([_describe_end(end) for end in range_ends(results)])
    say(f"{config}: settings of trial {best.number}; use its model with: {results.use}")


def _describe_end(end: "RangeEnd") -> str:
    """Return a line about a best value at an end of its range."""
    from charlm.tuning.results import format_value

    value, limit = format_value(end.value), format_value(end.end)
    place = "at" if value == limit else "near"
    return (
        f"{end.key}: the best value, {value}, is {place} the {end.side} end of its range, {limit}; "
        "a search of a wider range may find a better one"
    )


def _describe(trial: "Trial") -> str:
    """Return a line for a trial that has ended."""
    from charlm.tuning.results import format_value

    loss = "no loss yet" if trial.loss_nats is None else f"{trial.loss_nats:.4f} nats"
    values = ", ".join(f"{key}={format_value(value)}" for key, value in trial.values.items())
    note = f" ({trial.note})" if trial.note else ""
    return f"trial {trial.number}: {loss}, {trial.outcome}; {values}{note}"
