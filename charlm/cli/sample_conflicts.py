"""Which options of `charlm sample` cannot be used together.

`charlm.sampling.options` refuses the other conflicts, those between its own options.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from charlm.cli.arguments import given_options
from charlm.cli.sample_options import FILTERS, SampleArguments
from charlm.errors import OptionError

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
    "next_tokens": ("fill",),
}
# A server writes new texts only, on a device of its own.
_NOT_ON_A_SERVER = (
    *("fill", "beams", "next_tokens", "interactive", "novel", "state_in", "state_out"),
    *("int8", "device", "which"),
)
# Values of an excluded option that change nothing.
_HARMLESS = [("interactive", "count", 1)]


def check_task(arguments: SampleArguments) -> None:
    """Refuse options that the task, such as --source or --interactive, has no use for."""
    given = given_options(arguments)
    for option, others in _EXCLUDED.items():
        if option in given:
            _refuse_beside(option, others, given)


def check_server(arguments: SampleArguments) -> None:
    """Refuse options that a server cannot serve, and the key of a server without --url."""
    if arguments.url is not None:
        _refuse_beside("url", _NOT_ON_A_SERVER, given_options(arguments))
    elif arguments.api_key_file is not None:
        raise OptionError("api_key_file", "has no effect without {}", others=["url"])


def _refuse_beside(option: str, others: Sequence[str], given: Mapping[str, Any]) -> None:
    for other in others:
        if other in given and (option, other, given[other]) not in _HARMLESS:
            raise OptionError(other, "cannot be used with {}; leave one out", others=[option])
