"""`charlm predict`: labels of texts from standard input."""

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.cli.loading import existing_run
from charlm.cli.options import Device, Folder, NamedRun, Which, choose_run
from charlm.cli.terminal import emit, emit_json, say
from charlm.errors import CharlmError, quote

if TYPE_CHECKING:  # It imports torch.
    from charlm.tasks.label_run import Predicted

_LINES_PER_BATCH = 64
_MAX_LISTED = 10  # Unknown characters or words in a message.


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
    Characters or words that the model does not know are counted on stderr at the end.

    Try: printf 'GREEK SMALL LETTER BETA\n' | charlm predict
    """
    folder = existing_run(choose_run(run, named_run))
    from charlm.api import load_labels

    loaded = load_labels(folder, which, device)
    is_tag = loaded.config.task.kind == "tag"
    unknown: Counter[str] = Counter()
    num_texts = 0
    for texts in _batches():
        for text in texts:
            found = loaded.tokenizer.count_unknown(text)
            unknown += found
            num_texts += bool(found)
        for predicted in loaded.predict(texts):
            if as_json:
                emit_json(predicted.to_json(), in_ascii=False)
            else:
                emit(_tags(predicted) if is_tag else _label(predicted))
    if unknown:
        say(describe_unknown(unknown, num_texts, loaded.tokenizer.section.level))


def describe_unknown(unknown: Counter[str], num_texts: int, level: str) -> str:
    """Return a line about what was read as <UNK>, the most frequent first."""
    total = unknown.total()
    kind = "word" if level == "word" else "character"
    listed = ", ".join(
        f"{quote(text)} {count:,}" for text, count in unknown.most_common(_MAX_LISTED)
    )
    more = ", ..." if len(unknown) > _MAX_LISTED else ""
    return (
        f"{total:,} unknown {kind}{'s' * (total > 1)} in {num_texts:,} "
        f"text{'s' * (num_texts > 1)}, read as <UNK>: {listed}{more}"
    )


def _batches() -> Iterator[list[str]]:
    """Yield the lines of standard input, some at a time."""
    lines = enumerate(sys.stdin.buffer, start=1)
    while batch := list(islice(lines, _LINES_PER_BATCH)):
        yield [_text(line, number) for number, line in batch]


def _text(line: bytes, number: int) -> str:
    from charlm.evaluation.text_files import decode_utf8

    text = decode_utf8(line, f"stdin: line {number}").rstrip("\r\n")
    if not text.strip():
        raise CharlmError(f"stdin: line {number}: the line is empty and has no label; remove it")
    return text


def _label(predicted: "Predicted") -> str:
    (label,) = predicted.labels
    ranked = sorted(label.probabilities.items(), key=lambda pair: -pair[1])
    return "\t".join(cell for name, p in ranked for cell in (name, f"{p:.4f}"))


def _tags(predicted: "Predicted") -> str:
    return " ".join(label.label for label in predicted.labels)
