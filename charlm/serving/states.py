"""Texts that a server can continue: positions under names that cannot be guessed."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from charlm.errors import UnsupportedOptionError
from charlm.sampling.saved_state import GenerationState


class StateStore:
    """Texts that can be continued, in memory, each under a name that cannot be guessed.

    It holds a bounded number of states; the one that was used least recently is forgotten first,
    and a state that was not used for some time is forgotten too. Any thread may use it.
    """

    def __init__(
        self,
        *,
        max_states: int = 1024,
        max_seconds: float = 3600,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin empty.

        Args:
            max_states: Number of states to hold.
            max_seconds: Seconds after the last use at which a state expires.
            clock: Function that returns the time in seconds.
        """
        self._max_states = max_states
        self._max_seconds = max_seconds
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
        oldest = self._clock() - self._max_seconds
        while self._states:
            name, (last_use, _) = next(iter(self._states.items()))
            if last_use >= oldest and len(self._states) <= self._max_states:
                return
            del self._states[name]
