"""The study of a search in Optuna's storage: open, begin, and compare it."""

import json
import math
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from pydantic import Field

from charlm.config.schema import Config
from charlm.data.corpus import open_corpus
from charlm.data.listing import shown_names
from charlm.data.resolve import resolve
from charlm.errors import CharlmError, CheckpointError, ConfigError, CorpusError, OptionError
from charlm.runs.folder import check_new
from charlm.storage.atomic import atomic_write
from charlm.storage.untrusted import MEGABYTE, StrictModel, parse_json, read_regular_file
from charlm.tuning.space import (
    Space,
    configured_parameters,
    parse_searches,
    read_space,
    with_values,
)
from charlm.tuning.storage import (
    STUDY_NAME,
    Storage,
    describe_error,
    open_at_url,
    open_in_folder,
    quiet_optuna,
)

# Progress of a trial is a step of Optuna's pruner, counted in thousandths of the budget.
WHOLE_BUDGET = 1000
# Earlier evaluations are not compared: at first, high learning rates only seem worse.
_PRUNE_FROM_STEP = 300
_PRUNE_AFTER_TRIALS = 3
# A text may have another path on another machine: its contents are compared.
_PATHS = ("text", "valid_text", "test_text")


class StudyFacts(StrictModel):
    """What all trials of a search have in common.

    Attributes:
        config: The configuration, without the searched values.
        space: What is searched: text such as `256,512`, by key.
        text: Fingerprint of each part of the text, by name.
    """

    config: dict[str, Any]
    space: dict[str, str]
    text: dict[str, str]

    def spaces(self) -> dict[str, Space]:
        """Return the range or the choices of every key."""
        return {key: read_space(key, text, self.config) for key, text in self.space.items()}


class FolderFacts(StrictModel):
    """study.json: the search to which a folder belongs, if a database contains it.

    Attributes:
        storage: URL of the database, without a password.
        study: Name of the search in the database.
        identity: Random text that distinguishes it from other searches with this name.
        facts: What all trials have in common.
    """

    storage: str
    study: str = Field(pattern=rf"^{STUDY_NAME.pattern}$")
    identity: str
    facts: StudyFacts


class Budget(StrictModel):
    """The budget of a search, for all workers and all continuations together.

    Attributes:
        minutes: Minutes in which at least one trial is running.
        trials: Number of trials that end by themselves.
    """

    minutes: float | None = None
    trials: int | None = None

    @property
    def is_given(self) -> bool:
        """Whether minutes or trials are limited."""
        return self.minutes is not None or self.trials is not None

    @property
    def max_trials(self) -> float:
        """Number of trials, or infinity."""
        return math.inf if self.trials is None else self.trials

    @property
    def max_seconds(self) -> float:
        """Number of seconds, or infinity."""
        return math.inf if self.minutes is None else 60 * self.minutes

    def check(self) -> None:
        """Raise ConfigError unless minutes or trials are limited."""
        if not self.is_given:
            raise ConfigError("the search has no budget; give --minutes or --trials")


def describe_search(config: Config, search: Sequence[str]) -> StudyFacts:
    """Return what all trials have in common, after a check of every searched key and value.

    Raises:
        OptionError: A key cannot be searched, or a value is not valid.
        CorpusError: The text cannot be read, or has no validation split.
    """
    # Fields that are not set stay so: their values may depend on a searched value.
    data = config.model_dump(mode="json", exclude_unset=True)
    space = parse_searches(search)
    if not space:
        example = "training.learning_rate=1e-3..3e-2"
        raise OptionError("search", f"nothing to search; give a key, as in {example}")
    for key, text in space.items():
        read_space(key, text, data)
    resolved = resolve(config)
    if resolved.tokenizer.level != config.tokenizer.level:  # The corpus card gives the level.
        data = with_values(data, {"tokenizer.level": resolved.tokenizer.level})
    corpus = open_corpus(resolved)
    if "valid" not in corpus.parts:
        raise CorpusError(
            f"{shown_names(config.corpus.text)}: there is no validation split to compare trials; "
            "set corpus.valid_share=0.1 or corpus.valid_text"
        )
    data["corpus"] = resolved.corpus.model_dump(mode="json")
    fingerprints = {str(part): text.fingerprint for part, text in corpus.parts.items()}
    return StudyFacts(config=data, space=space, text=fingerprints)


