"""Cells and lines that the tables of several commands share."""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any, Literal

from charlm.cli.terminal import num_columns

TableForm = Literal["table", "csv", "latex"]
_END = r"\end{tabular}"
_LATEX_ESCAPES = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


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


def format_rows(names: Sequence[str], rows: Sequence[Sequence[str]], form: TableForm) -> str:
    """Return rows of cells with a line of names, as aligned text, CSV or LaTeX."""
    if form == "csv":
        file = StringIO()
        csv.writer(file, lineterminator="\n").writerows([names, *rows])
        return file.getvalue().removesuffix("\n")
    if form == "latex":
        lines = [" & ".join(map(_escape_latex, row)) + r" \\" for row in (names, *rows)]
        begin = f"\\begin{{tabular}}{{{'l' * len(names)}}}"
        return "\n".join([begin, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", _END])
    widths = [max(map(num_columns, column)) for column in zip(names, *rows, strict=True)]
    aligned = (
        "  ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (names, *rows)
    )
    return "\n".join(aligned)


def _padded(cell: str, width: int) -> str:
    """Return a cell with spaces up to a number of columns; some characters take none or two."""
    return cell + " " * (width - num_columns(cell))


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX_ESCAPES)
