# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a bulk run's enrollments, and what follows for the certificates that were replaced."""

from collections.abc import Callable
from datetime import datetime

import sqlalchemy as sa

from acme_milter.certificate.usage import KeyUsageKind
from acme_milter.enrollment.model import Enrollment, State
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
        """Of two certificates the item waits for both, and has failed when either has."""
        now, item = self._clock(), ended.item
        orders = _orders_of(connection, run, item)
        going_on = next((one for one in orders if one.is_open), None)
        broken = next((one for one in orders if _has_failed(one)), None)
        if going_on is not None and not (ended.state is State.FAILED and ended.successor_id == going_on.id):
            bulk_items.set_outcome(connection, item, Outcome.OPEN, now=now, enrollment_id=going_on.id)
        elif ended.state is State.FAILED and ended.successor_id is not None:
            bulk_items.set_outcome(
                connection, item, Outcome.RETRYING, now=now, reason=ended.last_error, enrollment_id=ended.successor_id
            )
        elif ended.state in {State.FAILED, State.CANCELLED}:
            reason = ended.last_error or ended.state.value
            bulk_items.set_outcome(connection, item, Outcome.FAILED, now=now, reason=reason)
            self.revoke_superseded(connection, run, item)
        elif broken is not None:
            bulk_items.set_outcome(connection, item, Outcome.FAILED, now=now, reason=broken.last_error)
            self.revoke_superseded(connection, run, item)
        elif bulk_items.set_outcome(connection, item, Outcome.ACTIVE, now=now):
            for certificate_id in _replaced(item):
                self._put_away(connection, run, certificate_id)

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
        for certificate_id in _replaced(item) if run.revoke_reason is not None else ():
            old = certificates.find(connection, certificate_id)
            if old is None or old.address != item.address or run.revoke_reason is None:
                continue
            enrollment = enrollments.get(connection, old.enrollment_id)
            if enrollment is not None and enrollment.state is State.SUPERSEDED:
                revocations.ask(connection, old, run.revoke_reason, self._clock(), f"bulk run {run.id}")


def _replaced(item: BulkItem) -> list[str]:
    return [one for one in (item.replaces_id, item.also_replaces_id) if one is not None]


def _orders_of(connection: sa.Connection, run: BulkRun, item: BulkItem) -> list[Enrollment]:
    """The run's newest order of each kind for the mailbox; where one certificate does both, there is nothing to ask."""
    if item.enrollment_id is None:
        return []
    waited_for = enrollments.get(connection, item.enrollment_id)
    if waited_for is None or waited_for.usage is KeyUsageKind.DUAL:
        return []
    newest: dict[KeyUsageKind, Enrollment] = {}
    for one in enrollments.of_mailbox(connection, item.address):
        if one.bulk_run_id == run.id:
            newest.setdefault(one.usage, one)
    return list(newest.values())


def _has_failed(enrollment: Enrollment) -> bool:
    return enrollment.state in {State.FAILED, State.CANCELLED} and enrollment.successor_id is None
