"""`charlm predict`: labels of texts from standard input."""

import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.options import Device, Folder, NamedRun, Which, choose_run
from charlm.cli.terminal import emit, emit_json
from charlm.errors import CharlmError

if TYPE_CHECKING:  # It imports torch.
    from charlm.tasks.label_run import Predicted

_LINES_PER_BATCH = 64


def predict(
    run: Folder = None,
    named_run: NamedRun = None,
    which: Which = "best",
    device: Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each text, on one line.")
    ] = False,
) -> None:
    r"""Print the label of each line of stdin, or of each of its tokens.

    Task classify: the label, its probability, and each other label with its probability, most
    probable first, separated by tabs. Task tag: one label for each token, separated by spaces.

    Try: printf 'GREEK SMALL LETTER BETA\n' | charlm predict
    """
    from charlm.runs.files import RUNS
    from charlm.runs.folder import newest_run
    from charlm.tasks.label_run import load_labels

    loaded = load_labels(choose_run(run, named_run) or newest_run(RUNS), which, device)
    is_tag = loaded.config.task.kind == "tag"
    for texts in _batches():
        for predicted in loaded.predict(texts):
            if as_json:
                emit_json(predicted.to_json(), in_ascii=False)
            else:
                emit(_tags(predicted) if is_tag else _label(predicted))


def _batches() -> Iterator[list[str]]:
    """Yield the lines of standard input, some at a time."""
    lines = enumerate(sys.stdin.buffer, start=1)
    while batch := list(islice(lines, _LINES_PER_BATCH)):
        yield [_text(line, number) for number, line in batch]


def _text(line: bytes, number: int) -> str:
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CharlmError(
            f"stdin: line {number}: byte {error.start} is not UTF-8; convert the text to UTF-8"
        ) from None
    if not text.strip():
        raise CharlmError(f"stdin: line {number}: is empty and has no label; remove it")
    return text


def _label(predicted: "Predicted") -> str:
    (label,) = predicted.labels
    ranked = sorted(label.probabilities.items(), key=lambda pair: -pair[1])
    return "\t".join(cell for name, p in ranked for cell in (name, f"{p:.4f}"))


def _tags(predicted: "Predicted") -> str:
    return " ".join(label.label for label in predicted.labels)
