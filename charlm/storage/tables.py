"""Cells and lines that the tables of results share."""

import csv
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, Literal

TableForm = Literal["table", "csv", "latex"]
_TAB_COLUMNS = 8
_END = r"\end{tabular}"
_LATEX_ESCAPES = str.maketrans(
    {letter: f"\\{letter}" for letter in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)


def format_number(value: float | None) -> str:
    """Return a number: integers with separators, others with four decimals, None as a dash.

    A number of a diverged run, such as 1e+304, is written with an exponent.
    """
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.2g}"


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


def field_lines(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each number and each text among values by name."""
    for name, value in values.items():
        if isinstance(value, bool | str):
            yield f"{name:<24} {value}"
        elif isinstance(value, int | float):
            yield f"{name:<24} {format_number(value):>14}"


def format_rows(
    names: Sequence[str], rows: Sequence[Sequence[str]], form: TableForm = "table"
) -> str:
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


def num_columns(text: str) -> int:
    """Return the number of columns that a text takes on a terminal."""
    return sum(map(columns_of, text))


def columns_of(character: str) -> int:
    """Return the number of columns that a character takes on a terminal."""
    if character == "\t":
        return _TAB_COLUMNS
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _padded(cell: str, width: int) -> str:
    """Return a cell with spaces up to a number of columns; some characters take none or two."""
    return cell + " " * (width - num_columns(cell))


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX_ESCAPES)
