"""The base class of result objects."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """A measurement: a frozen dataclass that can be written as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields, nested results included, as values of JSON types."""
        return asdict(self)
