# SPDX-License-Identifier: GPL-3.0-or-later
"""A clock that can be moved ahead, so that years pass in minutes, and that takes others along."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from acme_milter.clock import Clock


class VirtualClock(Clock):
    """The machine's clocks and a lead that only grows. Both move together: to what measures them, time has passed.

    Whoever asks for the time while it is moved waits until everybody has moved: a mail that the authority dates with
    its new time must not meet a gate that still has the old one.
    """

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._followers: list[Callable[[float], None]] = []
        self._lock = threading.Lock()

    def now(self) -> datetime:
        with self._lock:
            return super().now() + self._ahead

    def monotonic(self) -> float:
        with self._lock:
            return super().monotonic() + self._ahead.total_seconds()

    def follow(self, follower: Callable[[float], None]) -> None:
        """Tell `follower` the lead in seconds, now and whenever it grows, before anybody sees the new time."""
        with self._lock:
            follower(self._ahead.total_seconds())
            self._followers.append(follower)

    def advance(self, step: timedelta) -> None:
        """Let `step` pass. Raises ValueError for a step back, and what a follower raises; then nothing has moved."""
        if step < timedelta():
            raise ValueError("time does not go back")
        with self._lock:
            ahead = self._ahead + step
            for follower in self._followers:
                follower(ahead.total_seconds())
            self._ahead = ahead
