"""Inject faults before the system calls that write files."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from unittest import mock

CALLS = ("open", "fdopen", "fsync", "chmod", "replace", "unlink", "link", "mkdir")
Hook = Callable[[str, object], None]  # Receives the name of a call and its first argument.


class Died(BaseException):
    """The process died: nothing that it would still have done counts, not even tidying up."""


class _File:
    """A file whose writes are split in two, with the hook called in between."""

    def __init__(self, file: BinaryIO, hook: Hook) -> None:
        self._file, self._hook = file, hook

    def write(self, data: bytes) -> None:
        middle = len(data) // 2
        self._file.write(data[:middle])
        self._file.flush()
        self._hook("write", self._file)
        self._file.write(data[middle:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@contextmanager
def hooked(hook: Hook = lambda name, argument: None) -> Iterator[list[str]]:
    """Call `hook` before each call that writes files; yield the names of the calls so far."""
    names: list[str] = []

    def record(name: str, argument: object) -> None:
        names.append(name)
        hook(name, argument)

    def wrap(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            record(name, arguments[0])
            result = call(*arguments, **options)
            return _File(result, record) if name == "fdopen" else result

        return wrapped

    with mock.patch.multiple(os, **{name: wrap(name) for name in CALLS}):
        yield names


def at_call(number: int, act: Callable[[], None], *, repeat: bool = False) -> Hook:
    """Return a hook that acts at call `number`, from 1, and with `repeat` at all later calls."""
    left = number

    def hook(name: str, argument: object) -> None:
        nonlocal left
        left -= 1
        if left == 0 or (repeat and left < 0):
            act()

    return hook


def die() -> None:
    raise Died


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(code: int) -> Callable[[], None]:
    """Return a function that raises the OSError with this number."""

    def raise_error() -> None:
        raise OSError(code, os.strerror(code))

    return raise_error
