# SPDX-License-Identifier: GPL-3.0-or-later
"""What nobody waits for: opens renewals and joiners at the background's pace, and ends what has run out."""

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import BACKGROUND_CAUSES, Cause, Enrollment
from acme_milter.enrollment.state_machine import Expired, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.report.forecast import Forecast
from acme_milter.store import audit, budgets, enrollments, mailboxes, pauses, renewals
from acme_milter.store.database import Database
from acme_milter.store.renewals import Due
from acme_milter.worker.adoption import Adoption
from acme_milter.worker.choice import Choosing
from acme_milter.worker.clock_watch import ClockWatch
from acme_milter.worker.joiners import Joiners
from acme_milter.worker.mending import Mending
from acme_milter.worker.renewer import AT_ONCE, open_renewal, put_off_hindered
from acme_milter.worker.storm_guard import StormGuard

EVERY = timedelta(seconds=30)
SIFTED = 2000
"""So many of a crowd are looked at, whether they would be opened at all, before the guard calls it one."""


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
        choosing: Choosing | None = None,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._watch = watch
        self._forecast = forecast
        self._work_is_due = work_is_due
        self._adoption = Adoption(config, database, clock)
        self._mending = Mending(database, clock, watch)
        self._choosing = choosing or Choosing(config)
        self._joiners = Joiners(config, database, clock, self._choosing)
        self._guard = StormGuard(
            clock=clock, database=database, watch=watch, forecast=forecast, sift=self._put_off_hindered
        )

    def round(self) -> None:
        """Raises what the store raises; whatever was not done is due at the next round."""
        self._end_pauses()
        self._adoption.look()
        self._joiners.look()
        opened = 0
        authorities = self._config().authorities
        self._end_expired(authorities)
        for authority in authorities:
            self._mending.look(authority)
            # One that is broken says nothing of the clock; any other one's word is as good.
            if not self._watch.is_heard(authority) and not any(map(self._watch.is_confirmed, authorities)):
                continue  # what is opened, or put off, by a clock that is years ahead is not looked at for years
            opened += self._joiners.open_some(authority, self._allowance(authority))
            if self._guard.lets_pass(authority):
                opened += self._open_urgent(authority)
                opened += self._open_due(authority)
        if opened:
            self._work_is_due()

    def _allowance(self, authority: str) -> int:
        with self._database.read() as connection:
            return self._left(connection, authority)

    def _left(self, connection: sa.Connection, authority: str) -> int:
        now = self._clock.now()
        pace = self._forecast.pace(connection, authority, now)
        return pace - budgets.opened(connection, authority, BACKGROUND_CAUSES, now)

    def _open_due(self, authority: str) -> int:
        opened = 0
        while (left := self._allowance(authority)) > 0:
            with self._database.read() as connection:
                found = renewals.due(connection, authority, self._clock.now(), min(left, AT_ONCE))
            if not found:
                break
            opened += self._open(authority, found, Cause.RENEWAL)
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
            opened += self._open(authority, found, Cause.URGENT)
        if opened:
            log_event(Event.RENEWAL_DUE, level=logging.WARNING, authority=authority, count=opened, urgent=True)
        return opened

    def _open(self, authority: str, found: Sequence[Due], cause: Cause) -> int:
        """Each of them moves its row on, whatever comes of it, so that the next look finds others."""
        config, now = self._config(), self._clock.now()
        with self._database.write() as connection:
            if cause in BACKGROUND_CAUSES:
                # Counted where it is used: another host may be opening just now, too.
                budgets.take_turns(connection, authority)
                found = found[: max(self._left(connection, authority), 0)]
            missing = _missing(connection, config, found)
            return sum(open_renewal(connection, config, due, cause, missing, now, self._choosing) for due in found)

    def _put_off_hindered(self, authority: str) -> None:
        config, now = self._config(), self._clock.now()
        with self._database.read() as connection:
            found = renewals.due(connection, authority, now, SIFTED)
        for start in range(0, len(found), AT_ONCE):
            some = found[start : start + AT_ONCE]
            with self._database.write() as connection:
                missing = _missing(connection, config, some)
                for due in some:
                    put_off_hindered(connection, config, due, missing, now)

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

    def _end_expired(self, configured: Collection[str]) -> None:
        """There is no way back from EXPIRED, so not by a clock that nobody has confirmed.

        Each authority's by its own word; what came from elsewhere, and what is left of one that is gone, by any's.
        """
        confirmed = [name for name in configured if self._watch.is_confirmed(name)]
        if not confirmed:
            return
        now = self._clock.now()
        with self._database.read() as connection:
            ids = renewals.ended(connection, now, AT_ONCE, unless_of=set(configured) - set(confirmed))
        if not ids:
            return
        with self._database.write() as connection:
            ended = [one for one in (enrollments.get(connection, one_id) for one_id in ids) if one is not None]
            for enrollment in ended:
                after = advance(enrollment, Expired(), now)
                enrollments.save(connection, after)
                if after.certificate_id is not None:  # RFC 9773 §4.3: it is renewed still, but not asked about
                    renewals.ask_again(connection, after.certificate_id, None)
                audit.record(
                    connection, Event.CERTIFICATE_EXPIRED, at=now, enrollment_id=after.id, address=after.address
                )
        _tell_expired(ended)


def _missing(connection: sa.Connection, config: Config, found: Sequence[Due]) -> set[str]:
    known = mailboxes.find_many(connection, [due.address.lower() for due in found])
    return {due.address for due in found if _is_missing(config, due.address, known)}


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
