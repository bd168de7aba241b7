"""Which options of `charlm sample` cannot be combined.

`charlm.sampling.options` refuses the other conflicts, those between its own options.
"""

from charlm.cli.arguments import given_options
from charlm.cli.sample_options import FILTERS, SampleArguments
from charlm.errors import OptionError, refuse_beside

_NO_SOURCE = (
    *(*FILTERS, "ban", "max_copy", "matching", "novel", "prompt", "characters", "until"),
    *("count", "best_of", "seed", "length_penalty", "state_in", "state_out", "fill"),
    *("interactive", "url", "api_key_file", "next_tokens", "prompt_file", "int8"),
)
# What each option excludes. The first conflict in the order of this table is reported.
_EXCLUDED = {
    "prompt_file": ("prompt", "fill"),
    "source": (*_NO_SOURCE, "source_file"),
    "source_file": _NO_SOURCE,
    "interactive": (
        *("best_of", "novel", "max_copy", "matching", "prompt", "state_in", "state_out"),
        *("beams", "count", "fill", "next_tokens", "as_json", "prompt_file"),
    ),
    "next_tokens": ("fill", "raw"),
    # A server writes new texts only, on a device of its own.
    "url": (
        *("fill", "beams", "next_tokens", "interactive", "novel", "state_in", "state_out"),
        *("int8", "device", "which"),
    ),
}


def check_conflicts(arguments: SampleArguments) -> None:
    """Refuse options beside one that excludes them, and the key of a server without --url."""
    given = given_options(arguments)
    if arguments.interactive and arguments.count == 1:
        del given["count"]  # --count 1 changes nothing.
    for option, others in _EXCLUDED.items():
        if option in given:
            refuse_beside(option, **{other: given.get(other) for other in others})
    if arguments.api_key_file is not None and arguments.url is None:
        raise OptionError("api_key_file", "has no effect without {}", others=["url"])
