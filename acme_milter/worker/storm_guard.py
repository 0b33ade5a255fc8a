# SPDX-License-Identifier: GPL-3.0-or-later
"""The storm guard (F-33): when far more renewals are due than time can explain, it stops them and asks."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.enrollment.renewal import storm_threshold
from acme_milter.eventlog import Event, log_event
from acme_milter.report.forecast import Forecast
from acme_milter.store import audit, holds, renewals
from acme_milter.store.database import Database
from acme_milter.worker.clock_watch import ClockWatch

LONGEST_ABSENCE = timedelta(days=3)
"""For so long a worker may have been away without a question: a weekend and a bit."""

HOUR = timedelta(hours=1)


class StormGuard:
    """Stops renewals only: what people ask for, and bulk runs, go on.

    Make it before anything else works on the store: it remembers when the last sign of life in it was.
    """

    def __init__(
        self, *, clock: Clock, database: Database, watch: ClockWatch, forecast: Forecast, sift: Callable[[str], None]
    ) -> None:
        """``sift``: put off what is due with an authority and would not be opened anyway."""
        self._sift = sift
        self._clock = clock
        self._database = database
        self._watch = watch
        self._forecast = forecast
        self._seen: dict[str, tuple[datetime, float]] = {}  # when we last looked, by both clocks
        self._told: set[str] = set()
        with database.read() as connection:
            self._last_sign = audit.latest(connection)

    def lets_pass(self, authority: str) -> bool:
        """Whether renewals may be opened with the authority now. What is stopped once stays so until released."""
        now, passed = self._clock.now(), self._clock.monotonic()
        jumped = self._watch.has_jumped(authority)
        with self._database.read() as connection:
            found = self._storm(connection, authority, now, passed)
        if found is not None and not jumped:
            # A domain that is only observed falls due again and again; after a day's absence all of it at once.
            self._sift(authority)
        with self._database.read() as connection:
            found = found and self._storm(connection, authority, now, passed)
            stopped = holds.get(connection, _name(authority))
        if stopped is not None and stopped.reason == _JUMPED and not jumped and found is None:
            with self._database.write() as connection:
                holds.clear(connection, _name(authority))
            stopped = None
        if jumped:
            found = _JUMPED, 0 if found is None else found[1]
        if found is None and stopped is not None:
            found = stopped.reason, stopped.size
        if found is None:
            self._seen[authority] = now, passed
            return True
        with self._database.write() as connection:
            released = holds.ask(connection, _name(authority), found[0], now, found[1])
        if released:
            if jumped:
                # An authority that sends no Date will never confirm it, and a person is not to be asked each minute.
                self._watch.believe(authority)
            self._seen[authority] = now, passed
            self._told.discard(authority)
        elif authority not in self._told:
            self._told.add(authority)
            log_event(Event.HOLD_ASKED, level=logging.ERROR, hold=_name(authority), reason=found[0])
        return released

    def _storm(self, connection: sa.Connection, authority: str, now: datetime, passed: float) -> tuple[str, int] | None:
        """What is wrong, in words, and how many certificates it is about."""
        if authority in self._seen:
            since, passed_then = self._seen[authority]
            elapsed = timedelta(seconds=passed - passed_then)
        else:
            since = self._last_sign or now
            elapsed = min(now - since, LONGEST_ABSENCE)
        active = renewals.number_active(connection, authority)
        # In a span that came of a bulk run, the forecast's mean may be meant twice.
        expected = 2 * self._forecast.mean(connection, authority, now) * max(elapsed / HOUR, 0.0)
        threshold = storm_threshold(active, expected)
        became_due = renewals.number_due(connection, authority, since, now)
        if became_due > threshold:
            return f"{became_due} of {active} certificates became due for renewal at once", became_due
        urgent = renewals.number_urgent(connection, authority, now)
        if urgent > threshold:
            return f"the renewal of {urgent} of {active} certificates is urgent all at once", urgent
        return None


_JUMPED = "the clock jumped, and the authority has not confirmed it since"


def _name(authority: str) -> str:
    return f"renewals:{authority}"
