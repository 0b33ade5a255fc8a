# SPDX-License-Identifier: GPL-3.0-or-later
"""What nobody waits for: opens renewals and joiners at the background's pace, and ends what has run out."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import BACKGROUND_CAUSES, Cause, Enrollment
from acme_milter.enrollment.state_machine import Expired, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.report.forecast import Forecast
from acme_milter.store import audit, budgets, certificates, enrollments, mailboxes, pauses, renewals
from acme_milter.store.database import Database
from acme_milter.store.renewals import Due, Place
from acme_milter.worker.clock_watch import ClockWatch
from acme_milter.worker.joiners import Joiners
from acme_milter.worker.renewer import AT_ONCE, open_renewal, plan
from acme_milter.worker.storm_guard import StormGuard

EVERY = timedelta(seconds=30)
WALK = timedelta(hours=1)
"""How often certificates without a row are looked for: older stores and imported ones have some."""

PAGES = 20
PAGE = 500
"""So many pages of that walk in one round, and so many certificates on a page."""


class Background:
    """One round every ``EVERY``. Any number of hosts may do it: what one has opened the others find opened."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Clock,
        watch: ClockWatch,
        forecast: Forecast,
        work_is_due: Callable[[], None],
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._watch = watch
        self._forecast = forecast
        self._work_is_due = work_is_due
        self._joiners = Joiners(config, database, clock)
        self._guard = StormGuard(clock=clock, database=database, watch=watch, forecast=forecast)
        self._walks_since: float | None = None
        self._walk: Place | None = None

    def round(self) -> None:
        """Raises what the store raises; whatever was not done is due at the next round."""
        self._end_pauses()
        self._adopt()
        self._joiners.look()
        opened = 0
        for authority in self._config().authorities:
            self._end_expired(authority)
            opened += self._joiners.open_some(authority, self._allowance(authority))
            if self._guard.lets_pass(authority):
                opened += self._open_urgent(authority)
                opened += self._open_due(authority, self._allowance(authority))
        if opened:
            self._work_is_due()

    def _allowance(self, authority: str) -> int:
        now = self._clock.now()
        with self._database.read() as connection:
            pace = self._forecast.pace(connection, authority, now)
            return pace - budgets.opened(connection, authority, BACKGROUND_CAUSES, now)

    def _open_due(self, authority: str, allowance: int) -> int:
        opened = 0
        while opened < allowance:
            with self._database.read() as connection:
                limit = min(allowance - opened, AT_ONCE)
                found = renewals.due(connection, authority, self._clock.now(), limit)
            if not found:
                break
            opened += self._open(found, Cause.RENEWAL)
        if opened:
            log_event(Event.RENEWAL_DUE, authority=authority, count=opened)
        return opened

    def _open_urgent(self, authority: str) -> int:
        """These pass the background's pace, not the authority's budgets."""
        opened = 0
        while True:
            with self._database.read() as connection:
                found = renewals.urgent(connection, authority, self._clock.now(), AT_ONCE)
            if not found:
                break
            opened += self._open(found, Cause.URGENT)
        if opened:
            log_event(Event.RENEWAL_DUE, level=logging.WARNING, authority=authority, count=opened, urgent=True)
        return opened

    def _open(self, found: Sequence[Due], cause: Cause) -> int:
        """Each of them moves its row on, whatever comes of it, so that the next look finds others."""
        config, now = self._config(), self._clock.now()
        with self._database.write() as connection:
            known = mailboxes.find_many(connection, [due.address.lower() for due in found])
            missing = {due.address for due in found if _is_missing(config, due.address, known)}
            return sum(open_renewal(connection, config, due, cause, missing, now) for due in found)

    def _end_pauses(self) -> None:
        now = self._clock.now()
        with self._database.read() as connection:
            if not pauses.any_ended(connection, now):
                return
        with self._database.write() as connection:
            ended = pauses.forget_ended(connection, now)
        for authority in ended:
            log_event(Event.AUTHORITY_RESUMED, authority=authority)
        self._work_is_due()

    def _end_expired(self, authority: str) -> None:
        """There is no way back from EXPIRED, so not by a clock that nobody has confirmed."""
        if not self._watch.is_confirmed(authority):
            return
        now = self._clock.now()
        with self._database.read() as connection:
            ids = renewals.ended(connection, authority, now, AT_ONCE)
        if not ids:
            return
        with self._database.write() as connection:
            ended = [one for one in (enrollments.get(connection, one_id) for one_id in ids) if one is not None]
            for enrollment in ended:
                after = advance(enrollment, Expired(), now)
                enrollments.save(connection, after)
                audit.record(
                    connection, Event.CERTIFICATE_EXPIRED, at=now, enrollment_id=after.id, address=after.address
                )
        _tell_expired(ended)

    def _adopt(self) -> None:
        """Give a row to certificates that have none, a few pages a round, once an hour the whole way."""
        passed = self._clock.monotonic()
        if self._walk is None and self._walks_since is not None and passed - self._walks_since < WALK.total_seconds():
            return
        if self._walk is None:
            self._walks_since = passed
        for _ in range(PAGES):
            with self._database.read() as connection:
                found, self._walk = renewals.without_row(connection, self._walk, PAGE)
            for start in range(0, len(found), AT_ONCE):
                config, now = self._config(), self._clock.now()
                with self._database.write() as connection:
                    for certificate_id in found[start : start + AT_ONCE]:
                        plan(connection, config, certificates.get(connection, certificate_id), now)
            if self._walk is None:
                return


def _is_missing(config: Config, address: str, known: dict[str, mailboxes.StoredMailbox]) -> bool:
    row, member = known.get(address.lower()), config.member(address)
    listed = member is not None and member.source == "list"
    return row is not None and row.missing_since is not None and not listed


def _tell_expired(ended: Sequence[Enrollment]) -> None:
    for enrollment in ended:
        log_event(
            Event.CERTIFICATE_EXPIRED,
            level=logging.WARNING,
            rcpt=enrollment.address,
            authority=enrollment.authority,
            order=enrollment.id,
        )
