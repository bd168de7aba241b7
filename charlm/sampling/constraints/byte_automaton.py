"""From a regular expression to a finite automaton over bytes.

outlines-core, which uses Rust's regex-automata, builds it: in a process of its own, because a short
expression such as (a|b)*a(a|b){200} has an automaton of 2^200 states.
"""

import re
import subprocess
import sys
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from charlm.errors import UnsupportedOptionError, quote
from charlm.sampling.constraints import regex_process
from charlm.sampling.constraints.regex_process import MARK
from charlm.version import install_hint

Table = npt.NDArray[np.int32]


class ByteAutomaton(NamedTuple):
    """An automaton over bytes, whose state 0 is dead.

    Attributes:
        table: State after each byte, (states, 256).
        first: State in which a text begins.
        final: States of texts that match.
    """

    table: Table
    first: int
    final: frozenset[int]


def build_byte_automaton(pattern: str, pending: str) -> ByteAutomaton:
    """Return the automaton of a regular expression; arguments as for `build_automaton`.

    Raises:
        UnsupportedOptionError: The pattern is no regular expression, or cannot be an automaton, or
            its automaton is too large, or outlines-core is not installed.
    """
    if find_spec("outlines_core") is None:
        raise UnsupportedOptionError(
            "matching",
            f"needs outlines-core, which is not installed: {install_hint('sample')}",
        )
    inner = pattern.removeprefix("^")
    if re.search(r"(?<!\\)(?:\\\\)*\$\Z", inner):  # A $ at the end that is not escaped.
        inner = inner[:-1]
    found = _find(inner, pending)
    if isinstance(found, ByteAutomaton):
        return found
    raise UnsupportedOptionError("matching", _problem(pattern, found))


def _find(inner: str, pending: str) -> ByteAutomaton | int:
    if _python_problem(inner):  # Alone, because a)|(b would be valid within parentheses.
        alone = _run_library(f"{inner}\n|")
        if isinstance(alone, int) and alone != regex_process.NO_MATCH:
            return alone
    # The library also builds the automaton of matches that begin later, which can be much larger.
    # The empty alternative, which matches at the beginning, keeps it small.
    found = _run_library(f"{MARK}{pending}(?:{inner}){MARK}|")
    if found == regex_process.NO_REGEX:  # After (?x), a comment without a line end hides the ")".
        found = _run_library(f"{MARK}{pending}(?:{inner}\n){MARK}|")
    return found


@lru_cache(maxsize=4)
def _run_library(expression: str) -> ByteAutomaton | int:
    """Return the automaton of an expression, or the exit status of the process."""
    result = _run_process(expression)
    if isinstance(result, int):
        return result
    numbers = np.frombuffer(result, dtype=np.int32)
    first, num_final = numbers[:2].tolist()
    return ByteAutomaton(
        table=numbers[2 + num_final :].reshape(-1, 256),
        first=first,
        final=frozenset(numbers[2 : 2 + num_final].tolist()),
    )


def _run_process(expression: str) -> bytes | int:
    try:
        done = subprocess.run(
            [sys.executable, "-I", regex_process.__file__, *sys.path],
            input=expression.encode(),
            capture_output=True,
            timeout=5 * regex_process.SECONDS,  # Other programs may use the processor.
        )
    except subprocess.TimeoutExpired:
        return -1
    return done.returncode or done.stdout


def _problem(pattern: str, status: int) -> str:
    if status == regex_process.NO_MATCH:
        return f"no text at all matches {quote(pattern)}, or a part of it"
    if status != regex_process.NO_REGEX:
        return f"{quote(pattern)} has too many states; use smaller counts in braces"
    problem = _python_problem(pattern)
    if problem:
        return f"{quote(pattern)} is no regular expression: {problem}"
    return (
        f"{quote(pattern)} needs more than a finite automaton; leave out look-around, "
        "backreferences, \\b, and ^ or $ within the expression"
    )


def _python_problem(pattern: str) -> str | None:
    """Return what Python's `re` finds wrong with an expression; the library gives no reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
    return None
