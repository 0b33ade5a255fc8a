# SPDX-License-Identifier: GPL-3.0-or-later
"""Leasing an enrollment for its next step; what is to be ordered, only where there still is room for it."""

import dataclasses
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from acme_milter.enrollment.model import Enrollment, State
from acme_milter.store import enrollments
from acme_milter.store.database import Database
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

    def claim(self, enrollment_id: str) -> Enrollment | None:
        """The enrollment, leased; None when another one holds it, it is not due any more, or there is no room."""
        now = self.clock()
        with self.database.write() as connection:
            claimed = enrollments.claim(connection, enrollment_id, owner=self.owner, now=now, until=now + LEASE)
            if claimed is None:
                return None
            if claimed.state is State.ORDERING and claimed.order_url is None and claimed.attempts:
                return self._again(connection, claimed, now)
            if claimed.state is not State.PLANNED:
                return claimed
            if self.pacer.admits(connection, claimed.authority, claimed.cause, now):
                return claimed
            enrollments.release(connection, enrollment_id, owner=self.owner)
        return None

    def _again(self, connection: sa.Connection, claimed: Enrollment, now: datetime) -> Enrollment | None:
        """For one whose newOrder came to nothing and is to go out once more."""
        if not self.pacer.admits_again(connection, claimed, now):
            until = now + NO_ROOM * (1 + random.random())  # noqa: S311 spreads load, hides nothing
            enrollments.put_off(connection, claimed.id, owner=self.owner, until=until)
            return None
        if self.pacer.is_counted(claimed, now):
            return claimed
        enrollments.count_again(connection, claimed.id, now)
        return dataclasses.replace(claimed, counted_at=now)
