"""What each line of a text costs a model, so that models with other tokens can be paired.

No token of any tokenizer crosses the end of a line, so a line is the same text to all models.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from charlm.data.tokenizer import EOS, Ids, Tokenizer
from charlm.data.utf8 import LineEnds, split_lines, strip_line_end
from charlm.errors import CharlmError
from charlm.evaluation.static_model import Floats, Integers
from charlm.trained_model import TrainedModel

PIECE_CHARACTERS = 1000


def lines_to_score(text: str, line_ends: LineEnds, separator: str | None) -> list[str]:
    """Return the lines of a text; a last line of nothing but separators belongs to that before."""
    lines = split_lines(text, line_ends)
    if separator and len(lines) > 1 and not lines[-1].replace(separator, ""):
        lines[-2:] = ["".join(lines[-2:])]
    return lines


def line_ends_of_all(models: Sequence[TrainedModel]) -> LineEnds:
    """Return the rule by which all models end lines with <EOS>; tokens of others end at LF."""
    end_by_eos = all(model.reads_lines or model.tokenizer.separates_by_space for model in models)
    has_new_rules = all(model.config.corpus.rules > 1 for model in models)
    return "unicode" if end_by_eos and has_new_rules else "line_feed"


def separator_of_all(models: Sequence[TrainedModel]) -> str | None:
    """Return the separator between documents that all models read as <EOS>.

    None if they differ, or if it has a line end, by which texts are paired: all models then read
    separators as text.
    """
    separators = {
        model.config.corpus.separator
        if model.mode == "stream"
        and model.tokenizer.section.eos == "document"
        and not model.tokenizer.separates_by_space
        else None
        for model in models
    }
    separator = separators.pop()
    return None if separators or separator is None or "\n" in separator else separator


def nats_of_lines(
    ids: Ids, log_p: Floats, tokenizer: Tokenizer, lines: Sequence[str], *, records: bool
) -> Floats:
    """Return the nats that each line of a text costs a model, (lines,).

    Args:
        ids: The text, (tokens,).
        log_p: Natural logarithm of each token's probability, (tokens,).
        tokenizer: Tokenizer of the model.
        lines: Lines of the text.
        records: Whether the model reads lines as records, so that it does not see empty lines.

    Raises:
        CharlmError: The tokens have fewer lines than the text: no token is a line end.
    """
    ends_by_eos = records or tokenizer.separates_by_space
    is_end = ids == (EOS if ends_by_eos else _newline_id(tokenizer))
    token_lines = np.cumsum(is_end) - is_end
    if not ends_by_eos:  # An <EOS> after a line end belongs to that line.
        token_lines[1:] -= (ids[1:] == EOS) & is_end[:-1]
    read = lines_read(lines, records)
    num_token_lines = int(token_lines[-1]) + 1 if len(ids) else 0
    if num_token_lines != len(read):
        raise CharlmError(
            f"the text has {len(read):,} lines and the tokens of the model have "
            f"{num_token_lines:,}, so that they cannot be paired; give a text whose lines "
            "end with line feeds, and models whose tokenizers know the line feed"
        )
    nats = np.zeros(len(lines))
    np.add.at(nats, read[token_lines], -log_p)
    return nats


def lines_read(lines: Sequence[str], records: bool) -> Integers:
    """Return the number of each line that a model reads: in records mode, not of empty ones."""
    read = [
        number
        for number, line in enumerate(lines)
        if not records or strip_line_end(line, "unicode")
    ]
    return np.array(read, dtype=np.int64)


def _newline_id(tokenizer: Tokenizer) -> int:
    """Return the id of the line feed, -1 if there is none."""
    return tokenizer.token_bytes.index(b"\n") if b"\n" in tokenizer.token_bytes else -1


class Pieces(NamedTuple):
    """Pieces of whole lines.

    Attributes:
        nats: Nats that each piece costs each model, (models, pieces).
        characters: Number of characters of each piece, (pieces,).
    """

    nats: Floats
    characters: Floats


def cut_into_pieces(lines: Sequence[str], nats: Floats, characters: int) -> Pieces:
    """Cut a text into pieces.

    Args:
        lines: Lines of the text.
        nats: Nats that each line costs each model, (models, lines).
        characters: Least number of characters in a piece.
    """
    starts = np.flatnonzero(np.diff(piece_of_lines(lines, characters), prepend=-1))
    lengths = np.array([len(line) for line in lines], dtype=np.float64)
    return Pieces(np.add.reduceat(nats, starts, axis=1), np.add.reduceat(lengths, starts))


def piece_of_lines(lines: Sequence[str], characters: int = PIECE_CHARACTERS) -> Integers:
    """Return the piece of each line, (lines,): consecutive lines of at least `characters` together.

    Lines that are left over at the end belong to the last piece.

    >>> piece_of_lines(["ab", "cd", "ef", "gh", "i"], 4).tolist()
    [0, 0, 1, 1, 1]
    """
    pieces = []
    piece = size = 0
    for line in lines:
        pieces.append(piece)
        size += len(line)
        if size >= characters:
            piece += 1
            size = 0
    return np.minimum(np.array(pieces, dtype=np.int64), max(piece - 1, 0))
