"""Where a search is kept: SQLite in its folder, or, for workers on several machines, PostgreSQL by its URL."""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from charlm.errors import CharlmError, CheckpointError, OptionError, StorageError
from charlm.runs.folder import lock_of
from charlm.storage.untrusted import one_line

NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")  # Of a search in a database.
_PATIENCE_SECONDS = 60  # What workers do one at a time takes milliseconds.
_REMEDY = "is it running, and are address, user and password right (--storage, else PGPASSWORD or ~/.pgpass)?"


@dataclass(frozen=True)
class Storage:
    """What keeps a search.

    Attributes:
        backend: Optuna's storage.
        place: What messages call it; no password is in it.
        name: Of the search there.
        is_shared: Whether other machines may work at the search too, each in a folder of its own.
        alone: Keeps the other workers of the search waiting; a worker decides what to do next within it.
        clock: Seconds, the same for all workers.
        damage: What contents that no worker writes are told as.
    """

    backend: optuna.storages.BaseStorage
    place: str
    name: str
    is_shared: bool
    alone: Callable[[], AbstractContextManager[None]]
    clock: Callable[[], float]
    damage: Callable[[str], CharlmError]


@contextmanager
def in_folder(folder: Path) -> Iterator[Storage]:
    """Open or make the storage of a search whose workers are all on one machine.

    Raises:
        CheckpointError: It is damaged, or cannot be written.
    """
    path = folder / "study.db"

    def problem(text: str) -> CharlmError:
        return CheckpointError(
            f"{path}: is damaged, or cannot be written: {text}; give another --out"
        )

    lock = lock_of(folder)

    @contextmanager
    def alone() -> Iterator[None]:
        lock.acquire(
            error_type=CheckpointError, remedy="give another --out", wait_seconds=_PATIENCE_SECONDS
        )
        try:
            yield
        finally:
            lock.release()

    with ExitStack() as stack:
        stack.enter_context(_told(problem))
        with alone():
            backend = stack.enter_context(_sqlite(path, problem))
        yield Storage(backend, str(path), "charlm", False, alone, time.time, problem)


@contextmanager
def at_url(text: str, name: str) -> Iterator[Storage]:
    """Open a PostgreSQL database; Optuna's tables are made in it where it has none.

    Args:
        text: postgresql://user:password@host:port/database
        name: Of the search in it.

    Raises:
        OptionError: The URL is none of a PostgreSQL database.
        CharlmError: The driver is not installed.
        StorageError: The database cannot be reached, or not be used.
    """
    url = _checked(text)
    place, secrets = (
        without_password(text),
        [url.password, *(url.query[key] for key in _secret(url))],
    )

    def problem(message: str, remedy: str = _REMEDY) -> CharlmError:
        for secret in filter(None, secrets):
            message = message.replace(str(secret), "***")
        return StorageError(f"{place}: cannot be used: {message}; {remedy}")

    options = {
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": 10, "keepalives_idle": 30},
    }
    with ExitStack() as stack:
        stack.enter_context(_told(problem))
        try:
            engine = sqlalchemy.create_engine(url, pool_size=2, **options)
        except ImportError:
            raise CharlmError(
                "charlm tune: --storage needs psycopg, which is not installed: pip install 'charlm[tune-postgresql]'"
            ) from None
        stack.callback(engine.dispose)
        # Two that make the same tables at once would fail.
        with _alone_in(engine, "charlm: making tables"):
            whole = _template(url.render_as_string(hide_password=False))
            backend = optuna.storages.RDBStorage(whole, engine_kwargs=options)
        stack.callback(backend.engine.dispose)
        stack.callback(backend.remove_session)

        yield Storage(
            backend,
            place,
            name,
            True,
            partial(_alone_in, engine, f"charlm: {name}"),
            partial(_now, engine),
            partial(problem, remedy="give another --study"),
        )


def without_password(text: str) -> str:
    """Return a URL as it may be shown and kept.

    Raises:
        OptionError: It is none of a PostgreSQL database.
    """
    url = _checked(text)
    query = {key: value for key, value in url.query.items() if key not in _secret(url)}
    shown = sqlalchemy.URL.create(
        "postgresql", url.username, None, url.host, url.port, url.database, query
    )
    return shown.render_as_string()


def _secret(url: sqlalchemy.URL) -> list[str]:
    return [key for key in url.query if "password" in key.lower()]


def _checked(text: str) -> sqlalchemy.URL:
    """Return a URL for the driver that we use; it is not quoted where it is wrong, as a password may be in it."""
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):
        url = None
    kinds = ("postgresql", "postgresql+psycopg")
    if url is None or url.drivername not in kinds or not url.database or not text.isprintable():
        raise OptionError(
            "storage", "must be a PostgreSQL database, as in postgresql://user@host/database"
        )
    return url.set(drivername="postgresql+psycopg")


@contextmanager
def _told(problem: Callable[[str], CharlmError]) -> Iterator[None]:
    """Tell in one line what keeps a database from being used, whenever that happens."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise problem(first_line(error)) from None


def first_line(error: BaseException) -> str:
    """Return what a database said, without what Optuna and SQLAlchemy make of it."""
    cause = (
        error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    )
    said = str(getattr(cause, "orig", None) or cause).strip()
    return one_line(said.partition("\n")[0])


@contextmanager
def _sqlite(
    path: Path, problem: Callable[[str], CharlmError]
) -> Iterator[optuna.storages.BaseStorage]:
    try:
        storage = optuna.storages.RDBStorage(
            _template(f"sqlite:///{path.absolute()}"),
            engine_kwargs={"connect_args": {"timeout": _PATIENCE_SECONDS}},
        )
    except (
        Exception
    ) as error:  # SQLite, SQLAlchemy and Optuna each have errors of their own for damage.
        raise problem(first_line(error)) from None
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _template(url: str) -> str:
    """Return a URL in which Optuna finds nothing to fill in."""
    return url.replace("{", "{{").replace("}", "}}")


@contextmanager
def _alone_in(engine: sqlalchemy.Engine, what: str) -> Iterator[None]:
    """Hold a lock in the database; the server takes it from a process that ends, however it ends."""
    key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"SET LOCAL lock_timeout = '{_PATIENCE_SECONDS}s'"))
        connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
        yield


def _now(engine: sqlalchemy.Engine) -> float:
    with engine.connect() as connection:
        return float(
            connection.execute(
                sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")
            ).scalar_one()
        )


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from logging."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
