"""A line on stderr when reading or encoding a text takes more than a few seconds."""

import sys
import time

from charlm.cli.terminal import printable
from charlm.data.progress import ProgressListener

_PATIENCE_SECONDS = 3.0
_PAUSE_SECONDS = 30.0


class SlowActivity(ProgressListener):
    """Prints the progress of a slow activity after 3 seconds, and then every 30 seconds."""

    def __init__(self) -> None:
        """Begin without an activity."""
        self.begin("reading")

    def begin(self, activity: str) -> None:
        """Begin an activity; print nothing yet."""
        self._activity = activity
        self._num_bytes = 0
        self._says_at = time.monotonic() + _PATIENCE_SECONDS

    def advance(self, num_bytes: int) -> None:
        """Add bytes, and print a line if it is time."""
        self._num_bytes += num_bytes
        if time.monotonic() >= self._says_at:
            from tqdm import tqdm  # It takes time to import, and is needed for slow texts only.

            megabytes = self._num_bytes / 1e6
            line = f"{self._activity}: {megabytes:,.1f} MB so far"
            tqdm.write(printable(line), file=sys.stderr)  # Above a bar, if there is one.
            self._says_at = time.monotonic() + _PAUSE_SECONDS
