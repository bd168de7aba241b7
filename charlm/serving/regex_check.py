"""Regular expressions of clients: refused if their automaton is too large to build in the server.

A short expression can have an automaton of 2^200 states, and the library that builds it has no
limit. So it is tried in a process of its own first, with limits on its time and memory.
"""

import subprocess
import sys
from functools import lru_cache

from charlm.errors import OptionError

_SECONDS = 2
_MEGABYTES = 512
_MAX_STATES = 20_000
_TRY = f"""
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({_MEGABYTES} << 20, {_MEGABYTES} << 20))
    resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
except ImportError:  # Windows has no such limits; the time is limited by the server.
    pass
try:
    from outlines_core import Index, Vocabulary
    vocabulary = Vocabulary(256, {{bytes([byte]): [byte] for byte in range(256)}})
    index = Index(sys.stdin.buffer.read().decode(), vocabulary)
except (ImportError, ValueError):
    sys.exit(0)  # The server finds the same, and says it in its words.
sys.exit(len(index.get_transitions()) > {_MAX_STATES})
"""


def check_regex(pattern: str) -> None:
    """Raise OptionError for an expression whose automaton is too large."""
    if not _is_small(pattern):
        raise OptionError("matching", "has too many states; use smaller counts in braces")


@lru_cache(maxsize=1024)
def _is_small(pattern: str) -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _TRY],
            input=pattern.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=5 * _SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
