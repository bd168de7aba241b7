"""Faults between the calls by which files are written: what happens there is up to the test."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from unittest import mock

CALLS = ("open", "fdopen", "fsync", "chmod", "replace", "unlink", "link", "mkdir")
Before = Callable[[str, object], None]  # Given the call's name, and what it is to be done to.


class Died(BaseException):
    """A process died here: nothing of it runs any more, what tidies up included."""


class _File:
    """A file of which half of what is written is on its way when the call for the other half comes."""

    def __init__(self, file: BinaryIO, before: Before) -> None:
        self._file, self._before = file, before

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        self._before("write", self._file)
        self._file.write(data[len(data) // 2 :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


@contextmanager
def watched(before: Before = lambda name, of: None) -> Iterator[list[str]]:
    """Call `before` before each call that changes files; yield the names of those that came so far."""
    names: list[str] = []

    def told(name: str, of: object) -> None:
        names.append(name)
        before(name, of)

    def watch(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def watching(*arguments: Any, **options: Any) -> Any:
            told(name, arguments[0])
            result = call(*arguments, **options)
            return _File(result, told) if name == "fdopen" else result

        return watching

    with mock.patch.multiple(os, **{name: watch(name) for name in CALLS}):
        yield names


def at_call(number: int, act: Callable[[], None], *, again: bool = False) -> Before:
    """Return what does nothing until the call of this number, the first being 1; then acts, and again each time."""
    left = number

    def before(name: str, of: object) -> None:
        nonlocal left
        left -= 1
        if left == 0 or (again and left < 0):
            act()

    return before


def die() -> None:
    raise Died


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(code: int) -> Callable[[], None]:
    """Return what raises the error that the system has this number for."""

    def failing() -> None:
        raise OSError(code, os.strerror(code))

    return failing
