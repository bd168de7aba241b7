"""Texts that a server can continue: positions under names that cannot be guessed."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from charlm.errors import UnsupportedOptionError
from charlm.sampling.saved_state import GenerationState

MAX_STATES = 1024
_MAX_SECONDS = 3600  # After its last use, a state expires.


class StateStore:
    """Texts that can be continued, in memory, each under a name that cannot be guessed.

    It holds a bounded number of states; the one that was used least recently is forgotten first,
    and a state that was not used for some time is forgotten too. Any thread may use it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin empty.

        Args:
            clock: Function that returns the time in seconds.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._states = OrderedDict[str, tuple[float, GenerationState]]()

    def __len__(self) -> int:
        """Return the number of states that have not expired."""
        with self._lock:
            self._expire()
            return len(self._states)

    def put(self, state: GenerationState) -> str:
        """Hold a state; return its name."""
        name = f"state-{secrets.token_urlsafe(24)}"
        with self._lock:
            self._states[name] = self._clock(), state
            self._expire()
        return name

    def get(self, name: str) -> GenerationState:
        """Return a state by its name.

        Raises:
            UnsupportedOptionError: There is no such state, or it has expired.
        """
        with self._lock:
            self._expire()
            if name not in self._states:
                raise UnsupportedOptionError(
                    "state", "is unknown or has expired; send the whole text as the prompt"
                )
            _, state = self._states.pop(name)
            self._states[name] = self._clock(), state
        return state

    def _expire(self) -> None:
        oldest = self._clock() - _MAX_SECONDS
        while self._states:
            name, (last_use, _) = next(iter(self._states.items()))
            if last_use >= oldest and len(self._states) <= MAX_STATES:
                return
            del self._states[name]
