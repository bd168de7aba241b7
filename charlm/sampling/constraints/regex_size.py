"""The size of a regular expression, so that one that takes minutes to build is refused at once."""

import re

from charlm.errors import UnsupportedOptionError, quote

_MAX_ITEMS = 10_000  # The library's time grows with their square: (a{1000}){10} takes 4 seconds.
_PIECE = re.compile(
    r"""
    (?P<begin>\((?:\?[\w-]*:)?)                           # Of a group.
    | (?P<end>\))
    | \{(?P<least>\d{1,9})(?:,(?P<most>\d{1,9})?)?\}      # Counts in braces.
    | [?*+|]
    | (?P<item>                                           # A character or a class.
        \\[pPxuU]\{.*?\} | \\. | \[\^?\]?(?:\\.|[^]\\])*\] | .
      )
    """,
    re.DOTALL | re.VERBOSE,
)


def check_size(pattern: str) -> None:
    """Raise UnsupportedOptionError for an expression that is too large with its counts written out.

    This does not find every expression that takes minutes: (a|b)*a(a|b){30} is short, but has more
    than 2^30 states.
    """
    items = num_items(pattern)
    if items > _MAX_ITEMS:
        raise UnsupportedOptionError(
            "matching",
            f"{quote(pattern)} has {items:,} characters and classes if its counts are written "
            f"out, more than {_MAX_ITEMS:,}; use smaller counts in braces",
        )


def num_items(pattern: str) -> int:
    r"""Return the number of characters and classes of an expression with its counts written out.

    >>> num_items(r"(\w{3}[a-z]){2}")
    8
    """
    sizes = [0]  # Of the groups that have begun.
    last = 0
    for piece in _PIECE.finditer(pattern):
        if piece["begin"]:
            sizes.append(0)
        elif piece["end"] and len(sizes) > 1:
            last = sizes.pop()
            sizes[-1] += last
        elif piece["least"]:
            count = int(piece["most"] or piece["least"])
            sizes[-1] += last * (count - 1)
            last *= count
        elif piece["item"]:
            last = 1
            sizes[-1] += last
    return sum(sizes)
