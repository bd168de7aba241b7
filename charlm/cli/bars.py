"""Progress bars on stderr, which are shown on a terminal only."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


@contextmanager
def bar_of_steps(name: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Show how much is done; yield a function that adds to it."""
    with _bar(name, unit) as bar:

        def report(done: int) -> None:
            bar.update(done)

        yield report


@contextmanager
def bar_of_total(
    name: str, unit: str, *, stays: bool = True
) -> Iterator[Callable[[int, int | None], None]]:
    """Show how much of a total is done; yield a function that sets both.

    Args:
        name: What is done.
        unit: What is counted.
        stays: Whether the bar is still shown at the end.
    """
    with _bar(name, unit, stays=stays) as bar:

        def report(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def _bar(name: str, unit: str, *, stays: bool = True) -> "tqdm[Any]":
    from tqdm import tqdm  # It takes time to import, and `charlm --help` needs none.

    is_hidden = not sys.stderr.isatty()
    return tqdm(unit=unit, unit_scale=True, desc=name, disable=is_hidden, leave=stays)