def read_folder_facts(folder: Path) -> FolderFacts | None:
    """Return the contents of study.json, or None if the folder has none.

    Raises:
        CheckpointError: The file cannot be read.
    """
    path = folder / "study.json"
    if not path.is_file():
        return None
    try:
        data = parse_json(read_regular_file(path, max_bytes=16 * MEGABYTE))
        return FolderFacts.model_validate(data)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; give another --out"
        ) from None
    except ValueError:
        raise CheckpointError(
            f"{path}: is damaged; give another --out, with the same --storage and --study"
        ) from None


def read_study_facts(folder: Path) -> StudyFacts:
    """Return what the trials of the search in a folder have in common.

    Raises:
        CheckpointError: The folder contains no search, or one that was never begun.
    """
    folder_facts = read_folder_facts(folder)
    if folder_facts is not None:
        return folder_facts.facts
    if not (folder / "study.db").is_file():
        is_run = (folder / "config.yaml").is_file()
        command = (
            "continue the run: charlm train --resume" if is_run else "begin one: charlm tune --out"
        )
        raise CheckpointError(
            f"{folder}: contains no search (no study.db); {command} {shlex.quote(str(folder))}"
        )
    with quiet_optuna(), open_in_folder(folder) as storage:
        study = _open_study(storage)
        if "facts" not in study.user_attrs:
            raise CheckpointError(
                f"{folder}: the search was never begun; remove the folder and begin it again"
            )
        return StudyFacts.model_validate(study.user_attrs["facts"])


class BegunStudy(NamedTuple):
    """A study that trials can be added to.

    Attributes:
        study: Optuna's study.
        storage: Its storage, which is open.
    """

    study: optuna.Study
    storage: Storage


@contextmanager
def begun_study(
    folder: Path, facts: StudyFacts, budget: Budget, *, url: str | None, name: str | None
) -> Iterator[BegunStudy]:
    """Begin a search, or continue it, with its storage open.

    Args:
        folder: Folder of the search.
        facts: What all trials have in common.
        budget: Budget of the whole search; without limits, that of a search that exists.
        url: URL of a database, instead of that in study.json; without both, study.db is opened.
        name: Name of the search in the database.

    Raises:
        CharlmError: The folder or the storage contains something else or cannot be used, or the
            search has no budget.
    """
    folder_facts = read_folder_facts(folder)
    if folder_facts is None and not (folder / "study.db").is_file():
        check_new(folder)
        if url is None:
            budget.check()
    with _open_storage(folder, folder_facts, url=url, name=name) as storage:
        study = _open_study(storage)
        with storage.lock():
            _begin_study(study, storage, folder, facts, budget)
            if storage.is_shared:
                _write_folder_facts(folder, folder_facts, study, storage, facts)
        yield BegunStudy(study, storage)


@contextmanager
def _open_storage(
    folder: Path, folder_facts: FolderFacts | None, *, url: str | None, name: str | None
) -> Iterator[Storage]:
    """Open the storage of the search in a folder; arguments as for `begun_study`.

    Raises:
        CheckpointError: The folder contains another search.
    """
    if folder_facts is not None:
        if name not in (None, folder_facts.study):
            raise CheckpointError(
                f"{folder}: contains another search, {folder_facts.study}; give another --out"
            )
        url, name = url if url is not None else folder_facts.storage, folder_facts.study
    if url is None:
        with open_in_folder(folder) as storage:
            yield storage
        return
    if (folder / "study.db").is_file():
        raise CheckpointError(
            f"{folder}: contains a search in study.db; leave out --storage, or give another --out"
        )
    with open_at_url(url, "charlm" if name is None else name) as storage:
        yield storage


