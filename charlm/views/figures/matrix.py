"""Charts of cells whose colours are steps of a scale."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from charlm.views.figures.drawing import NAME_WIDTH, TICK_WIDTH, WIDE, cut, drawing, drawn_twice
from charlm.views.html import Html, tag

_MIN_CELL, _MAX_CELL = 15.0, 44.0  # Height and width of a cell of a matrix in pixels.
_MAX_COLUMN_NAME = 14  # Characters of the name of a column.


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Values between 0 and 1 in rows and columns.

    Attributes:
        rows: Name of each row.
        columns: Name of each column.
        bins: Step of the scale of each cell, 0 to 7, by rows.
        texts: Text of each cell, which is written where all texts have enough space; None for no
            texts.
        row_title: What a row stands for.
        column_title: What a column stands for.
        diagonal: Number of cells of the diagonal that are outlined, from the first one.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    bins: Sequence[Sequence[int]]
    texts: Sequence[Sequence[str]] | None = None
    row_title: str
    column_title: str
    diagonal: int = 0


def matrix_chart(matrix: Matrix, *, width: int = WIDE) -> Html:
    """Return a chart of cells that are coloured by their steps, wide and narrow."""
    return drawn_twice(lambda width: _matrix_svg(matrix, width), width)


class _Grid(NamedTuple):
    """The cells of a drawn matrix.

    Attributes:
        left: Left edge in pixels.
        top: Upper edge.
        across: Width of a cell.
        down: Height of a cell.
    """

    left: float
    top: float
    across: float
    down: float

    def cell(self, row: int, column: int) -> str:
        """Return the outline of a cell as a part of a path."""
        x, y = self.left + column * self.across, self.top + row * self.down
        return f"M{x:.1f},{y:.1f}h{self.across:.1f}v{self.down:.1f}h{-self.across:.1f}z"


def _matrix_svg(matrix: Matrix, width: int) -> Html:
    longest = max(map(len, matrix.rows), default=1)
    left = min(0.34 * width, 12 + NAME_WIDTH * longest)
    across = min(_MAX_CELL, (width - left - 2) / max(1, len(matrix.columns)))
    grid = _Grid(left, 24, across, max(_MIN_CELL, min(across, 28.0)))
    bottom = grid.top + grid.down * len(matrix.rows)
    columns, depth = _column_names(matrix.columns, grid, bottom)
    right = left + across * len(matrix.columns)
    frame = f"M{left:.1f},{grid.top}H{right:.1f}V{bottom:.1f}H{left:.1f}z"
    outline = "".join(grid.cell(at, at) for at in range(matrix.diagonal))
    height = round(bottom + depth + 20)
    end = max(right, min(width, NAME_WIDTH * len(matrix.column_title)))
    return drawing(
        tag("text", matrix.row_title, class_="at", x=0, y=12),
        *_filled_cells(matrix.bins, grid),
        tag("path", class_="frame", d=frame),
        tag("path", class_="diag", d=outline) if outline else None,
        *_cell_texts(matrix.texts, grid),
        *_row_names(matrix.rows, grid),
        *columns,
        tag(
            "text",
            matrix.column_title,
            class_="at",
            x=f"{end:.1f}",
            y=height - 4,
            text_anchor="end",
        ),
        tag("g", class_="hv"),
        style="chart matrix",
        label=f"{matrix.row_title} by {matrix.column_title}",
        width=width,
        height=height,
        attributes={"data-grid": " ".join(f"{value:.2f}" for value in grid)},
    )


def _filled_cells(bins: Sequence[Sequence[int]], grid: _Grid) -> list[Html]:
    """Return one path for each step of the scale that has a colour."""
    paths: dict[int, list[str]] = {}
    for row, steps in enumerate(bins):
        for column, step in enumerate(steps):
            if step:
                paths.setdefault(step, []).append(grid.cell(row, column))
    return [
        tag("path", class_=f"c{step}", d="".join(cells)) for step, cells in sorted(paths.items())
    ]


def _cell_texts(texts: Sequence[Sequence[str]] | None, grid: _Grid) -> list[Html]:
    longest = max((len(text) for row in texts or () for text in row), default=0)
    if texts is None or TICK_WIDTH * longest + 2 > grid.across:
        return []
    return [
        tag(
            "text",
            text,
            class_="ct",
            x=f"{grid.left + (column + 0.5) * grid.across:.1f}",
            y=f"{grid.top + (row + 0.5) * grid.down + 4:.1f}",
            text_anchor="middle",
        )
        for row, line in enumerate(texts)
        for column, text in enumerate(line)
        if text
    ]


def _row_names(rows: Sequence[str], grid: _Grid) -> list[Html]:
    most = int((grid.left - 10) / NAME_WIDTH + 0.01)
    return [
        tag(
            "text",
            cut(name, most),
            class_="tk mono",
            x=f"{grid.left - 6:.1f}",
            y=f"{grid.top + (row + 0.5) * grid.down + 4:.1f}",
            text_anchor="end",
        )
        for row, name in enumerate(rows)
    ]


def _column_names(columns: Sequence[str], grid: _Grid, bottom: float) -> tuple[list[Html], float]:
    """Return the names below the columns, upright if all are short, and the height they need."""
    longest = max(map(len, columns), default=1)
    is_upright = NAME_WIDTH * longest <= grid.across
    most = longest if is_upright else min(longest, _MAX_COLUMN_NAME)
    names = []
    for column, name in enumerate(columns):
        x, y = grid.left + (column + 0.5) * grid.across, bottom + (15 if is_upright else 6)
        turned = None if is_upright else f"rotate(-90 {x + 4:.1f} {y:.1f})"
        names.append(
            tag(
                "text",
                cut(name, most),
                class_="tk mono",
                x=f"{x if is_upright else x + 4:.1f}",
                y=f"{y:.1f}",
                text_anchor="middle" if is_upright else "end",
                transform=turned,
            )
        )
    return names, 20 if is_upright else 12 + NAME_WIDTH * most
