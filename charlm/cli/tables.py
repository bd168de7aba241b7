"""Cells and lines that the tables of several commands share."""

from collections.abc import Mapping
from typing import Any


def format_number(value: float | None) -> str:
    """Return a number: integers with separators, others with four decimals, None as a dash."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def format_range(first: int, last: int | None) -> str:
    """Return a range of integers; without an upper bound, "N or more"."""
    if last is None:
        return f"{first:,} or more"
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def format_settings(settings: Mapping[str, Any]) -> str:
    """Return settings on one line, nested ones in brackets."""
    return ", ".join(
        f"{name} ({format_settings(value)})" if isinstance(value, Mapping) else f"{name} {value}"
        for name, value in settings.items()
    )
