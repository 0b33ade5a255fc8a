# SPDX-License-Identifier: GPL-3.0-or-later
"""What time it is for the CA: the machine's time, moved by as much as a rehearsal of months and years asks for."""

from datetime import UTC, datetime, timedelta

_FARTHEST = timedelta(days=19 * 365)
"""The CA's own certificates count for twenty years, and what it issues must end before they do."""


class Clock:
    """Call it for the present, aware UTC. All that the CA dates goes by it; only its TLS certificate does not."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    @property
    def ahead(self) -> timedelta:
        """How far it is ahead of the machine's clock."""
        return self._ahead

    def set_ahead(self, seconds: object) -> None:
        """Be so many seconds ahead of the machine's clock; ValueError for what is no number from 0 to 19 years."""
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise ValueError("ahead_seconds is a number")  # noqa: TRY004 - one kind of refusal
        if not 0 <= seconds <= _FARTHEST.total_seconds():
            raise ValueError(f"ahead_seconds is 0 to {_FARTHEST.total_seconds():.0f}")
        self._ahead = timedelta(seconds=seconds)
