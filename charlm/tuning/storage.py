"""The storage of a search: SQLite in its folder, or PostgreSQL for workers on several machines."""

import hashlib
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from charlm.errors import CharlmError, CheckpointError, OptionError, StorageError
from charlm.runs.folder import run_lock
from charlm.storage.untrusted import one_line
from charlm.version import install_hint

STUDY_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
HEARTBEAT_SECONDS = 10
GRACE_SECONDS = 60  # A trial without a heartbeat for this time is lost.
MAX_ATTEMPTS = 3  # Values that lost their worker 3 times are given up: they may be the cause.
_LOCK_SECONDS = 60  # Longest wait for another worker, which holds the lock for milliseconds.
_DRIVERS = ("postgresql", "postgresql+psycopg")
_REMEDY = (
    "check that it is running, and address, user and password (--storage, else PGPASSWORD or "
    "~/.pgpass)"
)


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Put the parameters of a failed trial back into the queue, unless they failed too often."""
    trial.user_attrs = {}  # The attributes describe the failed attempt.
    RetryHeartbeatStaleTrialCallback(max_retry=MAX_ATTEMPTS - 1)(study, trial)


_HEARTBEAT_OPTIONS: dict[str, Any] = {
    "heartbeat_interval": HEARTBEAT_SECONDS,
    "grace_period": GRACE_SECONDS,
    "heartbeat_stale_trial_callback": retry,
}


@dataclass(frozen=True)
class Storage:
    """An open storage.

    Attributes:
        backend: Optuna's storage.
        place: Name of the storage in messages, without a password.
        name: Name of the search in the storage.
        is_shared: Whether several machines can use it, each with its own folder.
        lock: Context in which no other worker decides anything.
        clock: Time in seconds, the same for all workers.
        problem: Error for contents that charlm does not write, given a description.
    """

    backend: BaseStorage
    place: str
    name: str
    is_shared: bool
    lock: Callable[[], AbstractContextManager[None]]
    clock: Callable[[], float]
    problem: Callable[[str], CharlmError]

    def record_heartbeat(self, study_name: str, number: int) -> None:
        """Record a heartbeat of a trial, if the storage has heartbeats."""
        if isinstance(self.backend, optuna.storages.RDBStorage):
            study_id = self.backend.get_study_id_from_name(study_name)
            trial_id = self.backend.get_trial_id_from_study_id_trial_number(study_id, number)
            self.backend.record_heartbeat(trial_id)


@contextmanager
def open_in_folder(folder: Path) -> Iterator[Storage]:
    """Open, or create, the storage of a search whose workers use one folder.

    Raises:
        CheckpointError: It is damaged, or cannot be written.
    """
    path = folder / "study.db"

    def problem(text: str) -> CharlmError:
        return CheckpointError(
            f"{path}: is damaged, or cannot be written: {text}; give another --out"
        )

    lock = partial(_folder_lock, folder)
    with ExitStack() as stack:
        stack.enter_context(_database_errors(problem))
        with lock():
            backend = stack.enter_context(_open_sqlite(path, problem))
        yield Storage(
            backend,
            str(path),
            "charlm",
            is_shared=False,
            lock=lock,
            clock=time.time,
            problem=problem,
        )


@contextmanager
def open_at_url(text: str, name: str) -> Iterator[Storage]:
    """Open a PostgreSQL database and create Optuna's tables in it if they are missing.

    Args:
        text: URL: postgresql://user:password@host:port/database
        name: Name of the search in the database.

    Raises:
        OptionError: The URL is not that of a PostgreSQL database.
        CharlmError: The driver is not installed.
        StorageError: The database cannot be reached or used.
    """
    url = _parse_url(text)
    place = without_password(text)
    problem = partial(_postgresql_problem, url, place)
    options = {
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": 10, "keepalives_idle": 30},
    }
    with ExitStack() as stack:
        stack.enter_context(_database_errors(problem))
        engine = _create_engine(url, options)
        stack.callback(engine.dispose)
        # Two workers that create the tables at the same time would fail.
        with _advisory_lock(engine, "charlm: making tables"):
            backend = optuna.storages.RDBStorage(
                _without_placeholders(url.render_as_string(hide_password=False)),
                engine_kwargs=options,
                **_HEARTBEAT_OPTIONS,
            )
        stack.callback(backend.engine.dispose)
        stack.callback(backend.remove_session)
        yield Storage(
            backend,
            place,
            name,
            is_shared=True,
            lock=partial(_advisory_lock, engine, f"charlm: {name}"),
            clock=partial(_server_time, engine),
            problem=partial(problem, remedy="give another --study"),
        )


def without_password(text: str) -> str:
    """Return a URL without its password, for messages and files.

    Raises:
        OptionError: The URL is not that of a PostgreSQL database.
    """
    url = _parse_url(text)
    query = {key: value for key, value in url.query.items() if key not in _password_keys(url)}
    shown = sqlalchemy.URL.create(
        "postgresql",
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        query=query,
    )
    return shown.render_as_string()


def describe_error(error: BaseException) -> str:
    """Return the first line of a database's message, without the text of Optuna and SQLAlchemy."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else None
    message = str(getattr(cause or error, "orig", None) or cause or error).strip()
    return one_line(message.partition("\n")[0])


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log, and its warnings about heartbeats."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            # We call `Study.ask`, and record the heartbeats ourselves.
            warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _password_keys(url: sqlalchemy.URL) -> list[str]:
    return [key for key in url.query if "password" in key.lower()]


