# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a bulk run's enrollments, and what follows for the certificates that were replaced."""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from acme_milter.enrollment.model import State
from acme_milter.enrollment.state_machine import Superseded, advance
from acme_milter.store import bulk_items, bulk_runs, certificates, enrollments, revocations
from acme_milter.store.bulk_items import BulkItem, Ended, Outcome
from acme_milter.store.bulk_runs import BulkRun
from acme_milter.store.database import Database

AT_ONCE = 100
"""Items in one transaction: a challenge mail's commit must not wait longer than a fraction of a second."""


class BulkSettler:
    """Holds no state of its own."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def settle(self) -> None:
        """Give every item whose enrollment has ended its outcome."""
        while True:
            with self._database.read() as connection:
                ended = bulk_items.with_ended_enrollment(connection, AT_ONCE)
            if not ended:
                return
            with self._database.write() as connection:
                for one in ended:
                    run = bulk_runs.get(connection, one.item.run_id)
                    assert run is not None
                    self._settle_one(connection, run, one)
            if len(ended) < AT_ONCE:
                return

    def _settle_one(self, connection: sa.Connection, run: BulkRun, ended: Ended) -> None:
        now, item = self._clock(), ended.item
        if ended.state is State.FAILED and ended.successor_id is not None:
            bulk_items.set_outcome(
                connection, item, Outcome.RETRYING, now=now, reason=ended.last_error, enrollment_id=ended.successor_id
            )
        elif ended.state in {State.FAILED, State.CANCELLED}:
            reason = ended.last_error or ended.state.value
            bulk_items.set_outcome(connection, item, Outcome.FAILED, now=now, reason=reason)
        elif bulk_items.set_outcome(connection, item, Outcome.ACTIVE, now=now) and item.replaces_id is not None:
            self._put_away(connection, run, item.replaces_id)

    def _put_away(self, connection: sa.Connection, run: BulkRun, certificate_id: str) -> None:
        """What was replaced is superseded, by whichever authority it was; then, and never before, revoked."""
        now = self._clock()
        old = certificates.get(connection, certificate_id)
        enrollment = enrollments.get(connection, old.enrollment_id)
        if enrollment is not None and enrollment.state is State.ACTIVE:
            enrollments.save(connection, advance(enrollment, Superseded(), now))
        if run.revoke_reason is not None:
            revocations.ask(connection, old, run.revoke_reason, now, f"bulk run {run.id}")

    def revoke_superseded(self, connection: sa.Connection, run: BulkRun, item: BulkItem) -> None:
        """A renewal may have come first: the old certificate is to be revoked all the same.

        Nobody has compared the plan with the store yet: it may be another store's, or name a certificate of others.
        """
        if run.revoke_reason is None or item.replaces_id is None:
            return
        old = certificates.find(connection, item.replaces_id)
        if old is None or old.address != item.address:
            return
        enrollment = enrollments.get(connection, old.enrollment_id)
        if enrollment is not None and enrollment.state is State.SUPERSEDED:
            revocations.ask(connection, old, run.revoke_reason, self._clock(), f"bulk run {run.id}")
