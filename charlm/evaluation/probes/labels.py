"""Labels of the characters of a text that a unit of a network may follow.

A label belongs to the position after its character: it describes what a model knows when it has
read the character. Karpathy et al. 2015 (arXiv:1506.02078) found units for several of them.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_CLOSING_QUOTE = {'"': '"', "\u201c": "\u201d", "\u201e": "\u201c", "\u00ab": "\u00bb"}
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """One label of all characters of a text.

    Attributes:
        name: Name of the label.
        values: Value at each character, (characters,).
        is_binary: Whether all values are 0 or 1.
    """

    name: str
    values: Values
    is_binary: bool


class _Place(NamedTuple):
    """What encloses the position after a character.

    Attributes:
        quote: Character that closes the quotation, or "" outside of quotations.
        depth: Number of open brackets.
        is_comment: Whether the position is in a comment that ends with its line.
    """

    quote: str = ""
    depth: int = 0
    is_comment: bool = False


def label_characters(text: str) -> list[Label]:
    r"""Return all labels of a text.

    Quotation marks and brackets that are still open at an empty line are closed there, so that one
    missing mark does not invert the labels of the rest of the text. A comment begins with `#` or
    `//` outside of quotation marks and ends with its line.

    >>> labels = {label.name: label.values for label in label_characters('a "b" (c)\n  d')}
    >>> labels["inside quotation marks"].tolist()
    [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    >>> labels["position in the line"].tolist()
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 0.0, 1.0, 2.0, 3.0]
    """
    places = list(_places(text))
    return [
        Label("inside quotation marks", _values(bool(place.quote) for place in places), True),
        Label("inside a comment", _values(place.is_comment for place in places), True),
        Label("capital letter", _values(map(str.isupper, text)), True),
        Label("digit", _values(map(str.isdigit, text)), True),
        Label("bracket depth", _values(place.depth for place in places), False),
        Label("position in the line", _values(_positions_in_lines(text)), False),
        Label("position in the word", _positions_in_words(text), False),
        Label("indentation", _values(_indentations(text)), False),
    ]


def _values(values: Iterable[float]) -> Values:
    return np.fromiter(values, dtype=np.float64)


def _places(text: str) -> Iterator[_Place]:
    place = _Place()
    before = ""
    for character in text:
        place = _after(place, before, character)
        yield place
        before = character


def _after(place: _Place, before: str, character: str) -> _Place:
    """Return the place after a character, given the character before it."""
    if character == "\n":
        return _Place() if before == "\n" else place._replace(is_comment=False)
    if place.is_comment:
        return place
    if place.quote:
        return place._replace(quote="") if character == place.quote else place
    if character in _CLOSING_QUOTE:
        return place._replace(quote=_CLOSING_QUOTE[character])
    if character == "#" or before + character == "//":
        return place._replace(is_comment=True)
    return place._replace(depth=max(0, place.depth + _BRACKETS.get(character, 0)))


def _positions_in_lines(text: str) -> Iterator[int]:
    """Yield the number of characters of the line that were read."""
    position = 0
    for character in text:
        position = 0 if character == "\n" else position + 1
        yield position


def _indentations(text: str) -> Iterator[int]:
    """Yield the number of spaces at the beginning of the line that were read; a tab is one."""
    indentation, is_inside = 0, True
    for character in text:
        if character == "\n":
            indentation, is_inside = 0, True
        elif is_inside and character in " \t":
            indentation += 1
        else:
            is_inside = False
        yield indentation


def _positions_in_words(text: str) -> Values:
    """Return the number of letters of the word that were read, 0 outside of words."""
    positions = np.zeros(len(text))
    for match in _WORD.finditer(text):
        positions[match.start() : match.end()] = np.arange(1, match.end() - match.start() + 1)
    return positions
