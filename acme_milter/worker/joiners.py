# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens an enrollment for each mailbox that a source has brought after the first day, and again when it was in vain.

Whoever keeps the source often lists a person before anybody makes the mailbox: to Postfix it is unknown, its order ends
at once, and a day later it is there.
"""

import itertools
from collections.abc import Callable
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.clock import Clock
from acme_milter.config.schema import Config
from acme_milter.enrollment.kinds import in_use, opening_of, usages_of
from acme_milter.enrollment.model import Cause
from acme_milter.eventlog import Event, log_event
from acme_milter.mailboxes.record import ONCE_ASKED_FOR, CameAs
from acme_milter.store import audit, enrollments, joiners
from acme_milter.store.database import Database
from acme_milter.worker.choice import Choosing, Standings, choose, open_elsewhere
from acme_milter.worker.renewer import AT_ONCE

RECENT = timedelta(days=2)
LOOK_AT_ALL = timedelta(hours=1)
"""How often all joiners are looked at, not only the recent ones: a policy may have changed, or a guard let some in."""

KNOWN_EVERYWHERE = timedelta(seconds=2)
"""Until every milter has taken in a new mailbox: to one that has not, its challenge mail is ordinary mail."""


class Joiners:
    """Remembers who waits, so that a round costs what there is to do."""

    def __init__(
        self, config: Callable[[], Config], database: Database, clock: Clock, choosing: Choosing | None = None
    ) -> None:
        self._choosing = choosing or Choosing(config)
        self._config = config
        self._database = database
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._looked_at_all: float | None = None

    def look(self) -> None:
        """Find out who waits."""
        passed = self._clock.monotonic()
        everybody = self._looked_at_all is None or passed - self._looked_at_all >= LOOK_AT_ALL.total_seconds()
        since = None if everybody else self._clock.now() - RECENT
        with self._database.read() as connection:
            found = joiners.unserved(connection, came_as=CameAs.JOINER, since=since)
            if everybody:
                found += joiners.failed(
                    connection,
                    joiner=CameAs.JOINER,
                    others=ONCE_ASKED_FOR,
                    now=self._clock.now(),
                )
        if everybody:
            self._looked_at_all = passed
            self._waiting.clear()
        self._waiting |= dict.fromkeys(found)

    def open_some(self, authority: str, allowance: int) -> int:
        """Open up to ``allowance`` enrollments with the authority; returns how many."""
        config = self._config()
        if not self._waiting or allowance <= 0:
            return 0
        with self._database.read() as connection:
            standings = self._choosing.standings(connection, self._clock.now())
        theirs = (address for address in self._waiting if _is_for(config, address, authority, standings))
        chosen = list(itertools.islice(theirs, allowance))
        opened = 0
        for start in range(0, len(chosen), AT_ONCE):
            now = self._clock.now()
            with self._database.write() as connection:
                opened += sum(_open(connection, config, one, authority, now) for one in chosen[start : start + AT_ONCE])
        for address in chosen:
            del self._waiting[address]
        if opened:
            log_event(Event.ENROLLMENT_OPENED, authority=authority, count=opened, cause=Cause.JOINER)
        return opened


def _is_for(config: Config, address: str, authority: str, standings: Standings) -> bool:
    policy = config.policy_for(address)
    return (
        policy is not None
        and policy.mode == "enforce"
        and policy.joiners == "automatic"
        and authority in policy.authorities
        and choose(policy.authorities, standings).authority == authority
    )


def _waits(connection: sa.Connection, address: str, now: datetime) -> bool:
    return joiners.is_unserved(connection, address, CameAs.JOINER) or joiners.has_failed(
        connection, address, joiner=CameAs.JOINER, others=ONCE_ASKED_FOR, now=now
    )


def _open(connection: sa.Connection, config: Config, address: str, authority: str, now: datetime) -> bool:
    member = config.member(address)
    policy = config.policy_for(address)
    if member is None or policy is None or not _waits(connection, address, now):
        return False
    if open_elsewhere(connection, member.address, policy) is not None:
        return False
    held = in_use(enrollments.of_mailbox(connection, member.address), {member.principal})
    opening = opening_of(usages_of(policy.certificate.layout), held, again=True)
    assert opening is not None  # again
    try:
        opened = enrollments.open_new(
            connection,
            address=member.address,
            principal=member.principal,
            authority=authority,
            cause=Cause.JOINER,
            now=now,
            next_attempt_at=now + KNOWN_EVERYWHERE,
            usage=opening.usage,
        )
    except enrollments.AlreadyOpen:
        return False
    audit.record(
        connection,
        Event.ENROLLMENT_OPENED,
        at=now,
        enrollment_id=opened.id,
        address=member.address,
        details={"cause": Cause.JOINER},
    )
    return True
