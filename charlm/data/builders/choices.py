"""What several builders use: random choices, checks of parameters, lists of words."""

import random
import sys
from collections.abc import Sequence
from typing import TypeVar

from charlm.errors import CorpusError

Item = TypeVar("Item")


class RandomChoices:
    """Random choices that are the same in every version of Python.

    They use only `random()`, because Python guarantees no other method.
    """

    def __init__(self, seed: int) -> None:
        """Begin with a seed."""
        self._generator = random.Random(seed)

    def below(self, bound: int) -> int:
        """Draw an integer from 0 to bound - 1."""
        return int(self._generator.random() * bound)

    def coin(self) -> bool:
        """Draw true or false with equal probability."""
        return self.below(2) == 1

    def one(self, items: Sequence[Item]) -> Item:
        """Draw an item."""
        return items[self.below(len(items))]

    def maybe(self, words: Sequence[str]) -> list[str]:
        """Draw one word with probability 1/4, otherwise none."""
        return [self.one(words)] if self.below(4) == 0 else []

    def distinct(self, items: Sequence[Item], count: int) -> list[Item]:
        """Draw items without replacement."""
        remaining = list(items)
        return [remaining.pop(self.below(len(remaining))) for _ in range(count)]


def check_range(name: str, value: int, least: int, most: int, *, builder: str) -> None:
    """Check a parameter of a corpus card.

    Args:
        name: Name of the parameter.
        value: Its value.
        least: Smallest allowed value.
        most: Largest allowed value; `sys.maxsize` if there is no limit.
        builder: Name of the builder, for the message.

    Raises:
        CorpusError: The value is not a whole number, or out of range.
    """
    # The values come from YAML, in which 40000 and "40000" are easily confused.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        bounds = f"at least {least}" if most == sys.maxsize else f"from {least} to {most}"
        raise CorpusError(
            f"{builder}: {name} must be a whole number {bounds}, got {value!r}; "
            "correct the card's parameters"
        )


def split_words(text: str) -> tuple[str, ...]:
    """Return the words of a text, which is the form in which a long list is easy to read."""
    return tuple(text.split())
