"""Progress of long work: when to tell how far it is, and how long the rest will take."""

from __future__ import annotations

import time

LOG_PERIOD = 5.0  # s


class ProgressLog:
    """
    When to log a line on the progress of a work that begins now, and its time left.

    Args:
        period: s from the beginning to the first line, and between lines.
    """

    def __init__(self, period: float = LOG_PERIOD) -> None:
        self._period = period
        self._start = self._logged = time.monotonic()

    def is_due(self) -> bool:
        """True if it is time for a line; having said so, not again before a period has passed."""
        now = time.monotonic()
        if now - self._logged < self._period:
            return False
        self._logged = now
        return True

    def time_left(self, done: float, left: float) -> str | None:
        """
        The time that the rest takes at the pace so far; None, and the pace counts from now, if
        nothing is done yet: what a work needs to get going says nothing of the rest.

        Args:
            done, left: the work done since the beginning and the work left, in one unit.
        """
        if not done:
            self._start = time.monotonic()
            return None
        return clock((time.monotonic() - self._start) * left / done)


def clock(seconds: float) -> str:
    """Hours, however many, minutes and seconds: 26:03:09."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
