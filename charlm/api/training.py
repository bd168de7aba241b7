"""Train runs to their end, from settings that are given or chosen."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple

from charlm.api.loading import load, load_any, load_labels, load_translator
from charlm.api.reports import write_report
from charlm.api.runs import AnyRun, LabelRun, Run, StrPath, Translator
from charlm.config.load import change_config
from charlm.config.schema import Config
from charlm.config.training import BUDGETS, Training
from charlm.config.values import checked, plain
from charlm.errors import CharlmError, OptionError, refuse_beside
from charlm.runs import prepare, session
from charlm.runs.automatic import choice
from charlm.runs.automatic.choice import ChosenConfig
from charlm.runs.experiment import Evaluated, Events, Experiment
from charlm.runs.folder import check_new, named_after, new_folder
from charlm.runs.listing import SeedScores, summarize_seeds
from charlm.runs.progress_bar import shown
from charlm.runs.signals import interrupt_signals, stop_requests
from charlm.runs.warm_start import Ancestor, Vocabulary, inherit, open_ancestor
from charlm.sampling.during_training import sampled
from charlm.tracking import check_installed, tracked
from charlm.training.launcher import check_single_process

Texts = StrPath | Sequence[StrPath]


@checked
def train(
    text: Config | Texts,
    *,
    out: StrPath | None = None,
    from_run: StrPath | None = None,
    from_vocabulary: Vocabulary = "grow",
    track: Literal["tensorboard"] | None = None,
    progress: bool = True,
    on_evaluation: Callable[[Evaluated], object] | None = None,
    overrides: Sequence[str] = (),
    **training: Any,
) -> Run:
    """Train a model and return the best checkpoint of the run.

        run = charlm.train("novel.txt", minutes=5)
        run = charlm.train(charlm.load_config("quickstart"), seed=2, progress=False)
        run = charlm.train("titles.txt", from_run="runs/english", minutes=2)

    Args:
        text: Files, folders, globs or corpora, for which `choose` chooses the settings; or a
            configuration, from `load_config`.
        out: Run folder; None makes a new one under `runs/`.
        from_run: Run folder whose weights and tokenizer the training starts from.
        from_vocabulary: `grow`: tokens that are only in the new text are added; `keep`: they are
            read as <UNK>.
        track: Also write metrics and samples for TensorBoard, to the folder `tensorboard` of the
            run folder.
        progress: Whether to show a bar and a line per evaluation on stderr, or in a notebook.
        on_evaluation: Function that is called after each evaluation. `event.metrics` is the new
            line of metrics.jsonl. An exception ends the training.
        overrides: Changes such as `model.hidden_size=256`.
        training: Fields of the section `training`, such as `minutes`, `steps`, `epochs` or `seed`.

    Ctrl-C finishes the step and saves before KeyboardInterrupt is raised; `resume` continues.

    Raises:
        CharlmError: A setting is wrong; the corpus, the device or the folder cannot be used; or the
            training diverged.
    """
    if track is not None:
        check_installed()
    if from_vocabulary != "grow" and from_run is None:
        raise OptionError("from_vocabulary", "has no effect without {}", others=["from_run"])
    changes = [*overrides, *_training_overrides(training)]
    observers = _Observers(track, progress, on_evaluation)
    return load(
        _train(text, changes, out, from_run, observers, from_vocabulary, _check_language_model)
    )


@checked
def train_labels(
    text: Config | Texts,
    *,
    task: Literal["classify", "tag"] | None = None,
    out: StrPath | None = None,
    from_run: StrPath | None = None,
    progress: bool = True,
    overrides: Sequence[str] = (),
    **training: Any,
) -> LabelRun:
    """Train a model that labels texts or their tokens; return the best checkpoint of the run.

        run = charlm.train_labels("reviews.csv", minutes=1)
        print(run.predict(["a wonderful film"])[0].labels[0].label)

    Args:
        text: Table of texts and labels, or a configuration.
        task: `classify`: one label for each text; `tag`: one label for each token. None takes that
            of a configuration, else `classify`.
        out: As for `train`.
        from_run: Language model whose encoder the training starts from.
        progress: As for `train`.
        overrides: As for `train`.
        training: As for `train`.

    Raises:
        CharlmError: As for `train`.
    """
    configured = text.task.kind if isinstance(text, Config) and text.task.has_labels else "classify"
    changes = [*overrides, f"task.kind={task or configured}", *_training_overrides(training)]
    return load_labels(_train(text, changes, out, from_run, _Observers(progress=progress)))


@checked
def train_translator(
    text: Config | Texts,
    *,
    out: StrPath | None = None,
    from_run: StrPath | None = None,
    progress: bool = True,
    overrides: Sequence[str] = (),
    **training: Any,
) -> Translator:
    """Train an encoder and a decoder; return the best checkpoint of the run.

        run = charlm.train_translator("dates.tsv", minutes=1)
        print(run.complete("3 May 2021"))

    Args:
        text: Table of sources and targets, or a configuration.
        out: As for `train`.
        from_run: Language model whose weights both sides start from.
        progress: As for `train`.
        overrides: As for `train`.
        training: As for `train`.

    Raises:
        CharlmError: As for `train`.
    """
    changes = [*overrides, "task.kind=translate", *_training_overrides(training)]
    return load_translator(_train(text, changes, out, from_run, _Observers(progress=progress)))


@checked
def resume(
    folder: StrPath,
    *,
    device: str | None = None,
    on_divergence: Literal["stop", "halve"] | None = None,
    track: Literal["tensorboard"] | None = None,
    progress: bool = True,
    on_evaluation: Callable[[Evaluated], object] | None = None,
    **budget: float | None,
) -> AnyRun:
    """Continue a run from its last save, and return its best checkpoint.

    It is a `Run`; a `LabelRun` of task classify or tag; or a `Translator`. The result is the same
    as if the training had never stopped.

    Args:
        folder: Run folder.
        device: Device instead of the run's own.
        on_divergence: Value of `training.on_divergence` instead of the run's own.
        track: As for `train`.
        progress: As for `train`.
        on_evaluation: As for `train`.
        budget: One of `minutes`, `steps` and `epochs` (passes over the text): the total budget of
            the run instead of its own.

    Raises:
        CharlmError: The run cannot be continued, its budget is spent, or the training diverged.
        OptionError: There is no such budget.
    """
    for name in budget:
        if name not in BUDGETS:
            raise OptionError(name, f"no such option; a budget is one of {', '.join(BUDGETS)}")
    if track is not None:
        check_installed()
    check_single_process()
    experiment = prepare.resume(
        Path(folder),
        budget={name: amount for name, amount in budget.items() if amount is not None},
        device=device,
        on_divergence=on_divergence,
    )
    prepare.check_budget(experiment)
    _run_to_the_end(experiment, _Observers(track, progress, on_evaluation))
    return load_any(experiment.folder)


@checked
def train_seeds(
    text: Config | Texts,
    seeds: Iterable[int],
    *,
    out: StrPath | None = None,
    report: bool = False,
    progress: bool = True,
    overrides: Sequence[str] = (),
    **training: Any,
) -> SeedScores:
    """Train once per seed, with the same settings; return mean, deviation and range of the scores.

        scores = charlm.train_seeds("novel.txt", range(1, 6), steps=2000)

    Args:
        text: As for `train`. Settings are chosen once.
        seeds: At least two seeds of initial weights, dropout and data order.
        out: Folder of the run folders `seed-1`, `seed-2` ...; None makes new ones under `runs/`.
        report: Whether to write a report on all runs: `report.html` in `out`, or without `out` in
            the folder of the first run.
        progress: As for `train`.
        overrides: As for `train`.
        training: As for `train`.

    Raises:
        CharlmError: As for `train`; or there are fewer than two seeds, or no validation part. No
            training has begun if a seed or a folder is refused.
    """
    refuse_beside("seeds", seed=training.get("seed"))
    chosen = list(seeds)
    if len(set(chosen)) < 2 or len(set(chosen)) < len(chosen):
        raise OptionError("seeds", "must be at least two different seeds", value=chosen)
    check_single_process()
    config, reasons = _configure(text, [*overrides, *_training_overrides(training)])
    seeded = {seed: change_config(config, [f"training.seed={seed}"]) for seed in chosen}
    given = {seed: None if out is None else Path(out) / f"seed-{seed}" for seed in chosen}
    for path in filter(None, given.values()):
        check_new(path)
    folders = []
    for seed in chosen:
        with new_folder(given[seed], f"{_run_name(text)}-seed-{seed}") as folder:
            experiment = prepare.begin(seeded[seed], folder)
        _run_to_the_end(experiment, _Observers(progress=progress, first_lines=reasons))
        reasons = ()
        folders.append(experiment.folder)
    scores = summarize_seeds(folders)
    if report:
        write_report(list(map(load_any, folders)), out and Path(out) / "report.html")
    return scores


@checked
def choose(text: Texts, *, overrides: Sequence[str] = (), **training: Any) -> ChosenConfig:
    """Choose settings for a text, this device and a budget, as `train` does.

        config, reasons = charlm.choose("novel.txt", minutes=5)

    Args:
        text: Files, folders, globs or corpora.
        overrides: Settings to keep, such as `model.hidden_size=256`.
        training: Fields of the section `training` to keep, such as `minutes`.

    Raises:
        CharlmError: A setting is wrong, or the text cannot be read.
    """
    return _configure(text, [*overrides, *_training_overrides(training)])


def _configure(
    text: Config | Texts, changes: Sequence[str], ancestor: Ancestor | None = None
) -> ChosenConfig:
    """Return a configuration with changes; for texts, a chosen one with the reasons."""
    if not isinstance(text, Config):
        return choice.choose(
            [*changes, f"corpus.text={json.dumps(_names(text))}"], ancestor=ancestor
        )
    config = change_config(text, changes)
    return ChosenConfig(config if ancestor is None else inherit(config, ancestor), ())


def _check_language_model(config: Config) -> None:
    """Raise CharlmError if the task of a configuration makes no language model."""
    task = config.task
    if task.has_labels or task.kind == "translate":
        call = "train_labels" if task.has_labels else "train_translator"
        raise CharlmError(
            f"task.kind: {task.kind} makes no language model, and charlm.train returns one; call "
            f"charlm.{call}"
        )


class _Observers(NamedTuple):
    """What observes a training: arguments of `train`, and lines to show before it."""

    track: Literal["tensorboard"] | None = None
    progress: bool = True
    on_evaluation: Callable[[Evaluated], object] | None = None
    first_lines: Sequence[str] = ()


def _train(
    text: Config | Texts,
    changes: Sequence[str],
    out: StrPath | None,
    from_run: StrPath | None,
    observers: _Observers,
    from_vocabulary: Vocabulary = "grow",
    check: Callable[[Config], None] = lambda _: None,
) -> Path:
    """Begin a run, train to its end, and return its folder.

    Args:
        text: As for `train`.
        changes: Changes such as `model.hidden_size=256`.
        out: As for `train`.
        from_run: As for `train`.
        observers: What observes the training.
        from_vocabulary: As for `train`.
        check: Function that raises an error, before a folder is made, if the run must not begin.
    """
    check_single_process()
    ancestor = None if from_run is None else open_ancestor(Path(from_run), from_vocabulary)
    config, reasons = _configure(text, changes, ancestor)
    check(config)
    with new_folder(None if out is None else Path(out), _run_name(text)) as folder:
        experiment = prepare.begin(config, folder, ancestor=ancestor)
    _run_to_the_end(experiment, observers._replace(first_lines=reasons))
    return experiment.folder


def _run_to_the_end(experiment: Experiment, observers: _Observers) -> None:
    """Train to the end of the budget.

    After Ctrl-C or an exception of an observer, the last step is saved before it is raised.
    """
    with stop_requests(interrupt_signals()) as stop:
        events = sampled(experiment, session.run(experiment, stop=stop))
        if observers.track is not None:
            events = tracked(experiment, events)
        with closing(events), closing(_observed(experiment, events, observers)) as observed:
            for event in observed:
                if observers.on_evaluation is not None and isinstance(event, Evaluated):
                    observers.on_evaluation(event)
    if stop():
        raise KeyboardInterrupt


def _observed(experiment: Experiment, events: Events, observers: _Observers) -> Events:
    if not observers.progress:
        return events
    return shown(experiment, events, first_lines=observers.first_lines)


def _names(text: Texts) -> list[str]:
    names = [str(text)] if isinstance(text, str | Path) else list(map(str, text))
    if not names:
        raise OptionError("text", "must be at least one path", value=names)
    return names


def _run_name(text: Config | Texts) -> str:
    """Return the first part of the name of a new run folder."""
    return "run" if isinstance(text, Config) else named_after(_names(text)[0])


def _training_overrides(fields: Mapping[str, Any]) -> list[str]:
    for name in fields:
        if name not in Training.model_fields:
            near = get_close_matches(name, [*Training.model_fields, "overrides"], n=1)
            raise OptionError(
                name,
                f"no such option{f' (nearest: {near[0]})' if near else ''}; give settings of other "
                "sections in overrides, as overrides=['model.hidden_size=256'], and a "
                "configuration in the place of the text",
            )
    budgets = [name for name in BUDGETS if fields.get(name) is not None]
    if len(budgets) > 1:
        refuse_beside(budgets[0], **{budgets[1]: True})
    return [f"training.{name}={_as_yaml(name, value)}" for name, value in fields.items()]


def _as_yaml(name: str, value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=plain)
    except (TypeError, ValueError):
        problem = "must be a finite number, a text, True, False, None or a list of them"
        raise OptionError(name, problem, value=value) from None
