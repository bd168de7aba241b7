"""A search for settings on Optuna: trials of one experiment, each with other values. Kept in a folder, and resumable.

DIR/study.db      what was searched and found, Optuna's SQLite storage; or
DIR/study.json    which search it is in what database, and what is searched
DIR/trials/N/     the run folder of a trial; weights are kept of the best alone
DIR/trials.csv    a line a trial, the best first
DIR/best.yaml     the best trial's whole configuration
DIR/.workers/ID   held by a process that works at the search

Several processes may work at one search. Whatever they decide, they decide one at a time (`Storage.alone`): a trial
begins only where those that ended and those that are running are fewer than were asked for, and a trial whose worker is
lost is tried again. So exactly as many as were asked for come to an end, whoever is killed.
"""

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from pydantic import Field

from charlm.config.load import check_config
from charlm.config.schema import Config
from charlm.data.corpus import open_corpus
from charlm.data.resolve import resolve
from charlm.errors import (
    CharlmError,
    CheckpointError,
    ConfigError,
    CorpusError,
    DivergenceError,
    OptionError,
)
from charlm.runs import prepare, session
from charlm.runs.experiment import Evaluated, Experiment, Finished
from charlm.runs.folder import check_new
from charlm.storage.atomic import atomic_write
from charlm.storage.untrusted import MEGABYTE, StrictModel, parse_json, read_regular_file
from charlm.tuning.results import NO_END, Outcome, Trial, Tuning, read_results, write_results
from charlm.tuning.space import Choices, Range, configured_parameters, read_space, with_values
from charlm.tuning.storage import NAME, Storage, at_url, first_line, in_folder, quiet_optuna
from charlm.tuning.workers import Worker

_WHOLE = (
    1000  # Trials are compared at equal shares of their budgets, which are counted in thousandths,
)
_PRUNE_FROM, _PRUNE_AFTER_TRIALS = (
    300,
    3,
)  # and not before this one: until then a high learning rate only seems bad.
_REPEATS = 50  # So many draws of what was tried already, one after the other: there is nothing left to try.
_LOSSES = 3  # Values whose workers were lost so often are given up: they may be what kills them.
_POLL_SECONDS = 0.5  # How often a worker for whom nothing is left to begin looks after the others.
_PATHS = (
    "text",
    "valid_text",
    "test_text",
)  # A text may lie elsewhere on another machine: its contents count.


class _StudyFacts(StrictModel):
    """What a study says of itself: what all trials have in common, what is searched, and of which text."""

    config: dict[str, Any]
    space: dict[str, str]
    text: dict[str, str]


class _KeptFacts(StrictModel):
    """What study.json is like."""

    storage: str
    study: str = Field(pattern=rf"^{NAME.pattern}$")
    identity: str
    facts: _StudyFacts


class _Budget(StrictModel):
    """What a study may cost, in all."""

    minutes: float | None
    trials: int | None


