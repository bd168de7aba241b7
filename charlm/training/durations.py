"""Durations of repeated work, without the time in which the process was suspended."""

# A duration is a gap if it is longer than a second and than 20 times the mean before it.
_MIN_GAP_SECONDS = 1.0
_MIN_GAP_FACTOR = 20
_NUM_USUAL = 3  # Number of durations from which the mean is known.


class Durations:
    """Counts durations, such as those of training steps.

    A process can be suspended, by Ctrl-Z or with a laptop that sleeps, and the clock may go on. A
    gap far beyond the mean duration counts as the mean. Of two such gaps in a row the second one
    counts in full: then the work itself has become slow.
    """

    def __init__(self, *, factor: float = 1.0) -> None:
        """Start without durations.

        Args:
            factor: Number of usual durations that one may take without being unusual, such as the
                number of steps between two times that the processor waits for a GPU.
        """
        self._factor = factor
        self._count = 0
        self._sum = 0.0
        self._is_after_gap = False

    def counted(self, seconds: float) -> float:
        """Return the part of a duration that counts."""
        mean = self._sum / max(self._count, 1)
        limit = max(_MIN_GAP_SECONDS, _MIN_GAP_FACTOR * self._factor * mean)
        is_gap = self._count >= _NUM_USUAL and seconds > limit and not self._is_after_gap
        self._is_after_gap = is_gap
        if is_gap:
            return mean
        self._count += 1
        self._sum += seconds
        return seconds
