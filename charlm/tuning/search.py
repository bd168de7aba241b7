"""A search for settings on Optuna: trials of one experiment, each with other values. Kept in a folder, and resumable.

DIR/study.db      what was searched and found, Optuna's SQLite storage
DIR/trials/N/     the run folder of a trial; weights are kept of the best alone
DIR/trials.csv    a line a trial, the best first
DIR/best.yaml     the best trial's whole configuration
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import TrialState

from charlm.config import Config, check_config
from charlm.data.corpora import open_corpus, suggested_level
from charlm.errors import CheckpointError, ConfigError, CorpusError, DivergenceError
from charlm.training import checkpoint, run
from charlm.tuning.results import NO_END, Outcome, Trial, Tuning, write_results
from charlm.tuning.space import Choices, Range, as_it_stands, read_space, with_values
from charlm.untrusted import one_line

_FACTS = ("config", "space", "text")
_WHOLE = 1000  # Trials are compared at equal shares of their budgets, which are counted in thousandths,
_PRUNE_FROM, _PRUNE_AFTER_TRIALS = 300, 3  # and not before this one: until then a high learning rate only seems bad.
_REPEATS = 50  # So many draws of what was tried already, one after the other: there is nothing left to try.


def tune(
    config: Config,
    search: Sequence[str],
    *,
    out: str | Path,
    minutes: float | None = None,
    trials: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[Trial, Trial | None], None] = lambda trial, best: None,
) -> Tuning:
    """Search for the values with the lowest validation loss; go on where `out` holds the same search already.

    The first trial is the configuration as it stands, as far as its values lie within what is searched.

    Args:
        config: What all trials have in common; its budget is that of a trial, its seed also the search's.
        search: Such as `training.learning_rate=1e-3..3e-2` (a range, by its logarithm where it spans a factor of
            ten) or `model.hidden_size=256,512` (choices).
        out: The folder of the search.
        minutes: Budget: all trials of the search, those before a resumption included; a trial that is stopped by it
            is unfinished, and the next to be taken up.
        trials: Budget: trials that came to an end, those before a resumption included. One of the two must be given.
        stop: Asked after every step; when true, the trial is stopped and the search ends.
        clock: Seconds.
        report: Told each trial when it ends, and the best so far.

    Raises:
        CharlmError: A key or value is impossible, the corpus cannot be used or has no validation split, or `out`
            holds something else.
    """
    folder, facts = Path(out), _facts(config, search)
    if not (folder / "study.db").is_file():
        checkpoint.check_new(folder)
        _check_budget(minutes, trials)
    with _study(folder) as study:
        spaces = {key: read_space(key, text, facts["config"]) for key, text in facts["space"].items()}
        _take_up(study, folder, facts, spaces)
        (most_minutes, most_trials), tuning = _budget(study, minutes, trials), write_results(folder, study, facts)
        deadline = clock() + 60 * most_minutes - sum(trial.seconds or 0.0 for trial in tuning.trials)

        def is_over() -> bool:
            return stop() or clock() >= deadline

        repeats = 0
        while tuning.ended < most_trials and not is_over():
            study.sampler = _sampler(config.training.seed, study)
            trial = study.ask()
            values = {key: space.suggest(trial, key) for key, space in spaces.items()}
            if any(known.values == values and known.outcome not in NO_END for known in tuning.trials):
                trial.set_user_attr("outcome", "repeated")
                study.tell(trial, state=TrialState.FAIL)
                repeats += 1
                if repeats == _REPEATS:
                    return replace(tuning, exhausted=True)
                continue
            repeats = 0
            _try(trial, values, facts, folder, is_over)
            tuning = write_results(folder, study, facts)
            report(next(known for known in tuning.trials if known.number == trial.number), tuning.best)
        return tuning


def resume(folder: str | Path, **options: Any) -> Tuning:
    """Go on with the search in `folder`.

    Args:
        folder: Of the search.
        **options: As in `tune`; without a budget, the search's own.

    Raises:
        CharlmError: There is no search in it, or its text has changed.
    """
    folder = Path(folder)
    if not (folder / "study.db").is_file():
        raise CheckpointError(f"{folder}: holds no search (no study.db); begin one: charlm tune --out {folder}")
    with _study(folder) as study:
        facts = study.user_attrs.get("facts")
    if facts is None:
        raise CheckpointError(f"{folder}: its search was never begun; remove the folder and begin it again")
    config = check_config(facts["config"], str(folder / "study.db"))
    return tune(config, [f"{key}={text}" for key, text in facts["space"].items()], out=folder, **options)


def _facts(config: Config, search: Sequence[str]) -> dict[str, Any]:
    """Return what all trials have in common, as JSON can hold it; every key and value of the search is checked."""
    # What was left unset stays so: it may depend on a value that is searched.
    data = config.model_dump(mode="json", exclude_unset=True)
    space = {}
    for text in search:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not (equals and values and "." in key):
            raise ConfigError(f"--search {text}: must be section.key=values, as in training.learning_rate=1e-3..3e-2")
        space[key] = values
        read_space(key, values, data)
    if not space:
        raise ConfigError("--search: nothing to search; give a key, as in --search training.learning_rate=1e-3..3e-2")
    level = suggested_level(config.corpus)
    if level is not None and "level" not in config.tokenizer.model_fields_set:
        data = with_values(data, {"tokenizer.level": level})
        config = check_config(data, config.corpus.text[0])
    corpus = open_corpus(config.corpus, raw=config.tokenizer.level == "byte")
    if "valid" not in corpus.parts:
        raise CorpusError(
            f"{', '.join(config.corpus.text)}: has no validation split to compare trials by; set corpus.valid_share=0.1"
            " or corpus.valid_text"
        )
    data["corpus"] = corpus.section.model_dump(mode="json")
    return {
        "config": data, "space": space, "text": {part: text.fingerprint for part, text in corpus.parts.items()}
    }  # fmt: skip


@contextmanager
def _study(folder: Path) -> Iterator[optuna.Study]:
    """Open or make the study of `folder`."""
    path = folder / "study.db"
    with _locked(folder), _quiet_optuna(), _storage(path) as storage:
        pruner = optuna.pruners.MedianPruner(_PRUNE_AFTER_TRIALS, _PRUNE_FROM)
        try:
            study = optuna.create_study(storage=storage, study_name="charlm", load_if_exists=True, pruner=pruner)
            study.get_trials(deepcopy=False)
            is_ours = set(_FACTS) <= study.user_attrs.get("facts", dict.fromkeys(_FACTS)).keys()
        except Exception as error:  # SQLite, SQLAlchemy, Optuna and its JSON each have errors of their own for damage.
            raise _damaged(path, one_line(str(error).partition("\n")[0])) from None
        if not is_ours:
            raise _damaged(path, "it does not say what was searched")
        yield study


@contextmanager
def _storage(path: Path) -> Iterator[optuna.storages.BaseStorage]:
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
    except Exception as error:  # See `_study`.
        raise _damaged(path, one_line(str(error).partition("\n")[0])) from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _damaged(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: is damaged, or cannot be written: {problem}; give another --out")


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second search out of `folder`: it would take our trial for one that a crash left."""
    lock = checkpoint.lock_of(folder)
    lock.take(kind=CheckpointError, remedy="give another --out")
    try:
        yield
    finally:
        lock.release()


