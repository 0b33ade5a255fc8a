# SPDX-License-Identifier: GPL-3.0-or-later
"""The two clocks: what time it is, and how much time has passed (F-13). A rehearsal of years brings its own."""

import time
from datetime import UTC, datetime


class Clock:
    """The machine's clocks. The wall clock dates things and may jump; the monotonic one measures pauses."""

    def now(self) -> datetime:
        """Aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()


PLAUSIBLE_DRIFT = 60.0
"""Seconds by which the wall clock may differ from what has passed: the machine slept, or NTP stepped a little."""


class JumpWatch:
    """Tells whether the wall clock has jumped, forward or back, since it was last asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen = self._read()

    def jumped(self) -> bool:
        """True when wall time and passed time disagree by more than PLAUSIBLE_DRIFT since the last call."""
        before, passed_before = self._seen
        self._seen = now, passed = self._read()
        return abs((now - before).total_seconds() - (passed - passed_before)) > PLAUSIBLE_DRIFT

    def _read(self) -> tuple[datetime, float]:
        """Both clocks at one moment: a process that was stopped between the two readings has seen no jump."""
        while True:
            passed = self._clock.monotonic()
            now = self._clock.now()
            if self._clock.monotonic() - passed < 1.0:
                return now, passed
