"""Accuracy of the next character by the number of letters of the word that are known.

A number that any character model gives, and that people can judge: how often is the next letter
among the first 1, 2 or 3 guesses when 0, 1, 2, ... letters of the word have been read? (Compare the
second figure of Madsen 2019, doi:10.23915/distill.00016, where whole words are predicted.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from charlm.data.tokenizer import Ids
from charlm.errors import CharlmError
from charlm.evaluation.probes.passage import predict_passage
from charlm.evaluation.probes.reading import num_streams, read_beginning, texts_of
from charlm.evaluation.static_model import Floats, Integers
from charlm.storage.results import Result
from charlm.trained_model import TrainedModel, provenance

if TYPE_CHECKING:
    from charlm.data.cards import Part

TOKENS = 20_000
GUESSES = (1, 2, 3)
_MAX_KNOWN = 8  # Letters: rows with more would have few characters.
_CHUNK = 4096  # Tokens whose distributions are in memory together.


@dataclass(frozen=True)
class KnownLetters(Result):
    """Accuracy after a number of known letters.

    Attributes:
        known: Number of letters of the word that were read; the last row has at least this many.
        count: Number of predicted letters.
        accuracy: Fraction of letters among the first 1, 2 and 3 guesses, in this order.
    """

    known: int
    count: int
    accuracy: list[float]


@dataclass(frozen=True)
class LetterAccuracy(Result):
    """Accuracy of the next character.

    Attributes:
        accuracy: Fraction of all tokens that are the first guess.
        by_known: One row for each number of known letters.
        settings: Number of tokens, run, text, version and so on.
    """

    accuracy: float
    by_known: list[KnownLetters]
    settings: dict[str, Any]


def measure_known_letters(
    trained: TrainedModel,
    text: str | None = None,
    *,
    paths: str | Path | Sequence[str | Path] = (),
    split: "Part" = "valid",
    tokens: int = TOKENS,
) -> LetterAccuracy:
    """Measure how often a letter is among the first guesses, by the letters that are known.

    Args:
        trained: A model of characters that reads forward.
        text: String to read.
        paths: Files, folders or names of corpora to read, instead of `text`.
        split: Part of the run's own corpus to read, if neither of the two is given.
        tokens: Largest number of tokens to read.

    Raises:
        CharlmError: The text cannot be read or has no token, or the model has no characters or
            does not read forward.
    """
    require_characters(trained)
    ids, name, _ = read_beginning(trained, text, paths, split, tokens)
    characters = texts_of(ids, trained.tokenizer, records=trained.writes_records)
    log_p = predict_passage(trained.model, ids, mode=trained.mode, streams=num_streams(ids))
    ranks = rank_tokens(log_p, ids)
    return LetterAccuracy(
        accuracy=float((ranks == 1).mean()),
        by_known=_by_known(ranks, count_known_letters(characters)),
        settings=provenance(trained) | {"text": name, "tokens": len(ids), "precision": "fp32"},
    )


def require_characters(trained: TrainedModel) -> None:
    """Raise CharlmError unless a model reads characters or bytes forward."""
    level = trained.config.tokenizer.level
    if level not in ("char", "byte") or not trained.is_forward:
        raise CharlmError(
            f"{trained.folder}: known letters need a model that reads characters forward; this one "
            f"has level {level} and direction {trained.model.direction}"
        )


def rank_tokens(log_p: Floats, ids: Ids) -> Integers:
    """Return the rank of each token, 1 for the most probable one: (tokens, vocabulary) → (tokens,).

    Tokens of equal probability share the larger rank.
    """
    ranks = [
        (
            log_p[at : at + _CHUNK]
            >= np.take_along_axis(log_p[at : at + _CHUNK], ids[at : at + _CHUNK, None], axis=1)
        ).sum(axis=1)
        for at in range(0, len(ids), _CHUNK)
    ]
    return np.concatenate(ranks)


def count_known_letters(characters: Sequence[str]) -> Integers:
    """Return the number of letters before each letter in its word; -1 for other characters.

    Args:
        characters: Text that each token adds; "" for a byte that does not complete a character.

    >>> count_known_letters("it is").tolist()
    [0, 1, -1, 0, 1]
    """
    known = np.full(len(characters), -1, dtype=np.int64)
    before = 0
    for at, character in enumerate(characters):
        if character.isalpha():
            known[at] = before
            before += 1
        elif character:
            before = 0
    return known


def _by_known(ranks: Integers, known: Integers) -> list[KnownLetters]:
    rows = []
    for number in range(_MAX_KNOWN + 1):
        is_inside = known >= number if number == _MAX_KNOWN else known == number
        if count := int(is_inside.sum()):
            accuracy = [float((ranks[is_inside] <= guesses).mean()) for guesses in GUESSES]
            rows.append(KnownLetters(known=number, count=count, accuracy=accuracy))
    return rows
