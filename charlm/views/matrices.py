"""Figures of matrices whose cells are coloured by their share of a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charlm.views.figures.drawing import WIDE
from charlm.views.figures.matrix import Matrix, matrix_chart
from charlm.views.html import Html, join, tag
from charlm.views.page import bin_legend
from charlm.views.passages import MEMORY_EDGES, bin_of


@dataclass(frozen=True, kw_only=True)
class ShareMatrix:
    """A matrix of shares; the read-out above it shows one cell.

    Attributes:
        rows: Name of each row, with visible spaces.
        columns: Name of each column.
        shares: Value of each cell between 0 and 1, by rows.
        values: What the read-out says of each cell.
        texts: Text in each cell, or None.
        row_title: What a row stands for.
        column_title: What a column stands for.
        at: Row and column of the cell that is shown at first.
        diagonal: Number of outlined cells of the diagonal.
        width: Width of the wide drawing in pixels.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    shares: Sequence[Sequence[float]]
    values: Sequence[Sequence[str]]
    texts: Sequence[Sequence[str]] | None = None
    row_title: str
    column_title: str
    at: tuple[int, int]
    diagonal: int = 0
    width: int = WIDE

    @property
    def body(self) -> Html:
        """Read-out, drawing and scale."""
        matrix = Matrix(
            rows=self.rows,
            columns=self.columns,
            bins=[[bin_of(share, MEMORY_EDGES) for share in row] for row in self.shares],
            texts=self.texts,
            row_title=self.row_title,
            column_title=self.column_title,
            diagonal=self.diagonal,
        )
        return join(
            self._read_out,
            tag("div", matrix_chart(matrix, width=self.width), class_="plot"),
            bin_legend(
                "m", list(map(str, MEMORY_EDGES)), "share of the row, lower end of each step"
            ),
        )

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script needs."""
        row, column = self.at
        return {
            "cells": [list(row) for row in self.values],
            "rows": list(self.rows),
            "columns": list(self.columns),
            "at": row * len(self.columns) + column,
        }

    @property
    def _read_out(self) -> Html:
        row, column = self.at
        parts = [
            tag("li", f"{title} ", tag("b", text, attributes={"data-part": part}))
            for title, text, part in (
                (self.row_title, self.rows[row], "row"),
                (self.column_title, self.columns[column], "column"),
            )
        ]
        value = tag("b", self.values[row][column], attributes={"data-part": "cell"})
        return tag("ul", *parts, tag("li", value), class_="legend cells")
