"""The base class of result objects."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

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
