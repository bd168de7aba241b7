"""The figures of a sample and of held-out text, and their table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from charlm.errors import quote
from charlm.storage.results import Result
from charlm.storage.tables import format_settings

_SHOWN_CHARACTERS = 72  # The end of a longer copy is not shown.
_CLEAR_DIFFERENCE = 0.05  # A smaller difference of two fractions of new texts means little.
_COUNT, _FRACTION = ",", ".2%"


@dataclass(frozen=True)
class Copy(Result):
    """A passage of a sample that is in the training text, character by character.

    Attributes:
        characters: Length of the passage.
        text: The passage.
        sample: Number of the record or text that has it, from 0.
        sample_character: Position of its first character there, from 0.
        training_character: Position of its first occurrence in the training text, from 0.
        training_line: Line of that occurrence, from 1.
    """

    characters: int
    text: str
    sample: int
    sample_character: int
    training_character: int
    training_line: int


@dataclass(frozen=True)
class Side(Result):
    """Figures of the sample, or of the held-out text beside it.

    Attributes:
        texts: Number of records, or of long texts, that are not empty.
        characters: Number of characters in them.
        pieces: Number of records, or of sentences of long texts. A sentence ends at a mark or at
            the end of a line.
        novel_share: Fraction of the pieces that are not in the training text: as a whole record,
            or anywhere in a long text. None without pieces.
        distinct_share: Fraction of the pieces that do not repeat an earlier piece.
        longest_copy: Longest passage of one text that is in the training text, or None.
        overlap: For n = 1 to 16, fraction of the n-grams that are in the training text, counted at
            every position, never across two texts. None where there are no n-grams.
        repeated_share: Fraction of the n-grams that repeat an earlier one, in the same text or one
            before it, over as many units as both sides have.
    """

    texts: int
    characters: int
    pieces: int
    novel_share: float | None
    distinct_share: float | None
    longest_copy: Copy | None
    overlap: list[float | None]
    repeated_share: float | None

    @property
    def copied_characters(self) -> int:
        """Length of the longest copy."""
        return self.longest_copy.characters if self.longest_copy else 0


@dataclass(frozen=True)
class Novelty(Result):
    """Novelty of a sample, beside that of held-out text of the same kind.

    Attributes:
        sample: Figures of the text that a model wrote.
        held_out: Figures of text that the model was not trained on, about as much as the sample;
            None if there is none.
        settings: Unit of the n-grams, origin of the sample, run and so on.
    """

    sample: Side
    held_out: Side | None
    settings: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """Yield the finding, rows for both sides, the longest copy and the settings."""
        sides = [side for side in (self.sample, self.held_out) if side is not None]
        settings = self.settings
        unit = settings["ngrams_of"]
        repeated = f"{settings['repeated_ngram']}-grams of {unit} written before"
        yield _finding(self)
        yield _aligned("", ["sample", "held out"])
        yield _row("characters", [side.characters for side in sides], _COUNT)
        yield _row(settings["pieces"], [side.pieces for side in sides], _COUNT)
        yield _row("  not in the training text", [side.novel_share for side in sides])
        yield _row("  not like one before", [side.distinct_share for side in sides])
        yield _row("longest copy, characters", [side.copied_characters for side in sides], _COUNT)
        yield f"in the training text, of {unit}"
        overlaps = zip(*(side.overlap for side in sides), strict=True)
        for length, fractions in enumerate(overlaps, start=1):
            yield _row(f"  {length}-grams", fractions)
        yield _row(repeated, [side.repeated_share for side in sides])
        if copy := self.sample.longest_copy:
            is_long = len(copy.text) > _SHOWN_CHARACTERS
            text = f"{copy.text[:_SHOWN_CHARACTERS]}..." if is_long else copy.text
            place = f"character {copy.training_character:,} (line {copy.training_line:,})"
            yield f"the longest copy is {quote(text)}, from {place} of the training text"
        yield format_settings(settings)


def _finding(result: Novelty) -> str:
    """Return in one sentence how much of the sample is copied."""
    sample, held_out = result.sample, result.held_out
    novel = _format(sample.novel_share, ".1%")
    found = (
        f"{novel} of its {result.settings['pieces']} are new, and its longest copy has "
        f"{sample.copied_characters:,} characters"
    )
    if held_out is None:
        return f"In the sample, {found}; there is no held-out text to compare it with."
    is_copied = _has_clearly_fewer_new_pieces(sample, held_out)
    has_long_copy = sample.copied_characters > 2 * held_out.copied_characters
    more = "has clearly more" if is_copied or has_long_copy else "does not have clearly more"
    return (
        f"The sample {more} in common with the training text than held-out text: {found} (held "
        f"out: {_format(held_out.novel_share, '.1%')} and {held_out.copied_characters:,})."
    )


def _has_clearly_fewer_new_pieces(sample: Side, held_out: Side) -> bool:
    """Return whether two fractions differ by more than 5 % and two standard errors."""
    shares = [(side.novel_share or 0.0, max(side.pieces, 1)) for side in (sample, held_out)]
    mean = sum(share * count for share, count in shares) / sum(count for _, count in shares)
    error = math.sqrt(mean * (1 - mean) * sum(1 / count for _, count in shares))
    return shares[1][0] - shares[0][0] > max(_CLEAR_DIFFERENCE, 2 * error)


def _format(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


def _row(label: str, figures: Sequence[float | None], style: str = _FRACTION) -> str:
    """Return a row with a figure of each side; a dash for a side that does not exist."""
    missing = [None] * (2 - len(figures))
    return _aligned(label, [_format(figure, style) for figure in (*figures, *missing)])


def _aligned(label: str, cells: Sequence[str]) -> str:
    return f"{label:<36}" + "".join(f"{cell:>12}" for cell in cells)
