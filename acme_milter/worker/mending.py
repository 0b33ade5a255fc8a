# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets right what was dated by a clock that was ahead: it would not be looked at before the clock is there again."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.enrollment.backoff import STEP_LONGEST
from acme_milter.eventlog import Event, log_event
from acme_milter.store import dated_ahead, enrollments, renewals
from acme_milter.store.database import Database
from acme_milter.worker.clock_watch import WRONG, ClockWatch
from acme_milter.worker.renewer import AT_ONCE
from acme_milter.worker.revoker import DAILY

CallBack = Callable[[sa.Connection, str, datetime, datetime, int], int]
"""Has what is dated later than the second instant be due at the first; returns how many, and no more than so many."""

LONGEST: Mapping[CallBack, timedelta] = {
    enrollments.call_back: timedelta(0),
    renewals.call_back: timedelta(0),
    dated_ahead.exchanges: STEP_LONGEST,
    dated_ahead.deliveries: STEP_LONGEST,
    dated_ahead.revocations: DAILY,
}
"""How far from now a clock that is right would have dated them."""


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
        return sum(self._call_back(kind, authority, wait) for kind, wait in LONGEST.items())

    def _call_back(self, kind: CallBack, authority: str, longest: timedelta) -> int:
        mended, found = 0, AT_ONCE
        while found == AT_ONCE:
            now = self._clock.now()
            with self._database.write() as connection:
                found = kind(connection, authority, now, now + longest + WRONG, AT_ONCE)
                mended += found
        return mended
