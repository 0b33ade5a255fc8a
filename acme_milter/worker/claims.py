# SPDX-License-Identifier: GPL-3.0-or-later
"""Leasing an enrollment for its next step; what is to be ordered, only where it belongs and there still is room."""

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.enrollment.model import BACKGROUND_CAUSES, Enrollment, State
from acme_milter.store import enrollments
from acme_milter.store.database import Database
from acme_milter.worker.choice import Choosing, is_movable
from acme_milter.worker.failover import follow, tell_moved
from acme_milter.worker.pacer import Pacer

LEASE = timedelta(minutes=5)

NO_ROOM = timedelta(minutes=5)
"""Pause, at least, of an order that may not be asked for again yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """Room is asked for in the transaction that takes the lease, so that no two workers see the same place as free."""

    owner: str
    database: Database
    pacer: Pacer
    clock: Callable[[], datetime]
    choosing: Choosing

    def claim(self, enrollment_id: str) -> Enrollment | None:
        """The enrollment, leased; None when another one holds it, it is not due any more, or there is no room.

        One that belongs to another authority by now is moved there instead, and its turn comes there.
        """
        now = self.clock()
        with self.database.write() as connection:
            claimed = enrollments.claim(connection, enrollment_id, owner=self.owner, now=now, until=now + LEASE)
            if claimed is None:
                return None
            moved = None
            if is_movable(claimed):
                moved = follow(connection, claimed, self.choosing, now, self._may_try(connection, claimed, now))
            if moved is None:
                return self._where_it_is(connection, claimed, now)
        tell_moved(claimed, moved)
        return None

    def _where_it_is(self, connection: sa.Connection, claimed: Enrollment, now: datetime) -> Enrollment | None:
        if claimed.state is State.ORDERING and claimed.order_url is None and claimed.attempts:
            return self._again(connection, claimed, now)
        if claimed.state is not State.PLANNED:
            return claimed
        if self.choosing.waits(connection, claimed, now):
            self._put_off(connection, claimed, now)
        elif self.pacer.admits(connection, claimed.authority, claimed.cause, now):
            return claimed
        else:
            enrollments.release(connection, claimed.id, owner=self.owner)
        return None

    def _may_try(self, connection: sa.Connection, claimed: Enrollment, now: datetime) -> Callable[[str], bool]:
        """Whether an authority that may have healed has a place for this one to find out."""

        def may_try(authority: str) -> bool:
            room = self.pacer.room(connection, authority, now)
            wanted = 0 if authority == claimed.authority else 1  # it has its own place there already
            background = claimed.cause not in BACKGROUND_CAUSES or room.background >= wanted
            return room.places >= wanted and background

        return may_try

    def _put_off(self, connection: sa.Connection, claimed: Enrollment, now: datetime) -> None:
        until = now + NO_ROOM * (1 + random.random())  # noqa: S311 spreads load, hides nothing
        enrollments.put_off(connection, claimed.id, owner=self.owner, until=until)

    def _again(self, connection: sa.Connection, claimed: Enrollment, now: datetime) -> Enrollment | None:
        """For one whose newOrder came to nothing and is to go out once more."""
        if not self.pacer.admits_again(connection, claimed, now):
            self._put_off(connection, claimed, now)
            return None
        if self.pacer.is_counted(claimed, now):
            return claimed
        enrollments.count_again(connection, claimed.id, now)
        return dataclasses.replace(claimed, counted_at=now)
