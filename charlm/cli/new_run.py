"""Arguments and steps that the commands that begin a run share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from charlm.cli.options import not_empty
from charlm.cli.terminal import say
from charlm.errors import ConfigError, OptionError

if TYPE_CHECKING:
    from charlm.config.schema import Config
    from charlm.runs.experiment import Experiment
    from charlm.runs.warm_start import Ancestor
    from charlm.training.process_group import Group

TextArguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TEXT",
        callback=not_empty,
        help="Files, folders, patterns such as '*.txt', names of corpora, or - for stdin.",
    ),
]
ConfigName = Annotated[
    str | None,
    typer.Option(
        callback=not_empty, help="YAML file, or a shipped configuration, such as quickstart."
    ),
]
Corpora = Annotated[
    list[str] | None,
    typer.Option(
        callback=not_empty,
        help="Name of a corpus, from charlm corpus list, or path of a text. Repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change a setting, as in model.hidden_size=256; charlm config show lists all. "
        "Repeatable.",
    ),
]
Task = Annotated[
    Literal["complete", "translate", "classify", "tag"] | None,
    typer.Option(
        help="Learn from pairs. complete: write the target of a source; translate: the same with "
        "an encoder and a decoder; classify: label each text; tag: label each token."
    ),
]


def training_overrides(settings: Mapping[str, object]) -> list[str]:
    """Return the overrides of the training section, without those that are None."""
    return [f"training.{name}={value}" for name, value in settings.items() if value is not None]


def text_override(sources: Sequence[str]) -> list[str]:
    """Return the override that sets the text, or nothing if no text was given."""
    return [f"corpus.text={json.dumps(sources)}"] if sources else []


def task_override(task: str | None) -> list[str]:
    """Return the override that sets the task, or nothing if none was given."""
    return [] if task is None else [f"task.kind={task}"]


@dataclass(frozen=True)
class NewRun:
    """What a new run is made from.

    Attributes:
        config: Its configuration.
        reasons: Reasons for the chosen settings, to print; empty if they were not chosen.
        ancestor: Run that the weights come from; None for random weights.
        limits_passes: Whether the chosen budget is passes in place of the minutes that were given.
    """

    config: "Config"
    reasons: Sequence[str] = ()
    ancestor: "Ancestor | None" = None
    limits_passes: bool = False


def checked_or_chosen(
    config: str | None, overrides: list[str], ancestor: "Ancestor | None" = None
) -> NewRun:
    """Return a run with the configuration of that name; without one, with chosen settings."""
    from charlm.runs.automatic.choice import choose

    checked = checked_config(config, overrides)
    say_example(checked)
    if config is None:
        chosen = choose(overrides, ancestor=ancestor)
        return NewRun(
            config=chosen.config,
            reasons=chosen.reasons,
            ancestor=ancestor,
            limits_passes=checked.training.minutes != chosen.config.training.minutes,
        )
    check_texts(checked)
    if ancestor is not None:
        from charlm.runs.warm_start import inherit

        checked = inherit(checked, ancestor)
    return NewRun(config=checked, ancestor=ancestor)


def say_example(config: "Config") -> None:
    """Print a line if no text was given, so that the example corpus is used."""
    if "text" not in config.corpus.model_fields_set:
        names = ", ".join(config.corpus.text)
        say(f"no text was given: training on the example corpus {names}; name a text to train on")


def check_texts(config: "Config") -> None:
    """Raise CorpusError if a text is missing, before torch is imported; stdin is not read."""
    from charlm.config.corpus import RULES
    from charlm.data.listing import find_files

    corpus = config.corpus
    names = [*corpus.text, *(corpus.valid_text or ()), *(corpus.test_text or ())]
    find_files([name for name in names if name != "-"], rules=corpus.rules or RULES)


def say_limited_passes(*, are_limited: bool) -> None:
    """Print why a training had a budget of passes, if it was given minutes."""
    if are_limited:
        say(
            "the budget was passes instead of minutes, because more passes over a small text "
            "seldom help; more text helps, and so do the weights of a run on a larger text "
            "(--from RUN); if the last evaluations improved clearly, try twice the passes with "
            "--epochs"
        )


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
        raise OptionError("overrides", str(error).removeprefix("overrides: ")) from None


def begin(new: NewRun, out: Path | None, name: str, group: "Group") -> "Experiment":
    """Begin a run.

    Args:
        new: What the run is made from.
        out: Run folder to create; None for a new one under `runs/`.
        name: First part of the name of a new folder.
        group: Processes that train together.
    """
    from charlm.data.tokens import available_cores
    from charlm.runs import prepare
    from charlm.runs.folder import new_folder

    with new_folder(out, name) as folder:
        experiment = prepare.begin(
            new.config, folder, ancestor=new.ancestor, group=group, workers=available_cores()
        )
    for line in new.reasons:
        say(line)
    if new.reasons:
        say(f"settings saved to {folder}/config.yaml; to change them, train a copy with --config")
    return experiment


def run_name(config: str | None, sources: Sequence[str], *, prefix: str = "") -> str:
    """Return the name of a run, after the configuration or the first text."""
    from charlm.runs.folder import named_after

    return prefix + named_after(config or (sources[0] if sources else "run"))
