# SPDX-License-Identifier: GPL-3.0-or-later
"""Failover: has enrollments whose order is not placed follow the choice of their authority, there and back again.

What must hold, whatever breaks:

- One wish, one order: a mailbox never has two open enrollments because of this. What moves is the enrollment itself, in
  place, and only while no order of it is known. It never moves where its mailbox has another one open.
- Nothing is lost at any kill point: a move, its audit record and, for a trial, the authority's row are one transaction.
  Before it the enrollment is with the one authority, after it with the other, and whoever starts next goes on there.
- Nobody is moved twice at once: what is leased is left alone, and a move changes the version that a step is saved by.
- What is under way goes on where it was placed, until its own deadlines. Only its successor is chosen anew.
- newOrder may have gone out to a broken authority without an answer. Such an order comes to nothing: nobody answers its
  challenge mail or finalizes it. The mail is then no order's of ours, and is delivered (K5).
- An authority that has healed gets back what has not begun elsewhere, and new orders. Certificates that another one has
  issued stay until their own renewal. `replaces` (RFC 9773) names a certificate to its own issuer only.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.enrollment.model import Enrollment, State
from acme_milter.enrollment.state_machine import Moved, advance
from acme_milter.eventlog import Event, log_event
from acme_milter.store import audit, authority_health, enrollments, mailbox_keys, movable
from acme_milter.store.database import Database
from acme_milter.worker.breaker import on_trial
from acme_milter.worker.choice import Choice, Choosing, Standings

EVERY = timedelta(seconds=5)
LOOK_AT_ALL = timedelta(minutes=5)
"""How often all are looked at although no authority has changed: some were leased the last time."""

AT_ONCE = 100
"""Enrollments in one transaction: a challenge mail's commit must not wait longer than a fraction of a second."""


def move(connection: sa.Connection, enrollment: Enrollment, choice: Choice, now: datetime) -> Enrollment:
    """Have the enrollment ordered from another authority, and end its lease. Raises StaleVersion."""
    # What it was put off for was the other authority's doing; a newcomer waits until every milter knows it.
    fresh = enrollment.state is State.PLANNED and enrollment.attempts == 0 and enrollment.generation == 1
    due = enrollment.next_attempt_at if fresh else now
    brought = _brought_key(connection, enrollment)
    after = advance(enrollment, Moved(authority=choice.authority, key_id=brought, next_attempt_at=due), now)
    enrollments.save(connection, after)
    details = {"from": enrollment.authority, "to": choice.authority, "why": choice.instead_of or "it can be used again"}
    audit.record(
        connection, Event.ENROLLMENT_MOVED, at=now, enrollment_id=after.id, address=after.address, details=details
    )
    return after


def _brought_key(connection: sa.Connection, enrollment: Enrollment) -> str | None:
    """The key of a request that the mailbox has brought (custody: csr): nobody is asked for it twice."""
    if enrollment.key_id is None or enrollment.state is State.PLANNED:
        return enrollment.key_id
    return None if mailbox_keys.get(connection, enrollment.key_id).sealed_key else enrollment.key_id


def tell_moved(enrollment: Enrollment, choice: Choice) -> None:
    """One line for each: which authority a mailbox's certificate comes from is nobody's secret."""
    log_event(
        Event.ENROLLMENT_MOVED,
        rcpt=enrollment.address,
        order=enrollment.id,
        authority=choice.authority,
        instead_of=enrollment.authority,
        reason=choice.instead_of,
    )


def follow(
    connection: sa.Connection, enrollment: Enrollment, choosing: Choosing, now: datetime, may_try: Callable[[str], bool]
) -> Choice | None:
    """For one that is leased and about to begin: move it where it belongs. None: it stays, and may begin.

    ``may_try``: whether an authority has room for the one that tries it.
    """
    choice = choosing.next_of(connection, enrollment, now, may_try=may_try)
    if choice.trial:
        known = authority_health.get(connection, choice.authority)
        authority_health.put(connection, on_trial(known, enrollment.id, now))
    if choice.authority == enrollment.authority:
        return None
    move(connection, enrollment, choice, now)
    return choice


class Failover:
    """``look`` is one round; any number of hosts may do it. ``work_is_due`` is called when something was moved."""

    def __init__(
        self,
        *,
        config: Callable[[], Config],
        database: Database,
        clock: Clock,
        choosing: Choosing,
        work_is_due: Callable[[], None],
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._choosing = choosing
        self._work_is_due = work_is_due
        self._seen: tuple[Config, frozenset[tuple[str, bool]]] | None = None
        self._looks_again = 0.0

    def look(self) -> None:
        """Move what belongs elsewhere since an authority broke, was paused, or has healed."""
        config = self._config()
        if len(config.authorities) < 2:
            return
        with self._database.read() as connection:
            standings = self._choosing.standings(connection, self._clock.now())
        seen = config, frozenset((name, one.is_usable()) for name, one in standings.items())
        passed = self._clock.monotonic()
        known = self._seen is not None and self._seen[0] is config and self._seen[1] == seen[1]
        if known and passed < self._looks_again:
            return
        moved = sum(self._move_from(name, standings) for name in standings)
        self._seen, self._looks_again = seen, passed + LOOK_AT_ALL.total_seconds()
        if moved:
            self._work_is_due()

    def _move_from(self, authority: str, standings: Standings) -> int:
        moved, after = 0, ""
        while True:
            now = self._clock.now()
            with self._database.read() as connection:
                found = movable.page(connection, authority, after=after, now=now, limit=AT_ONCE)
                going = [
                    one.id
                    for one in found
                    if self._choosing.next_of(connection, one, now, standings=standings).authority != authority
                ]
            if going:
                moved += self._move(going)
            if len(found) < AT_ONCE:
                return moved
            after = found[-1].id

    def _move(self, ids: list[str]) -> int:
        """By the facts of this transaction: much may have happened since they were found."""
        moved: list[tuple[Enrollment, Choice]] = []
        now = self._clock.now()
        with self._database.write() as connection:
            standings = self._choosing.standings(connection, now)
            for one in ids:
                enrollment = movable.again(connection, one, now)
                if enrollment is None:
                    continue
                choice = self._choosing.next_of(connection, enrollment, now, standings=standings)
                if choice.authority != enrollment.authority:
                    move(connection, enrollment, choice, now)
                    moved.append((enrollment, choice))
        for enrollment, choice in moved:
            tell_moved(enrollment, choice)
        return len(moved)
