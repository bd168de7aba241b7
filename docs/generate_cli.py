"""Write docs/cli.md from the commands' own --help. A test holds the two together.

Usage: python docs/generate_cli.py
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer  # noqa: TID251 - it walks the command tree

from charlm.cli.main import app, run

HEADER = """# The command line

Made by `make docs` from what `--help` prints; a test fails where they differ. Results go to stdout, everything else to
stderr. Exit status: 0 done, 1 a mistake in what was given (one line says where, what, and what to do), 2 wrong usage,
130 a second Ctrl-C.
"""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every command below `group`, itself first."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def reference() -> str:
    """Return the whole page."""
    os.environ["COLUMNS"] = "100"
    sections = [HEADER]
    for path in commands(typer.main.get_command(app)):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            run([*path, "--help"])
        text = "\n".join(line.rstrip() for line in output.getvalue().strip().splitlines())
        sections.append(f"## {' '.join(('charlm', *path))}\n\n```\n{text}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference(), encoding="utf-8")
