"""The base classes of results."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from charlm.storage.tables import field_lines, format_settings


def notebook_form(value: object, **_: object) -> dict[str, str]:
    """Return the printed form of a value as IPython asks for it, by `_repr_mimebundle_`."""
    return {"text/plain": str(value)}


@dataclass(frozen=True)
class Result:
    """A measurement: a frozen dataclass that can be printed, or written as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields, nested results included, as values of JSON types."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """Yield the printed form: by default numbers, texts and settings, one line each."""
        values = self.to_json()
        yield from field_lines(values)
        if settings := values.get("settings"):
            yield format_settings(settings)

    def __str__(self) -> str:
        """Return the lines as one text."""
        return "\n".join(self.lines())

    _repr_mimebundle_ = notebook_form


_Item = TypeVar("_Item", bound=Result)


class ResultList(list[_Item]):
    """Results that can be printed together.

    Attributes:
        separator: Text between two of them.
    """

    def __init__(self, results: Iterable[_Item] = (), *, separator: str = "\n") -> None:
        """Make a list of results; the arguments are described above."""
        super().__init__(results)
        self.separator = separator

    def lines(self) -> Iterator[str]:
        """Yield the printed form: by default that of each result."""
        yield self.separator.join(map(str, self))

    def __str__(self) -> str:
        """Return the lines as one text."""
        return "\n".join(self.lines())

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        """Show the lines in a notebook, where lists have no other method."""
        printer.text(str(self))
