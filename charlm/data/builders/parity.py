"""Strings of bits with their parity."""

import sys
from collections.abc import Iterator

from charlm.data.builders.choices import RandomChoices, check_range

_MAX_BITS = 4096


def parity(*, strings: int = 20_000, seed: int = 1, longest: int = 16) -> Iterator[str]:
    """Generate strings of bits with their parity, as in "0110=0".

    Args:
        strings: Number of strings; short ones occur several times.
        seed: Seed of the random choices.
        longest: Largest number of bits; every number from 1 is as frequent.

    Raises:
        CorpusError: A parameter is out of range.
    """
    for name, value, least, most in (
        ("strings", strings, 1, sys.maxsize),
        ("seed", seed, 0, sys.maxsize),
        ("longest", longest, 1, _MAX_BITS),
    ):
        check_range(name, value, least, most, builder="parity")
    choices = RandomChoices(seed)
    lengths = (1 + choices.below(longest) for _ in range(strings))
    return (with_parity("".join(choices.one("01") for _ in range(bits))) for bits in lengths)


def with_parity(bits: str) -> str:
    """Return digits 0 and 1 with the parity of the ones.

    >>> with_parity("0110")
    '0110=0'
    """
    return f"{bits}={bits.count('1') % 2}"