@dataclass(frozen=True)
class _Search:
    """What a worker has in its hands."""

    folder: Path
    facts: Mapping[str, Any]
    spaces: Mapping[str, Range | Choices]
    study: optuna.Study
    storage: Storage
    worker: Worker

    def read(self) -> Tuning:
        """Return what all workers have found so far."""
        return read_results(self.folder, self.study, self.storage, self.facts)

    def has_waiting(self) -> bool:
        """Whether there is a trial that only needs to be begun."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def tune(
    config: Config,
    search: Sequence[str],
    *,
    out: str | Path,
    storage: str | None = None,
    study: str | None = None,
    minutes: float | None = None,
    trials: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[Trial, Trial | None], None] = lambda trial, best: None,
    waiting: Callable[[int], None] = lambda running: None,
) -> Tuning:
    """Search for the values with the lowest validation loss; go on where `out` holds the same search already.

    Where others work at it, this process joins them, and returns when the whole search is over.

    The first trial is the configuration as it stands, as far as its values lie within what is searched.

    Args:
        config: What all trials have in common; its budget is that of a trial, its seed also the search's.
        search: Such as `training.learning_rate=1e-3..3e-2` (a range, by its logarithm where it spans a factor of
            ten) or `model.hidden_size=256,512` (choices).
        out: The folder of the search.
        storage: The URL of a PostgreSQL database, postgresql://user@host/database, in which workers on several
            machines meet, each with a folder of its own. Without, those on one machine meet in the folder's study.db.
        study: The name of the search in that database; without, charlm.
        minutes: Budget: while at least one trial is running, those before a resumption included; a trial that is
            stopped by it is unfinished, and the next to be taken up.
        trials: Budget: trials that came to an end, those before a resumption included. One of the two must be given,
            unless the search is there already; they hold for all its workers.
        stop: Asked after every step; when true, the trial is stopped and the search ends.
        clock: Seconds.
        report: Told each trial of this process when it ends, and the best so far.
        waiting: Told how many trials of others are waited for, when nothing is left to begin.

    Raises:
        CharlmError: A key or value is impossible, the corpus cannot be used or has no validation split, `out` or
            `study` holds something else, or the storage cannot be used.
    """
    folder, facts = Path(out), _facts(config, search)
    kept = _kept(folder)
    if kept is None and not (folder / "study.db").is_file():
        check_new(folder)
        if storage is None:
            _check_budget(_Budget(minutes=minutes, trials=trials))
    with _opened(folder, kept, storage, study) as place, _study(place) as found:
        with place.alone():
            spaces = {
                key: read_space(key, text, facts["config"]) for key, text in facts["space"].items()
            }
            _begin(found, place, folder, facts, spaces, _Budget(minutes=minutes, trials=trials))
            if place.is_shared:
                _keep(folder, place, found, kept, facts)
        worker = Worker(folder, place)
        with worker.at_work():
            return _work(
                _Search(folder, facts, spaces, found, place, worker), stop, clock, report, waiting
            )


def resume(folder: str | Path, *, storage: str | None = None, **options: Any) -> Tuning:
    """Go on with the search in `folder`, or join those who work at it.

    Args:
        folder: Of the search.
        storage: As in `tune`: where its database is reached now, or with what password, which the folder does not keep.
        **options: As in `tune`; without a budget, the search's own.

    Raises:
        CharlmError: There is no search in it, its text has changed, or its storage cannot be used.
    """
    folder = Path(folder)
    kept = _kept(folder)
    if kept is not None:
        facts = kept.facts
    elif (folder / "study.db").is_file():
        with in_folder(folder) as place, _study(place) as study:
            if "facts" not in study.user_attrs:
                raise CheckpointError(
                    f"{folder}: its search was never begun; remove the folder and begin it again"
                )
            facts = _StudyFacts(**study.user_attrs["facts"])
    else:
        raise CheckpointError(
            f"{folder}: holds no search (no study.db); begin one: charlm tune --out {folder}"
        )
    config = check_config(facts.config, str(folder))
    return tune(
        config,
        [f"{key}={text}" for key, text in facts.space.items()],
        out=folder,
        storage=storage,
        **options,
    )


def _work(
    search: _Search,
    stop: Callable[[], bool],
    clock: Callable[[], float],
    report: Callable[[Trial, Trial | None], None],
    waiting: Callable[[int], None],
) -> Tuning:
    """Try one trial after the other until the search is over."""
    budget, deadline, found = None, math.inf, None
    exhausted = is_waiting = False

    def is_over() -> bool:
        return stop() or clock() >= deadline

    while True:
        with search.storage.alone():
            found, asked = _look(search, found), _budget(search)
            if asked != budget:  # Another worker may have been given a larger one.
                budget = asked
                deadline = clock() + 60 * (asked.minutes or math.inf) - found.spent_seconds
            left = (asked.trials or math.inf) - found.ended
            if left <= 0 or is_over():
                return found
            # Where nothing is left to draw, a trial that was lost or stopped may still be waiting to be tried again.
            can_ask = left > found.running and (not exhausted or search.has_waiting())
            begun = _ask(search, found) if can_ask else None
            exhausted = exhausted or (can_ask and begun is None)
            if begun is None and not found.running:
                return replace(found, exhausted=True)
        if begun is None:
            if not is_waiting:
                waiting(found.running)
            is_waiting = True
            time.sleep(_POLL_SECONDS)
            continue
        is_waiting, (trial, values) = False, begun
        with search.worker.trying(trial):
            outcome, note = _try(
                trial, values, search, lambda: is_over() or search.worker.is_lost()
            )
        found = _settle(search, trial, outcome, note)
        report(next(known for known in found.trials if known.number == trial.number), found.best)


def _look(search: _Search, before: Tuning | None) -> Tuning:
    """Take up what lost workers left; return what there is, written down where it is not what it was."""
    search.worker.take_up(search.study)
    found = search.read()
    if before is None or found.trials != before.trials:
        write_results(found, search.facts)
    return found


def _settle(search: _Search, trial: optuna.Trial, outcome: Outcome, note: str) -> Tuning:
    """Tell the study what came of a trial; return what there is then."""
    with search.storage.alone():
        search.worker.end(search.study, trial, outcome, note)
        found = search.read()
        write_results(found, search.facts)
    return found


def _ask(search: _Search, tuning: Tuning) -> tuple[optuna.Trial, dict[str, Any]] | None:
    """Begin a trial of values that nobody has tried or is trying; return None where there are none left."""
    failed = [trial.values for trial in tuning.trials if trial.outcome == "failed"]
    tried = [
        trial.values
        for trial in tuning.trials
        if trial.outcome not in NO_END or trial.outcome == "running"
    ]
    tried += [values for values in failed if failed.count(values) >= _LOSSES]
    for _ in range(_REPEATS):
        search.study.sampler = _sampler(tuning.config.training.seed, search.study)
        trial = search.study.ask()
        values = {key: space.suggest(trial, key) for key, space in search.spaces.items()}
        if values not in tried:
            search.worker.begin(trial)
            return trial, values
        trial.set_user_attr("outcome", "repeated")
        search.study.tell(trial, state=TrialState.FAIL)
    return None


def _facts(config: Config, search: Sequence[str]) -> dict[str, Any]:
    """Return what all trials have in common, as JSON can hold it; every key and value of the search is checked."""
    # What was left unset stays so: it may depend on a value that is searched.
    data = config.model_dump(mode="json", exclude_unset=True)
    space = {}
    for text in search:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not (equals and values and "." in key):
            problem = "must be section.key=values, as in training.learning_rate=1e-3..3e-2"
            raise OptionError("search", problem, value=text)
        space[key] = values
        read_space(key, values, data)
    if not space:
        raise OptionError(
            "search", "nothing to search; give a key, as in training.learning_rate=1e-3..3e-2"
        )
    resolved = resolve(config)
    if resolved.tokenizer.level != config.tokenizer.level:  # The corpus card names the level.
        data = with_values(data, {"tokenizer.level": resolved.tokenizer.level})
    corpus = open_corpus(resolved)
    if "valid" not in corpus.parts:
        raise CorpusError(
            f"{', '.join(config.corpus.text)}: has no validation split to compare trials by; set corpus.valid_share=0.1"
            " or corpus.valid_text"
        )
    data["corpus"] = resolved.corpus.model_dump(mode="json")
    return {
        "config": data,
        "space": space,
        "text": {part: text.fingerprint for part, text in corpus.parts.items()},
    }


@contextmanager
def _opened(
    folder: Path, kept: _KeptFacts | None, url: str | None, name: str | None
) -> Iterator[Storage]:
    """Open where the search of `folder` is kept, or is to be."""
    if kept is not None and name not in (None, kept.study):
        raise CheckpointError(f"{folder}: holds another search, {kept.study}; give another --out")
    url, name = (
        (url, name) if kept is None else (url if url is not None else kept.storage, kept.study)
    )
    if url is not None and (folder / "study.db").is_file():
        raise CheckpointError(
            f"{folder}: keeps its search in study.db; leave --storage out, or give another --out"
        )
    with in_folder(folder) if url is None else at_url(url, name or "charlm") as storage:
        yield storage


@contextmanager
def _study(storage: Storage) -> Iterator[optuna.Study]:
    """Open or make a study."""
    with quiet_optuna():
        pruner = optuna.pruners.MedianPruner(_PRUNE_AFTER_TRIALS, _PRUNE_FROM)
        try:
            with storage.alone():
                study = optuna.create_study(
                    storage=storage.backend,
                    study_name=storage.name,
                    load_if_exists=True,
                    pruner=pruner,
                )
            study.get_trials(deepcopy=False)
            facts = study.user_attrs.get("facts")
        except CharlmError:
            raise
        except Exception as error:  # SQLite, SQLAlchemy, Optuna and its JSON each have errors of their own for damage.
            raise storage.damage(first_line(error)) from None
        try:
            facts is None or _StudyFacts.model_validate(facts)
        except ValueError:
            raise storage.damage("it does not say what was searched") from None
        yield study


def _kept(folder: Path) -> _KeptFacts | None:
    """Return which search a folder is of, where a database keeps it."""
    path = folder / "study.json"
    if not path.is_file():
        return None
    try:
        return _KeptFacts.model_validate(
            parse_json(read_regular_file(path, max_bytes=16 * MEGABYTE))
        )
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; give another --out"
        ) from None
    except ValueError:
        raise CheckpointError(
            f"{path}: is damaged; give another --out, with the same --storage and --study"
        ) from None


def _keep(
    folder: Path,
    storage: Storage,
    study: optuna.Study,
    kept: _KeptFacts | None,
    facts: Mapping[str, Any],
) -> None:
    """Write down which search a folder is of; the password is nobody's but the user's."""
    identity = str(study.user_attrs.get("identity"))
    if kept is not None and kept.identity != identity:  # Numbers of trials would mean others' here.
        raise CheckpointError(
            f"{folder}: holds another search, which {storage.place} has no more; give another --out"
        )
    if kept is None:
        whole = {
            "storage": storage.place,
            "study": storage.name,
            "identity": identity,
            "facts": facts,
        }
        with atomic_write(
            folder / "study.json", error_type=CheckpointError, remedy="give another --out"
        ) as file:
            file.write(json.dumps(whole).encode())


def _check_budget(budget: _Budget) -> None:
    if budget.minutes is None and budget.trials is None:
        raise ConfigError("charlm tune: has no end; give --minutes or --trials")


def _budget(search: _Search) -> _Budget:
    """Return what the search may cost, as was said last."""
    try:
        minutes, trials = search.study.user_attrs["budget"]
        return _Budget(minutes=minutes, trials=trials)
    except (ValueError, TypeError, KeyError):
        raise search.storage.damage("its budget is not as charlm writes it") from None


def _begin(
    study: optuna.Study,
    storage: Storage,
    folder: Path,
    facts: Mapping[str, Any],
    spaces: Mapping[str, Range | Choices],
    budget: _Budget,
) -> None:
    """Begin the study, or make sure that it is the same."""
    is_new = "facts" not in study.user_attrs
    if not is_new:
        _check_agreement(storage, folder, study.user_attrs["facts"], facts)
    if "budget" not in study.user_attrs:
        _check_budget(budget)
    if (budget.minutes, budget.trials) != (None, None):
        study.set_user_attr("budget", [budget.minutes, budget.trials])
    if is_new:
        study.enqueue_trial(configured_parameters(facts["config"], spaces))
        study.set_user_attr("identity", uuid.uuid4().hex)
        study.set_user_attr("facts", facts)


def _check_agreement(
    storage: Storage, folder: Path, stored: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    names = {"config": "the configuration", "space": "what is searched", "text": "the text"}
    changed = [
        name
        for key, name in names.items()
        if _without_paths(stored[key]) != _without_paths(given[key])
    ]
    if changed:
        what = f"holds another search: {' and '.join(changed)} changed since"
        if storage.is_shared:
            raise CheckpointError(f"{storage.place}: {storage.name} {what}; give another --study")
        raise CheckpointError(
            f"{folder}: {what}; give another --out"
            + (
                ""
                if "the text" in changed
                else f", or go on with it as it is: charlm tune --resume {folder}"
            )
        )


def _without_paths(facts: Mapping[str, Any]) -> dict[str, Any]:
    corpus = facts.get("corpus")
    if not isinstance(corpus, dict):
        return dict(facts)
    return {**facts, "corpus": {key: value for key, value in corpus.items() if key not in _PATHS}}


def _sampler(seed: int, study: optuna.Study) -> optuna.samplers.BaseSampler:
    """Return a sampler for the next trial alone, so that resuming equals never having stopped."""
    begun = sum(known.state != TrialState.WAITING for known in study.get_trials(deepcopy=False))
    number = int(np.random.SeedSequence((seed, begun)).generate_state(1)[0])
    return optuna.samplers.TPESampler(
        seed=number, constant_liar=True
    )  # Away from what the others are trying.


def _try(
    trial: optuna.Trial, values: Mapping[str, Any], search: _Search, is_over: Callable[[], bool]
) -> tuple[Outcome, str]:
    """Train with `values`; return what came of it, and why."""
    try:
        config = check_config(with_values(search.facts["config"], values), f"trial {trial.number}")
        return _train(
            trial, prepare.begin(config, search.folder / "trials" / str(trial.number)), is_over
        ), ""
    except DivergenceError as error:
        return "diverged", str(error)
    except (
        ConfigError,
        CorpusError,
    ) as error:  # The text alone was read before: it is this trial's values.
        return "impossible", str(error)
    except torch.OutOfMemoryError:
        return "impossible", "needs more memory than the device has"
    except UpdateFinishedTrialError:  # The others have taken this worker for lost.
        return "failed", ""


def _train(trial: optuna.Trial, experiment: Experiment, is_over: Callable[[], bool]) -> Outcome:
    """Train, reporting each validation loss by the share of the budget that is spent."""
    section, state, told = experiment.config.training, experiment.state, 0
    with closing(session.run(experiment, stop=is_over)) as events:  # type: ignore[type-var]
        for event in events:
            if isinstance(event, Evaluated) and event.score is not None:
                if not math.isfinite(event.score.loss_nats):
                    raise DivergenceError(
                        f"step {state.step}: the validation loss is {event.score.loss_nats}"
                    )
                evaluations = int(
                    min(state.fraction_done(section), 1.0) * section.evaluations + 1e-9
                )
                if (
                    evaluations > told
                ):  # After a divergence a share comes again, and Optuna takes one loss of each.
                    trial.report(event.score.loss_nats, _WHOLE * evaluations // section.evaluations)
                    told = evaluations
                if evaluations < section.evaluations and trial.should_prune():
                    return "pruned"
            elif (
                isinstance(event, Finished)
                and event.reason == "stopped"
                and state.fraction_done(section) < 1
            ):
                return "unfinished"
    return "finished"