def _check_budget(minutes: float | None, trials: int | None) -> None:
    if minutes is None and trials is None:
        raise ConfigError("charlm tune: has no end; give --minutes or --trials")


def _budget(study: optuna.Study, minutes: float | None, trials: int | None) -> tuple[float, float]:
    """Return the most minutes and trials: those given now, else the ones before."""
    if minutes is not None or trials is not None:
        study.set_user_attr("budget", [minutes, trials])
    minutes, trials = study.user_attrs.get("budget", [None, None])
    _check_budget(minutes, trials)
    return math.inf if minutes is None else minutes, math.inf if trials is None else trials


def _take_up(
    study: optuna.Study, folder: Path, facts: Mapping[str, Any], spaces: Mapping[str, Range | Choices]
) -> None:
    """Begin the study, or make sure that it is the same, and note what a crash has left."""
    if "facts" not in study.user_attrs:
        study.enqueue_trial(as_it_stands(facts["config"], spaces))
        study.set_user_attr("facts", facts)
    _check_agreement(folder, study.user_attrs["facts"], facts)
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)  # Nobody is at work on it: the folder is ours alone.


def _check_agreement(folder: Path, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    names = {"config": "the configuration", "space": "what is searched", "text": "the text"}
    changed = [name for key, name in names.items() if stored[key] != given[key]]
    if changed:
        raise CheckpointError(
            f"{folder}: holds another search: {' and '.join(changed)} changed since; give another --out"
            + ("" if "the text" in changed else f", or go on with it as it is: charlm tune --resume {folder}")
        )


def _sampler(seed: int, study: optuna.Study) -> optuna.samplers.BaseSampler:
    """Return a sampler for the next trial alone, so that resuming equals never having stopped."""
    begun = sum(known.state != TrialState.WAITING for known in study.get_trials(deepcopy=False))
    return optuna.samplers.TPESampler(seed=int(np.random.SeedSequence((seed, begun)).generate_state(1)[0]))


def _try(
    trial: optuna.Trial, values: Mapping[str, Any], facts: Mapping[str, Any], folder: Path, is_over: Callable[[], bool]
) -> None:
    """Train with `values` and tell the study what came of it."""
    outcome: Outcome
    note = ""
    try:
        config = check_config(with_values(facts["config"], values), f"trial {trial.number}")
        outcome = _train(trial, run.begin(config, folder / "trials" / str(trial.number)), is_over)
    except DivergenceError as error:
        outcome, note = "diverged", str(error)
    except (ConfigError, CorpusError) as error:  # The text alone was read before: it is this trial's values.
        outcome, note = "impossible", str(error)
    except torch.OutOfMemoryError:
        outcome, note = "impossible", "needs more memory than the device has"
    trial.set_user_attr("outcome", outcome)
    trial.set_user_attr("note", note)
    if outcome == "finished":
        losses = trial.study.trials[trial.number].intermediate_values.values()
        trial.study.tell(trial, min(losses))
    else:
        trial.study.tell(trial, state=TrialState.PRUNED)  # So that the sampler learns to stay away.
    if outcome == "unfinished":
        trial.study.enqueue_trial(trial.params)


def _train(trial: optuna.Trial, experiment: run.Experiment, is_over: Callable[[], bool]) -> Outcome:
    """Train, reporting each validation loss by the share of the budget that is spent."""
    section, state = experiment.config.training, experiment.state
    with closing(run.run(experiment, stop=is_over)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, run.Evaluated) and event.score is not None:
                if not math.isfinite(event.score.loss_nats):
                    raise DivergenceError(f"step {state.step}: the validation loss is {event.score.loss_nats}")
                evaluations = int(min(state.share(section), 1.0) * section.evaluations + 1e-9)
                trial.report(event.score.loss_nats, _WHOLE * evaluations // section.evaluations)
                if evaluations < section.evaluations and trial.should_prune():
                    return "pruned"
            elif isinstance(event, run.Finished) and event.reason == "stopped" and state.share(section) < 1:
                return "unfinished"
    return "finished"
