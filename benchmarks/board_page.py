"""Write the tables and plots of docs/board.md from the files docs/board/*.json.

The tables stand between two markers. A test compares them with the files: run this program again
(`make docs`) after a file was added or changed. It measures nothing.

    python benchmarks/board_page.py
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

from board_format import Board, Row, read_board
from measuring import argument_parser, format_losses, markdown_table, run_main

from charlm.views.figures.axes import Axis
from charlm.views.figures.drawing import run_style
from charlm.views.figures.lines import Line, line_chart
from charlm.views.style import report_style

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FOLDER = DOCS / "board.md", DOCS / "board"
BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"
NO_FILE = "No file has been submitted yet.\n"
COLUMNS = (
    "contestant",
    "minutes",
    "seeds",
    "nats per character",
    "steps",
    "parameters",
    "settings",
)


def main() -> None:
    """Write the plots, and the page if its tables have changed."""
    argument_parser(__doc__).parse_args()
    for path in board_files():
        path.with_suffix(".svg").write_text(draw(read_board(path)), encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page_with(tables(), page), encoding="utf-8")


def board_files(folder: Path = FOLDER) -> list[Path]:
    """Return the files of the board by name."""
    return sorted(folder.glob("*.json"))


def page_with(content: str, page: str) -> str:
    """Return the page with other tables between the markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def tables(folder: Path = FOLDER) -> str:
    """Return a section for each file."""
    sections = [section(path) for path in board_files(folder)]
    return "\n".join(sections) or NO_FILE


def section(path: Path) -> str:
    """Return the section of one file: machine, speed, plot and table."""
    board = read_board(path)
    machine, text = board.machine, board.text
    lines = [
        f"### {path.stem}",
        "",
        f"{text.name}: {text.training_characters:,} characters for training, "
        f"{text.held_out_characters:,} held out.",
        f"Machine: {machine.processor}, {machine.threads} threads of {machine.cores} cores; Python "
        f"{machine.python}, torch {machine.torch}.",
        speed_line(board),
        "",
        f"![Nats per character over the minutes of training](board/{path.stem}.svg)",
        "",
    ]
    return "\n".join(lines) + "\n" + summary_table(board)


def speed_line(board: Board) -> str:
    """Return the range of the speeds before and after the trainings, and how often one changed."""
    speeds = [speed for row in board.rows for speed in (row.speed_before, row.speed_after)]
    names = {"product_fp32": "product in fp32", "product_bf16": "in bf16", "lstm": "LSTM step"}
    ranges = []
    for field, name in names.items():
        values = [getattr(speed, field) for speed in speeds]
        if values:
            ranges.append(f"{name} {min(values):,.0f} to {max(values):,.0f}")
    if not ranges:
        return "Speed in GFLOP/s: not measured."
    changed = sum(bool(row.changed_speeds) for row in board.rows)
    return (
        f"Speed in GFLOP/s: {', '.join(ranges)}.\n"
        f"A speed changed by more than a tenth during {changed} of {len(board.rows)} trainings."
    )


def summary_table(board: Board) -> str:
    """Return the table of a board: one line per contestant and time, the best first."""
    return markdown_table(COLUMNS, summary_rows(board)) + "\n"


def summary_rows(board: Board) -> Iterator[list[str]]:
    """Yield the cells of each line of the table."""
    for minutes in sorted({row.minutes for row in board.rows}):
        groups = groups_of(board, minutes)
        for name in sorted(groups, key=lambda name: median_loss(groups[name])):
            rows = groups[name]
            source = f" ({rows[0].source})" if rows[0].source else ""
            middle = min(rows, key=lambda row: abs(row.loss_nats - median_loss(rows)))
            yield [
                f"{name}{source}",
                f"{minutes:g}",
                str(len(rows)),
                format_losses([row.loss_nats for row in rows]),
                f"{middle.steps:,}",
                f"{middle.parameters:,}",
                middle.settings,
            ]


def groups_of(board: Board, minutes: float) -> dict[str, list[Row]]:
    """Return the rows with one training time by contestant."""
    groups: dict[str, list[Row]] = {}
    for row in board.rows:
        if row.minutes == minutes:
            groups.setdefault(row.contestant, []).append(row)
    return groups


def median_loss(rows: list[Row]) -> float:
    """Return the median loss of several seeds."""
    return statistics.median(row.loss_nats for row in rows)


def draw(board: Board) -> str:
    """Return the plot of a board as an SVG file: the median loss over the minutes."""
    names = list(dict.fromkeys(row.contestant for row in board.rows))
    lines = [
        Line(name=name, style=run_style(number), marker=number, **curve(board, name))
        for number, name in enumerate(names)
    ]
    minutes = Axis(title="Minutes of training", is_log=True)
    chart = line_chart(lines, minutes, Axis(title="Nats per character, held-out text"))
    wide = chart[chart.index("<svg ") + len("<svg ") : chart.index("</svg>")]
    attributes, _, drawing = wide.partition(">")
    namespace = 'xmlns="http://www.w3.org/2000/svg"'
    return f"<svg {namespace} {attributes}>{style()}{drawing}</svg>\n"


def curve(board: Board, name: str) -> dict[str, list[float]]:
    """Return the training times of a contestant, and its median losses."""
    times = sorted({row.minutes for row in board.rows if row.contestant == name})
    return {"x": times, "y": [median_loss(groups_of(board, time)[name]) for time in times]}


def style() -> str:
    """Return the style element of an SVG that stands alone: those of a report."""
    return f"<style><![CDATA[{report_style()}svg {{ background: var(--bg); }}]]></style>"


if __name__ == "__main__":
    run_main(main)