def _open_study(storage: Storage) -> optuna.Study:
    """Open or create the study of a storage.

    Raises:
        CharlmError: The contents are damaged.
    """
    pruner = optuna.pruners.MedianPruner(_PRUNE_AFTER_TRIALS, _PRUNE_FROM_STEP)
    try:
        with storage.lock():
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
    except Exception as error:  # SQLite, SQLAlchemy and Optuna raise various errors for damage.
        raise storage.problem(describe_error(error)) from None
    if facts is not None:
        try:
            StudyFacts.model_validate(facts)
        except ValueError:
            raise storage.problem("it does not say what was searched") from None
    return study


def _begin_study(
    study: optuna.Study, storage: Storage, folder: Path, facts: StudyFacts, budget: Budget
) -> None:
    """Begin a study, or check that it is the same search; set its budget if one is given.

    The caller holds the lock.

    Raises:
        CheckpointError: The study is another search.
        ConfigError: It has no budget.
    """
    is_new = "facts" not in study.user_attrs
    if not is_new:
        stored = StudyFacts.model_validate(study.user_attrs["facts"])
        _check_same_search(storage, folder, stored, facts)
    if "budget" not in study.user_attrs:
        budget.check()
    if budget.is_given:
        study.set_user_attr("budget", [budget.minutes, budget.trials])
    if is_new:
        study.enqueue_trial(configured_parameters(facts.config, facts.spaces()))
        study.set_user_attr("identity", uuid.uuid4().hex)
        study.set_user_attr("facts", facts.model_dump())


def read_budget(study: optuna.Study, storage: Storage) -> Budget:
    """Return the budget that a worker has set last.

    Raises:
        CharlmError: charlm did not write it.
    """
    try:
        minutes, trials = study.user_attrs["budget"]
        return Budget(minutes=minutes, trials=trials)
    except (ValueError, TypeError, KeyError):
        raise storage.problem("its budget was not written by charlm") from None


def _write_folder_facts(
    folder: Path,
    folder_facts: FolderFacts | None,
    study: optuna.Study,
    storage: Storage,
    facts: StudyFacts,
) -> None:
    """Write study.json, without a password, or check that it names this study.

    Raises:
        CheckpointError: The folder belongs to another study, or cannot be written.
    """
    identity = str(study.user_attrs.get("identity"))
    if folder_facts is None:
        facts_now = FolderFacts(
            storage=storage.place, study=storage.name, identity=identity, facts=facts
        )
        with atomic_write(
            folder / "study.json", error_type=CheckpointError, remedy="give another --out"
        ) as file:
            file.write(json.dumps(facts_now.model_dump()).encode())
    elif folder_facts.identity != identity:  # The folder's trials have the numbers of other trials.
        raise CheckpointError(
            f"{folder}: contains another search, which {storage.place} no longer contains; "
            "give another --out"
        )


def _check_same_search(
    storage: Storage, folder: Path, stored: StudyFacts, given: StudyFacts
) -> None:
    parts = {
        "the configuration": (_without_paths(stored.config), _without_paths(given.config)),
        "the search space": (stored.space, given.space),
        "the text": (stored.text, given.text),
    }
    changed = [name for name, (before, now) in parts.items() if before != now]
    if not changed:
        return
    problem = f"contains another search: {' and '.join(changed)} changed since"
    if storage.is_shared:
        raise CheckpointError(f"{storage.place}: {storage.name} {problem}; give another --study")
    remedy = "give another --out"
    if "the text" not in changed:
        remedy += (
            f", or continue the search unchanged: charlm tune --resume {shlex.quote(str(folder))}"
        )
    raise CheckpointError(f"{folder}: {problem}; {remedy}")


def _without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    corpus = config.get("corpus")
    if not isinstance(corpus, dict):
        return dict(config)
    contents = {key: value for key, value in corpus.items() if key not in _PATHS}
    return {**config, "corpus": contents}
