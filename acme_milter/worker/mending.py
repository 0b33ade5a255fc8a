# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets right what was dated by a clock that was ahead: it would not be looked at before the clock is there again."""

import logging

from acme_milter.clock import Clock
from acme_milter.eventlog import Event, log_event
from acme_milter.store import enrollments, renewals
from acme_milter.store.database import Database
from acme_milter.worker.clock_watch import WRONG, ClockWatch
from acme_milter.worker.renewer import AT_ONCE


class Mending:
    """Once after each start, and after each jump of the clock, as soon as the authority has confirmed the time."""

    def __init__(self, database: Database, clock: Clock, watch: ClockWatch) -> None:
        self._database = database
        self._clock = clock
        self._watch = watch
        self._done: set[str] = set()

    def look(self, authority: str) -> None:
        """Raises what the store raises."""
        if not self._watch.is_confirmed(authority):
            self._done.discard(authority)
        elif authority not in self._done:
            mended = self._mend(authority)
            self._done.add(authority)
            if mended:
                log_event(Event.CLOCK_MENDED, level=logging.WARNING, authority=authority, count=mended)

    def _mend(self, authority: str) -> int:
        mended, found = 0, AT_ONCE
        while found == AT_ONCE:
            now = self._clock.now()
            with self._database.write() as connection:
                found = enrollments.call_back(connection, authority, now, now + WRONG, AT_ONCE)
                mended += found
        found = AT_ONCE
        while found == AT_ONCE:
            now = self._clock.now()
            with self._database.write() as connection:
                found = renewals.call_back(connection, authority, now, now + WRONG, AT_ONCE)
                mended += found
        return mended