def _parse_url(text: str) -> sqlalchemy.URL:
    """Return a URL for our driver. The message does not quote it, because of its password."""
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.drivername not in _DRIVERS or not url.database or not text.isprintable():
        raise OptionError(
            "storage", "must be a PostgreSQL database, as in postgresql://user@host/database"
        )
    return url.set(drivername="postgresql+psycopg")


def _create_engine(url: sqlalchemy.URL, options: dict[str, Any]) -> sqlalchemy.Engine:
    try:
        return sqlalchemy.create_engine(url, pool_size=2, **options)
    except ImportError:
        raise CharlmError(
            "charlm tune: --storage needs psycopg, which is not installed: "
            f"{install_hint('tune-postgresql')}"
        ) from None


def _postgresql_problem(
    url: sqlalchemy.URL, place: str, message: str, *, remedy: str = _REMEDY
) -> CharlmError:
    """Return the error for a message of the database, in which passwords are masked."""
    secrets = [url.password, *(url.query[key] for key in _password_keys(url))]
    pattern = "|".join(re.escape(str(secret)) for secret in secrets if secret)
    masked = re.sub(pattern, "***", message) if pattern else message
    return StorageError(f"{place}: cannot be used: {masked}; {remedy}")


@contextmanager
def _database_errors(problem: Callable[[str], CharlmError]) -> Iterator[None]:
    """Turn errors of the database into user errors."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise problem(describe_error(error)) from None


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    lock = run_lock(folder)
    lock.acquire(
        error_type=CheckpointError, remedy="give another --out", wait_seconds=_LOCK_SECONDS
    )
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _open_sqlite(path: Path, problem: Callable[[str], CharlmError]) -> Iterator[BaseStorage]:
    try:
        storage = optuna.storages.RDBStorage(
            _without_placeholders(f"sqlite:///{path.absolute()}"),
            engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}},
            **_HEARTBEAT_OPTIONS,
        )
    except Exception as error:  # SQLite, SQLAlchemy and Optuna raise various errors for damage.
        raise problem(describe_error(error)) from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _without_placeholders(url: str) -> str:
    """Return a URL whose braces Optuna does not take for placeholders."""
    return re.sub(r"([{}])", r"\1\1", url)


@contextmanager
def _advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """Hold a lock in the database; the server releases it when the process ends."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        yield


def _server_time(engine: sqlalchemy.Engine) -> float:
    query = sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")
    with engine.connect() as connection:
        return float(connection.execute(query).scalar_one())
